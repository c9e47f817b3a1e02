// SPDX-License-Identifier: Apache-2.0

// A caller in Go: makes an account, gives it credits, stores a key, streams a text on that key,
// reads a typed failure, and repeats a request safely.
//
//	build/examples/go/example < file-with-the-secret
//
// It speaks plain text, which the services allow on loopback only. In production pass
// credentials.NewTLS with the certificate of an identity of the policy, and dial
// dns:///router:7102 with the round_robin policy.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	keyvault "ownkey/example/stubs/ownkey/keyvault/v1"
	ledger "ownkey/example/stubs/ownkey/ledger/v1"
	router "ownkey/example/stubs/ownkey/router/v1"
)

const (
	callSeconds   = 20
	triesMax      = 4
	waitDefault   = 200 * time.Millisecond
	nanoPerCredit = 1_000_000_000
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), callSeconds*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		failure := read(err)
		fmt.Fprintf(os.Stderr, "%s: %s\n", failure.reason, failure.message)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	secret, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	keys := keyvault.NewKeyvaultServiceClient(dial("OWNKEY_KEYVAULT", "127.0.0.1:7101"))
	models := router.NewRouterServiceClient(dial("OWNKEY_ROUTER", "127.0.0.1:7102"))
	credits := ledger.NewLedgerServiceClient(dial("OWNKEY_LEDGER", "127.0.0.1:7103"))

	account, err := openAccount(ctx, credits)
	if err != nil {
		return err
	}
	if err := storeKey(ctx, keys, account, secret); err != nil {
		return err
	}
	return generate(ctx, models, account)
}

// openAccount makes an account whose own keys come first, and gives it ten credits.
func openAccount(ctx context.Context, credits ledger.LedgerServiceClient) (string, error) {
	created, err := credits.CreateAccount(ctx, &ledger.CreateAccountRequest{
		RequestId:   uuid.NewString(),
		AccountId:   "go-" + uuid.NewString()[:8],
		Plan:        "plans/standard",
		BillingMode: ledger.BillingMode_BILLING_MODE_OWN_KEY_FIRST,
	})
	if err != nil {
		return "", err
	}
	account := created.Account.Name
	grant := &ledger.GrantCreditsRequest{
		RequestId:         uuid.NewString(),
		Account:           account,
		Kind:              ledger.GrantKind_GRANT_KIND_PURCHASED,
		AmountNanoCredits: 10 * nanoPerCredit,
	}
	// Sent twice under one id, as after a lost answer: it is granted once.
	for range 2 {
		if _, err := retried(ctx, func() (*ledger.GrantCreditsResponse, error) {
			return credits.GrantCredits(ctx, grant)
		}); err != nil {
			return "", err
		}
	}
	balance, err := credits.GetBalance(ctx, &ledger.GetBalanceRequest{Account: account})
	if err != nil {
		return "", err
	}
	fmt.Printf("account %s has %d credits\n", account, balance.Balance.AvailableNanoCredits/nanoPerCredit)
	return account, nil
}

// storeKey first pastes a key of another provider, to show a typed failure, then the right one.
func storeKey(ctx context.Context, keys keyvault.KeyvaultServiceClient, account, secret string) error {
	request := &keyvault.CreateKeyRequest{
		Parent:    account,
		Key:       &keyvault.Key{Provider: "openai", Label: "from Go"},
		Secret:    "sk-or-v1-" + strings.Repeat("0", 64),
		RequestId: uuid.NewString(),
	}
	_, err := keys.CreateKey(ctx, request)
	failure := read(err)
	if failure.reason != "SECRET_MALFORMED" {
		return fmt.Errorf("the wrong key was not refused as expected: %w", err)
	}
	fmt.Printf("refused %s, looks like %s\n", failure.reason, failure.metadata["looks_like"])

	request.Secret, request.RequestId = secret, uuid.NewString()
	stored, err := retried(ctx, func() (*keyvault.CreateKeyResponse, error) {
		return keys.CreateKey(ctx, request)
	})
	if err != nil {
		return err
	}
	fmt.Printf("stored %s\n", stored.Key.Hint)
	return nil
}

// generate streams a text. Without a `finish` the stream did not end well, whatever came before.
func generate(ctx context.Context, models router.RouterServiceClient, account string) error {
	tokens := int32(64)
	question := &router.Part{Content: &router.Part_Text{Text: "What is a data key?"}}
	stream, err := models.StreamText(ctx, &router.StreamTextRequest{
		Account:   account,
		RequestId: uuid.NewString(),
		Model:     "openai/gpt-4o-mini",
		Input: &router.TextInput{
			Messages:        []*router.Message{{Role: router.Role_ROLE_USER, Parts: []*router.Part{question}}},
			MaxOutputTokens: &tokens,
		},
	})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch event := answer.Event.(type) {
		case *router.StreamTextResponse_Start:
			fmt.Printf("paid by %s at %s\n", event.Start.Payer, event.Start.Provider)
		case *router.StreamTextResponse_TextDelta:
			fmt.Print(event.TextDelta)
		case *router.StreamTextResponse_Finish:
			fmt.Printf("\nfinished %s\n", event.Finish.FinishReason)
		}
	}
}

type failure struct {
	code     codes.Code
	reason   string
	message  string
	metadata map[string]string
	wait     time.Duration
}

// read takes a failure apart: one ErrorInfo for programs, RetryInfo where waiting helps, and a
// sentence for people. Without an ErrorInfo the service itself did not answer.
func read(err error) failure {
	told, _ := status.FromError(err)
	found := failure{code: told.Code(), reason: told.Code().String(), message: told.Message()}
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			found.reason, found.metadata = detail.Reason, detail.Metadata
		case *errdetails.RetryInfo:
			found.wait = detail.RetryDelay.AsDuration()
		}
	}
	return found
}

// retried repeats a call that may be repeated under its request_id, which finds the first outcome
// if there is one.
func retried[T any](ctx context.Context, call func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		answer, err := call()
		failed := read(err)
		passing := failed.code == codes.Unavailable || failed.code == codes.ResourceExhausted
		if err == nil || !passing || try == triesMax {
			return answer, err
		}
		wait := max(failed.wait, waitDefault*time.Duration(try))
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(wait):
		}
	}
}

func dial(variable, usual string) *grpc.ClientConn {
	address := os.Getenv(variable)
	if address == "" {
		address = usual
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return connection
}
