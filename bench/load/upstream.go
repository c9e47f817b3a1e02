// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

const (
	requestBytesMax = 4 << 20
	defaultChunks   = 50
)

// A prompt says how its stream is to come: `chunks=50 pause=20ms`. Every gateway passes that on.
var (
	chunksAsked = regexp.MustCompile(`chunks=(\d{1,5})`)
	pauseAsked  = regexp.MustCompile(`pause=(\d{1,5}ms)`)
)

// The shapes of https://platform.openai.com/docs/api-reference/chat.
const (
	wholeAnswer = `{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,` +
		`"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant",` +
		`"content":"A flash card asks on one side and answers on the other: what is asked again ` +
		`after a growing pause is remembered longest, with the least work for each card.",` +
		`"refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":24,` +
		`"completion_tokens":34,"total_tokens":58,"prompt_tokens_details":{"cached_tokens":0},` +
		`"completion_tokens_details":{"reasoning_tokens":0}},"system_fingerprint":"fp_1"}`
	chunkHead = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,` +
		`"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"content":"`
	chunkTail = `"},"logprobs":null,"finish_reason":null}]}` + "\n\n"
	lastChunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,` +
		`"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{},"logprobs":null,` +
		`"finish_reason":"stop"}]}` + "\n\n"
	usageChunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,` +
		`"model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":24,` +
		`"completion_tokens":100,"total_tokens":124}}` + "\n\n"
	doneMark = "data: [DONE]\n\n"
	models   = `{"object":"list","data":[{"id":"gpt-4o-mini","object":"model","owned_by":"openai"}]}`
)

// serve answers as OpenAI does, at once or with pauses, until it is stopped.
func serve(listen, certificate, key string) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(answer)}
	fmt.Println(listener.Addr())
	if certificate != "" {
		// HTTP/1.1 only, as the router speaks it.
		server.TLSNextProto = noHTTP2
		return server.ServeTLS(listener, certificate, key)
	}
	return server.Serve(listener)
}

func answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, requestBytesMax))
	if err != nil {
		return
	}
	switch {
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, models)
	case bytes.Contains(body, []byte(`"stream":true`)), bytes.Contains(body, []byte(`"stream": true`)):
		stream(w, body)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, wholeAnswer)
	}
}

// stream sends chunks that say when they were sent, in nanoseconds since 1970: `t=1760000000…`.
func stream(w http.ResponseWriter, body []byte) {
	chunks, pause := defaultChunks, time.Duration(0)
	if found := chunksAsked.FindSubmatch(body); found != nil {
		chunks, _ = strconv.Atoi(string(found[1]))
	}
	if found := pauseAsked.FindSubmatch(body); found != nil {
		pause, _ = time.ParseDuration(string(found[1]))
	}
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	begun := time.Now()
	for number := range chunks {
		if pause > 0 && number > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(number) * pause)))
		}
		text := fmt.Sprintf("%st=%d %s", chunkHead, time.Now().UnixNano(), chunkTail)
		if _, err := io.WriteString(w, text); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
	}
	_, _ = io.WriteString(w, lastChunk)
	if bytes.Contains(body, []byte("include_usage")) {
		_, _ = io.WriteString(w, usageChunk)
	}
	_, _ = io.WriteString(w, doneMark)
}
