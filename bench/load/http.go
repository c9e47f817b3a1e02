// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

const statusTextMax = 200

var noHTTP2 = map[string]func(*http.Server, *tls.Conn, http.Handler){}

// newHTTPCaller calls a gateway that speaks OpenAI's chat completions, a connection for each caller.
func newHTTPCaller(t target, p *plan) (caller, error) {
	requests, err := readBody(t)
	if err != nil {
		return nil, err
	}
	headers := map[string]string{}
	if err := json.Unmarshal([]byte(t.headers), &headers); err != nil {
		return nil, err
	}
	config, err := tlsConfig(t)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: p.callers,
		TLSClientConfig:     config,
		DisableCompression:  true,
	}}
	return func(_ int, arrived *arrivals) error {
		request, err := http.NewRequest(http.MethodPost, t.address, bytes.NewReader(requests.next()))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		for name, value := range headers {
			request.Header.Set(name, value)
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(io.LimitReader(response.Body, statusTextMax))
			return fmt.Errorf("status %d: %s", response.StatusCode, text)
		}
		if !p.stream {
			_, err = io.Copy(io.Discard, response.Body)
			return err
		}
		return readLines(response.Body, arrived)
	}, nil
}

// readLines reads a stream of events; OpenAI's ends with `data: [DONE]`.
func readLines(from io.Reader, arrived *arrivals) error {
	reader, done := bufio.NewReader(from), false
	for {
		line, err := reader.ReadSlice('\n')
		if err == io.EOF && done {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the stream broke off: %w", err)
		}
		done = done || bytes.HasPrefix(line, []byte("data: [DONE]"))
		if err := arrived.saw(line); err != nil {
			return err
		}
	}
}

// tlsConfig gives what a TLS server is checked by and shown; nil for plain text.
func tlsConfig(t target) (*tls.Config, error) {
	if t.ca == "" {
		return nil, nil
	}
	authorities, err := os.ReadFile(t.ca)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	config.RootCAs.AppendCertsFromPEM(authorities)
	if t.certificate != "" {
		pair, err := tls.LoadX509KeyPair(t.certificate, t.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
