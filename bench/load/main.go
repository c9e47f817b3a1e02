// SPDX-License-Identifier: Apache-2.0

// Command ownkey-bench-load is both ends of a gateway under test: the upstream that it calls, and
// the callers that call it. It is compiled so that neither end is what limits the figures.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: ownkey-bench-load upstream|http|grpc [flags]")
	}
	switch os.Args[1] {
	case "upstream":
		flags := flag.NewFlagSet("upstream", flag.ExitOnError)
		listen := flags.String("listen", "127.0.0.1:0", "address")
		certificate := flags.String("certificate", "", "PEM file; plain text without")
		key := flags.String("key", "", "PEM file of the certificate's key")
		_ = flags.Parse(os.Args[2:])
		if err := serve(*listen, *certificate, *key); err != nil {
			fail(err.Error())
		}
	case "http", "grpc":
		plan, makeCall := readPlan(os.Args[1], os.Args[2:])
		report := plan.run(makeCall)
		if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
			fail(err.Error())
		}
	default:
		fail("unknown command " + os.Args[1])
	}
}

// readPlan reads the command line of a load, and gives what makes one call of it.
func readPlan(protocol string, arguments []string) (*plan, caller) {
	flags := flag.NewFlagSet(protocol, flag.ExitOnError)
	p := &plan{}
	var target target
	flags.StringVar(&target.address, "address", "", "URL for http, host:port for grpc")
	flags.StringVar(&target.method, "method", "", "full gRPC method name")
	flags.StringVar(&target.template, "body", "", "file with the request's bytes")
	flags.StringVar(&target.headers, "headers", "{}", "JSON object of headers or metadata")
	flags.IntVar(&target.accounts, "accounts", 1, "accounts that the requests spread over")
	flags.IntVar(&target.channels, "channels", 1, "gRPC connections")
	flags.StringVar(&target.ca, "ca", "", "PEM authorities of a TLS server")
	flags.StringVar(&target.certificate, "certificate", "", "PEM certificate shown to it")
	flags.StringVar(&target.key, "key", "", "PEM key of the certificate")
	flags.BoolVar(&p.stream, "stream", false, "read streams")
	flags.IntVar(&p.callers, "callers", 32, "calls under way at the same time")
	flags.DurationVar(&p.warmUp, "warm-up", time.Second, "not counted")
	flags.DurationVar(&p.duration, "duration", 5*time.Second, "counted")
	flags.DurationVar(&p.stagger, "stagger", 0, "time over which the callers begin")
	flags.IntVar(&p.chunks, "chunks", 0, "chunks that every stream must bring, in order")
	_ = flags.Parse(arguments)
	make := newHTTPCaller
	if protocol == "grpc" {
		make = newGRPCCaller
	}
	call, err := make(target, p)
	if err != nil {
		fail(err.Error())
	}
	return p, call
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, "error: "+message)
	os.Exit(1)
}
