# SPDX-License-Identifier: Apache-2.0
"""
What end-to-end tests do again and again: accounts, keys, faults, generations, and their checks.

Every secret made here holds the word `canary` and is kept in `SECRETS`, so that what the suite
writes can be searched for all of them. Costs are predicted by the simulator's token rule
and the price in the receipt, never read back from what is to be proven.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2, live_test_pb2
from ownkey.ledger.v1 import account_pb2, authorization_pb2, grant_pb2, verification_pb2
from ownkey.router.v1 import attempt_pb2, router_service_pb2_grpc, text_pb2

from deploy.local.clients import Clients
from deploy.local.processes import Process, free_port, grpc_serving
from deploy.local.suite import Ports, Suite
from services.shared.channel import open_channel
from services.shared.ids import new_id
from services.shared.status import RichStatus, from_rpc_error
from simulator.tokens import answer_text, count_tokens

Authorization = authorization_pb2.Authorization

NANO = 1_000_000_000
GRANT_NANO_CREDITS = 1_000 * NANO
CALL_SECONDS_MAX = 20.0
"""Longer than any call of these tests takes, shorter than a test may."""
EVENTUALLY_SECONDS = 15.0
SLOW_SECONDS = 60.0
"""How long a slow key keeps one waiting, unless `release` lets it go on: longer than any test."""
PLATFORM = "accounts/platform"

# The plan `standard` of deploy/local/plans.yaml.
CREDIT_VALUE_NANO_USD = 10_000_000
MARKUP = Fraction(12, 10)

CREDITS = attempt_pb2.FUNDING_CREDITS
OWN_KEY = attempt_pb2.FUNDING_OWN_KEY

MODELS = {
    "openai": "openai/gpt-4o-mini",
    "openrouter": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "google/gemini-2.5-flash-lite",
}
"""A model that each provider serves."""
PROVIDER_MODELS = {
    "openai": "gpt-4o-mini",
    "openrouter": "openai/gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash-lite",
}
"""The same as the provider calls it."""
_PREFIXES = {
    "openai": "sk-proj-",
    "openrouter": "sk-or-v1-",
    "anthropic": "sk-ant-api03-",
    "gemini": "AIza",
    "stability": "sk-",
    "replicate": "r8_",
}

QUESTION = "In one sentence: what is a data key?"
MAX_OUTPUT_TOKENS = 64

SECRETS: list[str] = []
"""Every secret that was sent to a suite in this run."""


# ---- a suite


@contextmanager
def running_suite(folder: Path, **settings: Any) -> Iterator[Suite]:
    """
    A running suite on free ports, with a shared key at each provider.

    Without breakers: the faults of one test must not reach the next.
    """
    environ = dict(settings.pop("environ", {}))
    environ["router"] = {"BREAKER_FAILURES": "0", **environ.get("router", {})}
    ports = settings.pop("ports", None) or Ports.any_free()
    simulator = ("--slow-seconds", str(SLOW_SECONDS))
    kind = settings.pop("kind", Suite)
    with kind(folder, ports=ports, environ=environ, simulator=simulator, **settings) as suite:
        asyncio.run(_add_shared_keys(suite))
        yield suite


@asynccontextmanager
async def clients_of(suite: Suite) -> AsyncIterator[Clients]:
    """Stubs to a suite."""
    async with suite.clients() as clients:
        yield clients


async def _add_shared_keys(suite: Suite) -> None:
    async with clients_of(suite) as clients:
        for provider in (*MODELS, "stability"):
            secret = shared_secret(suite.addresses.simulator, provider)
            await clients.keyvault.CreateKey(
                keyvault_service_pb2.CreateKeyRequest(
                    parent=PLATFORM,
                    key=key_pb2.Key(provider=provider, label="shared"),
                    secret=secret,
                    request_id=new_id(),
                ),
                metadata=clients.operator,
                timeout=CALL_SECONDS_MAX,
            )


def shared_secret(simulator_address: str, provider: str) -> str:
    """The product's own key at a provider, in the suite with that simulator."""
    place = hashlib.sha256(simulator_address.encode()).hexdigest()[:16]
    secret = f"{_PREFIXES[provider]}canary-shared-{place}"
    if secret not in SECRETS:
        SECRETS.append(secret)
    return secret


@asynccontextmanager
async def second_router(suite: Suite) -> AsyncIterator[router_service_pb2_grpc.RouterServiceStub]:
    """One more router process beside the suite's own, as a second replica."""
    async with router_beside(suite) as beside:
        yield beside.router


@dataclass(frozen=True)
class Beside:
    """A router beside the suite's own, its process and its address."""

    process: Process
    address: str
    router: router_service_pb2_grpc.RouterServiceStub


def another_router(suite: Suite, **settings: str) -> tuple[Process, str]:
    """
    A second replica, not started yet, and its address.

    Args:
        suite: Beside whose router.
        settings: Of its own, without their prefix.
    """
    address = f"127.0.0.1:{free_port()}"
    command = suite.process("router").command
    environ = {
        **command.environ,
        "OWNKEY_ROUTER_LISTEN": address,
        "OWNKEY_ROUTER_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
        **{f"OWNKEY_ROUTER_{name}": value for name, value in settings.items()},
    }
    name = f"router-{address.rpartition(':')[2]}"
    return Process(
        replace(command, name=name, environ=environ), log_folder=suite.state.logs
    ), address


@asynccontextmanager
async def router_beside(suite: Suite, **settings: str) -> AsyncIterator[Beside]:
    """A second replica that a test may stop or kill; started from the test's own thread."""
    process, address = another_router(suite, **settings)
    try:
        process.start()
        await asyncio.to_thread(process.wait_ready, grpc_serving(address))
        async with open_channel(address) as channel:
            yield Beside(process, address, router_service_pb2_grpc.RouterServiceStub(channel))
    finally:
        await asyncio.to_thread(process.stop)


async def assert_books_hold(suite: Suite) -> None:
    """The ledger's own proof finds nothing, over all accounts."""
    async with clients_of(suite) as clients:
        found, done = [], False
        async for progress in clients.ledger.VerifyLedger(
            verification_pb2.VerifyLedgerRequest(),
            metadata=clients.operator,
            timeout=CALL_SECONDS_MAX,
        ):
            found += progress.violations
            done = progress.done
    assert done
    assert found == []


def assert_logs_hold_no_secret(suite: Suite) -> None:
    """No process of the suite has written a secret that was sent to it."""
    for log in suite.state.logs.iterdir():
        written = log.read_bytes()
        # The secret itself stays out of what a failure shows.
        leaked = sum(secret.encode() in written for secret in SECRETS)
        assert leaked == 0, f"{log.name} holds {leaked} secrets"


# ---- accounts and keys


@dataclass(frozen=True, slots=True)
class StoredKey:
    """
    A key as a test knows it.

    Args:
        name: `accounts/{account}/keys/{key}`.
        secret: Its secret.
        hint: What the keyvault shows of it.
    """

    name: str
    secret: str = field(repr=False)
    hint: str


async def new_account(
    clients: Clients,
    *,
    mode: account_pb2.BillingMode.ValueType = account_pb2.BILLING_MODE_CREDITS,
    consent: account_pb2.FallbackConsent.ValueType = account_pb2.FALLBACK_CONSENT_UNSPECIFIED,
    nano_credits: int = GRANT_NANO_CREDITS,
    daily_cap: int | None = None,
    plan: str = "plans/standard",
) -> str:
    """A fresh account with credits; `accounts/{account}`."""
    created = await clients.ledger.CreateAccount(
        account_pb2.CreateAccountRequest(
            request_id=new_id(),
            account_id=f"t{secrets.token_hex(8)}",
            plan=plan,
            billing_mode=mode,
            fallback_consent=consent,
            fallback_daily_cap_nano_credits=daily_cap,
        ),
        timeout=CALL_SECONDS_MAX,
    )
    account: str = created.account.name
    if nano_credits:
        await grant(clients, account, nano_credits)
    return account


async def grant(clients: Clients, account: str, nano_credits: int) -> None:
    """Give an account credits that never expire."""
    await clients.ledger.GrantCredits(
        grant_pb2.GrantCreditsRequest(
            request_id=new_id(),
            account=account,
            kind=grant_pb2.GRANT_KIND_PURCHASED,
            amount_nano_credits=nano_credits,
        ),
        timeout=CALL_SECONDS_MAX,
    )


async def set_mode(
    clients: Clients, account: str, mode: account_pb2.BillingMode.ValueType
) -> account_pb2.SetBillingModeResponse:
    """Change who pays."""
    return await clients.ledger.SetBillingMode(
        account_pb2.SetBillingModeRequest(request_id=new_id(), account=account, billing_mode=mode),
        timeout=CALL_SECONDS_MAX,
    )


def new_secret(provider: str = "openai", *, fault: str = "") -> str:
    """A made-up secret in the provider's shape; the simulator reads a fault out of its text."""
    middle = f"-{fault}" if fault else ""
    secret = f"{_PREFIXES[provider]}canary{middle}-{secrets.token_hex(16)}"
    SECRETS.append(secret)
    return secret


async def create_key(
    clients: Clients,
    account: str,
    secret: str,
    *,
    provider: str = "openai",
    store_unverified: bool = False,
    **fields: Any,
) -> keyvault_service_pb2.CreateKeyResponse:
    """Store a key; `fields` are those of Key."""
    return await clients.keyvault.CreateKey(
        keyvault_service_pb2.CreateKeyRequest(
            parent=account,
            key=key_pb2.Key(provider=provider, **fields),
            secret=secret,
            store_unverified=store_unverified,
            request_id=new_id(),
        ),
        timeout=CALL_SECONDS_MAX,
    )


async def add_key(
    clients: Clients, account: str, *, provider: str = "openai", fault: str = "", **fields: Any
) -> StoredKey:
    """Store a fresh key, failing as its text says."""
    secret = new_secret(provider, fault=fault)
    created = await create_key(clients, account, secret, provider=provider, **fields)
    return StoredKey(created.key.name, secret, created.key.hint)


async def list_keys(clients: Clients, account: str) -> list[key_pb2.Key]:
    """An account's keys."""
    answer = await clients.keyvault.ListKeys(
        keyvault_service_pb2.ListKeysRequest(parent=account), timeout=CALL_SECONDS_MAX
    )
    return list(answer.keys)


async def disable_key(clients: Clients, key: StoredKey) -> None:
    """Switch a key off."""
    await clients.keyvault.DisableKey(
        keyvault_service_pb2.DisableKeyRequest(name=key.name, request_id=new_id()),
        timeout=CALL_SECONDS_MAX,
    )


async def check_key(
    clients: Clients, key: StoredKey
) -> tuple[live_test_pb2.LiveTest, key_pb2.KeyHealth]:
    """Test a stored key live; what was found, and the whole key's health after it."""
    answer = await clients.keyvault.TestKey(
        keyvault_service_pb2.TestKeyRequest(name=key.name), timeout=CALL_SECONDS_MAX
    )
    return answer.test, answer.key.health[0]


# ---- the simulator


@asynccontextmanager
async def fault(
    clients: Clients, secret: str, words: str, *, count: int | None = None
) -> AsyncIterator[None]:
    """
    Have a key fail at its provider, for all requests or the next `count` ones.

    At the end the key serves, and what waits for a slow answer goes on.
    """
    body = {"fault": words, "count": count}
    async with (
        aiohttp.ClientSession() as session,
        session.post(_fault_address(clients, secret), json=body) as answer,
    ):
        answer.raise_for_status()
    try:
        yield
    finally:
        await release(clients, secret)


async def release(clients: Clients, secret: str) -> None:
    """Let a key serve, and what waits for its slow answer go on."""
    async with (
        aiohttp.ClientSession() as session,
        session.delete(_fault_address(clients, secret)) as answer,
    ):
        answer.raise_for_status()


def _fault_address(clients: Clients, secret: str) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f"http://{clients.addresses.simulator}/control/keys/{digest}"


async def recorded_requests(clients: Clients, secret: str) -> list[dict[str, Any]]:
    """The generations that reached the providers with a key, oldest first; free calls left out."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    address = f"http://{clients.addresses.simulator}/control/requests"
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        records = (await answer.json())["requests"]
    return [r for r in records if r["key_sha256"] == digest and r["method"] == "POST"]


# ---- generations


def question(text: str = QUESTION, **settings: Any) -> text_pb2.TextInput:
    """One message of a user."""
    message = text_pb2.Message(role=text_pb2.ROLE_USER, parts=[text_pb2.Part(text=text)])
    settings.setdefault("max_output_tokens", MAX_OUTPUT_TOKENS)
    return text_pb2.TextInput(messages=[message], **settings)


async def generate(
    clients: Clients,
    account: str,
    *,
    model: str = MODELS["openai"],
    source: attempt_pb2.Source.ValueType = attempt_pb2.SOURCE_AUTO,
    request_id: str = "",
    text_input: text_pb2.TextInput | None = None,
    route: text_pb2.RoutePreferences | None = None,
    router: router_service_pb2_grpc.RouterServiceStub | None = None,
    timeout_seconds: float = CALL_SECONDS_MAX,
) -> text_pb2.GenerateTextResponse:
    """Generate text and return the whole answer."""
    return await (router or clients.router).GenerateText(
        text_pb2.GenerateTextRequest(
            account=account,
            request_id=request_id or new_id(),
            model=model,
            source=source,
            route=route,
            input=text_input or question(),
        ),
        timeout=timeout_seconds,
    )


@dataclass(slots=True)
class Streamed:
    """
    What came of a stream.

    Args:
        events: Names of the events, in order.
        start: The first message; None where none came.
        text: All deltas of text, joined.
        finishes: Every finish.
        error: The status, where it is not OK.
    """

    events: list[str] = field(default_factory=list)
    start: text_pb2.TextStart | None = None
    text: str = ""
    finishes: list[text_pb2.TextFinish] = field(default_factory=list)
    error: RichStatus | None = None

    @property
    def receipt(self) -> attempt_pb2.Receipt:
        """The receipt of a stream that succeeded and kept to its form."""
        assert self.error is None, self.error
        assert self.events[0] == "start"
        assert self.events.count("start") == 1
        assert self.events[-1] == "finish"
        assert len(self.finishes) == 1
        return self.finishes[0].receipt


def open_stream(
    clients: Clients,
    account: str,
    *,
    model: str = MODELS["openai"],
    source: attempt_pb2.Source.ValueType = attempt_pb2.SOURCE_AUTO,
    request_id: str = "",
    text_input: text_pb2.TextInput | None = None,
    route: text_pb2.RoutePreferences | None = None,
    router: router_service_pb2_grpc.RouterServiceStub | None = None,
    timeout_seconds: float = CALL_SECONDS_MAX,
) -> Any:
    """Begin to stream text; the call is to be iterated or cancelled."""
    return (router or clients.router).StreamText(
        text_pb2.StreamTextRequest(
            account=account,
            request_id=request_id or new_id(),
            model=model,
            source=source,
            route=route,
            input=text_input or question(),
        ),
        timeout=timeout_seconds,
    )


async def stream(clients: Clients, account: str, **settings: Any) -> Streamed:
    """Stream text to its end, whatever that is."""
    got = Streamed()
    try:
        async for message in open_stream(clients, account, **settings):
            event = message.WhichOneof("event")
            got.events.append(event)
            if event == "start":
                got.start = message.start
            elif event == "text_delta":
                got.text += message.text_delta
            elif event == "finish":
                got.finishes.append(message.finish)
    except grpc.aio.AioRpcError as failure:
        got.error = from_rpc_error(failure)
    return got


async def refusal(call: Awaitable[object]) -> RichStatus:
    """The status of a call that must fail."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as failure:
        return from_rpc_error(failure)
    raise AssertionError(f"it was not refused: {answer}")


def attempts_of(status: RichStatus) -> list[attempt_pb2.Attempt]:
    """The attempts that a failure tells of."""
    for detail in status.status.details:
        attempts = attempt_pb2.AttemptList()
        if detail.Is(attempts.DESCRIPTOR):
            detail.Unpack(attempts)
            return list(attempts.attempts)
    return []


# ---- money


async def balance(clients: Clients, account: str) -> grant_pb2.Balance:
    """What an account owns."""
    answer = await clients.ledger.GetBalance(
        grant_pb2.GetBalanceRequest(account=account), timeout=CALL_SECONDS_MAX
    )
    return answer.balance


async def authorizations(clients: Clients, account: str) -> list[Authorization]:
    """Every attempt of an account, newest first."""
    answer = await clients.ledger.ListAuthorizations(
        authorization_pb2.ListAuthorizationsRequest(parent=account), timeout=CALL_SECONDS_MAX
    )
    return list(answer.authorizations)


async def request_record(
    clients: Clients, account: str, request_id: str
) -> authorization_pb2.RequestRecord:
    """What the ledger has on record of a request."""
    answer = await clients.ledger.GetAuthorization(
        authorization_pb2.GetAuthorizationRequest(account=account, request_id=request_id),
        timeout=CALL_SECONDS_MAX,
    )
    return answer.record


def predicted_text(provider: str, text: str = QUESTION) -> str:
    """What the simulator answers to a plain question."""
    return answer_text(PROVIDER_MODELS[provider], count_tokens(text))


def vendor_cost(price: attempt_pb2.PriceUsed, input_tokens: int, output_tokens: int) -> int:
    """Nano-USD, rounded once, halves to even."""
    amount = (
        input_tokens * price.input_nano_usd_per_million_tokens
        + output_tokens * price.output_nano_usd_per_million_tokens
    )
    return round(Fraction(amount, 1_000_000))


def predicted_cost(price: attempt_pb2.PriceUsed, provider: str, text: str = QUESTION) -> int:
    """Vendor cost of a plain question, nano-USD."""
    output_tokens = count_tokens(predicted_text(provider, text))
    return vendor_cost(price, count_tokens(text), output_tokens)


def credit_price(cost_nano_usd: int) -> int:
    """What the plan `standard` charges for a vendor cost, nano-credits; halves to even."""
    return round(cost_nano_usd * MARKUP * NANO / CREDIT_VALUE_NANO_USD)


async def assert_untouched(clients: Clients, account: str) -> None:
    """Nothing was charged to an account as `new_account` made it, and no hold is left."""
    after = await balance(clients, account)
    assert after.posted_nano_credits == GRANT_NANO_CREDITS
    assert after.available_nano_credits == GRANT_NANO_CREDITS
    assert (after.reserved_nano_credits, after.spent_nano_credits) == (0, 0)


async def eventually(
    holds: Callable[[], Awaitable[bool]], *, seconds: float = EVENTUALLY_SECONDS
) -> None:
    """Wait until a condition holds, looking again and again, with a bound."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"it did not come about within {seconds} s"
        await asyncio.sleep(0.05)
