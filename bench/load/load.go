// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// target is what is called.
type target struct {
	address, method, template, headers string
	accounts, channels                 int
	ca, certificate, key               string
}

// plan is how it is called.
type plan struct {
	stream            bool
	callers, chunks   int
	warmUp, duration  time.Duration
	stagger           time.Duration
	counting, stopped time.Time
}

// caller makes one call and tells what came, and when.
type caller func(number int, arrived *arrivals) error

// arrivals is when the chunks of one call came.
type arrivals struct {
	first time.Time
	late  []time.Duration
	last  int64
}

// report is what is printed, in seconds.
type report struct {
	Calls       int            `json:"calls"`
	Failures    int            `json:"failures"`
	Failure     string         `json:"failure"`
	Seconds     float64        `json:"seconds"`
	PerSecond   float64        `json:"per_second"`
	Latency     quantiles      `json:"latency"`
	First       quantiles      `json:"first"`
	Late        quantiles      `json:"late"`
	ChunksTotal int            `json:"chunks"`
	Reasons     map[string]int `json:"reasons"`
}

type quantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Each chunk says when the upstream sent it.
var sentMark = regexp.MustCompile(`t=(\d{19})`)

// saw takes in bytes that have come: whichever chunks are in them.
func (a *arrivals) saw(data []byte) error {
	now := time.Now()
	for _, found := range sentMark.FindAllSubmatch(data, -1) {
		sent, err := strconv.ParseInt(string(found[1]), 10, 64)
		if err != nil {
			return err
		}
		if sent < a.last {
			return fmt.Errorf("chunks came in another order than they were sent")
		}
		a.last = sent
		if a.first.IsZero() {
			a.first = now
		}
		a.late = append(a.late, now.Sub(time.Unix(0, sent)))
	}
	return nil
}

// results gathers what one caller saw.
type results struct {
	latencies, firsts, late []time.Duration
	failures                map[string]int
}

// run calls until the time is up and gathers what came of it.
func (p *plan) run(call caller) report {
	started := time.Now()
	p.counting = started.Add(p.warmUp)
	p.stopped = p.counting.Add(p.duration)
	all := make([]results, p.callers)
	var group sync.WaitGroup
	for number := range p.callers {
		group.Add(1)
		go func() {
			defer group.Done()
			if p.stagger > 0 {
				time.Sleep(p.stagger * time.Duration(number) / time.Duration(p.callers))
			}
			p.repeat(number, call, &all[number])
		}()
	}
	group.Wait()
	return p.report(all)
}

func (p *plan) repeat(number int, call caller, into *results) {
	into.failures = map[string]int{}
	arrived := arrivals{}
	for {
		begun := time.Now()
		if !begun.Before(p.stopped) {
			return
		}
		arrived = arrivals{late: arrived.late[:0]}
		err := call(number, &arrived)
		if err == nil && p.chunks > 0 && len(arrived.late) != p.chunks {
			err = fmt.Errorf("%d chunks came, %d were sent", len(arrived.late), p.chunks)
		}
		ended := time.Now()
		if ended.Before(p.counting) || ended.After(p.stopped) {
			continue
		}
		if err != nil {
			into.failures[err.Error()]++
			continue
		}
		into.latencies = append(into.latencies, ended.Sub(begun))
		if p.stream {
			into.firsts = append(into.firsts, arrived.first.Sub(begun))
			into.late = append(into.late, arrived.late...)
		}
	}
}

func (p *plan) report(all []results) report {
	made := report{Seconds: p.duration.Seconds(), Reasons: map[string]int{}}
	var latencies, firsts, late []time.Duration
	for _, one := range all {
		latencies = append(latencies, one.latencies...)
		firsts = append(firsts, one.firsts...)
		late = append(late, one.late...)
		for reason, count := range one.failures {
			made.Failures += count
			made.Reasons[reason] += count
		}
	}
	made.Calls = len(latencies)
	made.PerSecond = float64(len(latencies)) / p.duration.Seconds()
	made.Latency, made.First, made.Late = quantilesOf(latencies), quantilesOf(firsts), quantilesOf(late)
	made.ChunksTotal = len(late)
	return made
}

func quantilesOf(values []time.Duration) quantiles {
	if len(values) == 0 {
		return quantiles{}
	}
	slices.Sort(values)
	at := func(share float64) float64 {
		return values[int(share*float64(len(values)-1))].Seconds()
	}
	return quantiles{P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}

// body makes the requests: a template with a request id and an account number of its own in each.
type body struct {
	template                 []byte
	accounts                 int
	requestIDAt, accountFrom []int
}

const (
	requestIDMark = "00000000-0000-4000-8000-000000000000"
	accountMark   = "bench-00000000"
)

func readBody(t target) (*body, error) {
	data, err := os.ReadFile(t.template)
	if err != nil {
		return nil, err
	}
	made := &body{template: data, accounts: t.accounts}
	made.requestIDAt = positions(data, requestIDMark)
	made.accountFrom = positions(data, accountMark)
	return made, nil
}

func positions(data []byte, mark string) []int {
	var found []int
	for from := 0; ; {
		at := bytes.Index(data[from:], []byte(mark))
		if at < 0 {
			return found
		}
		found = append(found, from+at)
		from += at + len(mark)
	}
}

func (b *body) next() []byte {
	if len(b.requestIDAt) == 0 && len(b.accountFrom) == 0 {
		return b.template
	}
	made := bytes.Clone(b.template)
	id := fmt.Sprintf("%08x-%04x-4000-8000-%012x", rand.Uint32(), rand.Uint32()&0xffff,
		rand.Uint64()&0xffffffffffff)
	for _, at := range b.requestIDAt {
		copy(made[at:], id)
	}
	account := fmt.Sprintf("bench-%08d", rand.IntN(b.accounts))
	for _, at := range b.accountFrom {
		copy(made[at:], account)
	}
	return made
}
