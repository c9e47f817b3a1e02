// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// rawCodec passes messages as the bytes they are: nothing is measured but the service.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(message any) ([]byte, error) {
	data, ok := message.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("not bytes: %T", message)
	}
	return *data, nil
}

func (rawCodec) Unmarshal(data []byte, message any) error {
	into, ok := message.(*[]byte)
	if !ok {
		return fmt.Errorf("not bytes: %T", message)
	}
	*into = append((*into)[:0], data...)
	return nil
}

// newGRPCCaller calls a method of a service, over as many connections as there are channels. The
// addresses of several replicas are parted by commas; callers take them in turn.
func newGRPCCaller(t target, p *plan) (caller, error) {
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
	trust := insecure.NewCredentials()
	if config != nil {
		trust = credentials.NewTLS(config)
	}
	channels, err := open(t, trust)
	if err != nil {
		return nil, err
	}
	background := metadata.NewOutgoingContext(context.Background(), metadata.New(headers))
	return func(number int, arrived *arrivals) error {
		channel, request := channels[number%len(channels)], requests.next()
		if p.stream {
			return readStream(background, channel, t.method, request, arrived)
		}
		var answer []byte
		return channel.Invoke(background, t.method, &request, &answer)
	}, nil
}

func readStream(
	ctx context.Context, channel *grpc.ClientConn, method string, request []byte, arrived *arrivals,
) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	stream, err := channel.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var message []byte
	for {
		err := stream.RecvMsg(&message)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := arrived.saw(message); err != nil {
			return err
		}
	}
}

func open(t target, trust credentials.TransportCredentials) ([]*grpc.ClientConn, error) {
	addresses := strings.Split(t.address, ",")
	channels := make([]*grpc.ClientConn, 0, t.channels*len(addresses))
	for range t.channels {
		for _, address := range addresses {
			channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(trust),
				grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
			if err != nil {
				return nil, err
			}
			channels = append(channels, channel)
		}
	}
	return channels, nil
}
