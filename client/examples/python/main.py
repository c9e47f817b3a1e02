# SPDX-License-Identifier: Apache-2.0
"""
A caller in Python: makes an account, gives it credits, stores a key, streams a text on that key,
reads a typed failure, and repeats a request safely.

    python client/examples/python/main.py < file-with-the-secret

It speaks plain text, which the services allow on loopback only. In production open the channels
with `grpc.ssl_channel_credentials` and the certificate of an identity of the policy, to
`dns:///router:7102` with the round_robin policy.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2, keyvault_service_pb2_grpc
from ownkey.ledger.v1 import account_pb2, grant_pb2, ledger_service_pb2_grpc
from ownkey.router.v1 import attempt_pb2, router_service_pb2_grpc, text_pb2

CALL_SECONDS = 20
TRIES_MAX = 4
WAIT_SECONDS = 0.2
NANO_PER_CREDIT = 1_000_000_000
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


def read(error: grpc.RpcError) -> tuple[str, dict[str, str], float]:
    """Take a failure apart: its reason, metadata, and the seconds after which to try again."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it is a grpc.Call too
    for detail in status.details if status else ():
        for known in (info, retry):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
    # Without an ErrorInfo the service itself did not answer.
    reason = info.reason or error.code().name
    return reason, dict(info.metadata), retry.retry_delay.ToMilliseconds() / 1000


def retried(rpc: Callable[..., Any], request: Any) -> Any:
    """Repeat a call under its request_id, which finds the first outcome if there is one."""
    for attempt in range(1, TRIES_MAX + 1):
        try:
            return rpc(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            if error.code() not in PASSING or attempt == TRIES_MAX:
                raise
            _, _, seconds = read(error)
            time.sleep(max(seconds, WAIT_SECONDS * attempt))
    raise AssertionError


def open_account(ledger: Any) -> str:
    """Make an account whose own keys come first, and give it ten credits."""
    created = ledger.CreateAccount(
        account_pb2.CreateAccountRequest(
            request_id=str(uuid.uuid4()),
            account_id=f"python-{uuid.uuid4().hex[:8]}",
            plan="plans/standard",
            billing_mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST,
        ),
        timeout=CALL_SECONDS,
    )
    account: str = created.account.name
    grant = grant_pb2.GrantCreditsRequest(
        request_id=str(uuid.uuid4()),
        account=account,
        kind=grant_pb2.GRANT_KIND_PURCHASED,
        amount_nano_credits=10 * NANO_PER_CREDIT,
    )
    # Sent twice under one id, as after a lost answer: it is granted once.
    for _ in range(2):
        retried(ledger.GrantCredits, grant)
    request = grant_pb2.GetBalanceRequest(account=account)
    balance = ledger.GetBalance(request, timeout=CALL_SECONDS).balance
    print(f"account {account} has {balance.available_nano_credits // NANO_PER_CREDIT} credits")
    return account


def store_key(keyvault: Any, account: str, secret: str) -> None:
    """First paste a key of another provider, to show a typed failure, then store the right one."""
    request = keyvault_service_pb2.CreateKeyRequest(
        parent=account,
        key=key_pb2.Key(provider="openai", label="from Python"),
        secret="sk-or-v1-" + "0" * 64,
        request_id=str(uuid.uuid4()),
    )
    try:
        keyvault.CreateKey(request, timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        reason, metadata, _ = read(error)
        print(f"refused {reason}, looks like {metadata.get('looks_like')}")
    request.secret, request.request_id = secret, str(uuid.uuid4())
    print(f"stored {retried(keyvault.CreateKey, request).key.hint}")


def generate(router: Any, account: str) -> None:
    """Stream a text. Without a `finish` it did not end well, whatever came before."""
    question = text_pb2.Message(
        role=text_pb2.ROLE_USER, parts=[text_pb2.Part(text="What is a data key?")]
    )
    answers = router.StreamText(
        text_pb2.StreamTextRequest(
            account=account,
            request_id=str(uuid.uuid4()),
            model="openai/gpt-4o-mini",
            input=text_pb2.TextInput(messages=[question], max_output_tokens=64),
        ),
        timeout=CALL_SECONDS,
    )
    for answer in answers:
        event = answer.WhichOneof("event")
        if event == "start":
            payer = attempt_pb2.Funding.Name(answer.start.payer)
            print(f"paid by {payer} at {answer.start.provider}")
        elif event == "text_delta":
            print(answer.text_delta, end="", flush=True)
        elif event == "finish":
            print(f"\nfinished {text_pb2.FinishReason.Name(answer.finish.finish_reason)}")


def main() -> int:
    """Go the whole way."""

    def channel(variable: str, usual: str) -> grpc.Channel:
        return grpc.insecure_channel(os.environ.get(variable, usual))

    with (
        channel("OWNKEY_KEYVAULT", "127.0.0.1:7101") as keyvault,
        channel("OWNKEY_ROUTER", "127.0.0.1:7102") as router,
        channel("OWNKEY_LEDGER", "127.0.0.1:7103") as ledger,
    ):
        try:
            account = open_account(ledger_service_pb2_grpc.LedgerServiceStub(ledger))
            keys = keyvault_service_pb2_grpc.KeyvaultServiceStub(keyvault)
            store_key(keys, account, sys.stdin.read())
            generate(router_service_pb2_grpc.RouterServiceStub(router), account)
        except grpc.RpcError as error:
            print(f"{read(error)[0]}: {error.details()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
