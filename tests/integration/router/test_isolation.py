# SPDX-License-Identifier: Apache-2.0
"""
Thousands of accounts at once, through failovers and rotations: no key serves another account, and
every call that cost money is in one statement, on the right funding.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from aiohttp import web
from ownkey.ledger.v1 import authorization_pb2

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, serve_router, text_input

ACCOUNTS = 2_000
AT_ONCE = 100
FAULTS = ("", "revoked", "", "nocredit", "ratelimited-ms40", "", "cut", "error500", "forbidden", "")
"""What the first of an account's two keys does, by the account's number."""
ROTATED = 5
"""Which tenth of the accounts gets a new version of its key in the middle."""
PREFIXES = {"openai": "sk-proj", "openrouter": "sk-or-v1"}
SHARED = {"openai": "sk-proj-sim-shared-0123456789ab", "openrouter": "sk-or-v1-sim-shared-012345"}
_REQUEST = re.compile(r"request ([0-9a-f-]{36}) of (a\d+)")
_REFUSED = range(400, 500)


@dataclass(frozen=True)
class Call:
    """One call as a provider saw it."""

    provider: str
    key: str
    account: str
    request_id: str
    status: int
    """0 where the connection was cut."""


@dataclass
class Recorder:
    """Sees every call with its key, its account and how it was answered."""

    calls: list[Call] = field(default_factory=list)

    def middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        """Give the middleware that stands before the simulator."""

        @web.middleware
        async def record(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            asked = _REQUEST.search((await request.read()).decode())
            status = 0
            try:
                response = await handler(request)
                status = response.status
            finally:
                if asked:
                    key = request.headers["authorization"].removeprefix("Bearer ")
                    provider = request.path.split("/")[1]
                    self.calls.append(Call(provider, key, asked[2], asked[1], status))
            return response

        return record


def secret(provider: str, account: str, fault: str, version: int = 1) -> str:
    """Give a key that nobody else has."""
    words = f"{fault}-" if fault else ""
    return f"{PREFIXES[provider]}-sim-{words}{account}v{version}x0123456789abcdef"


class Customers:
    """All accounts, with one key at each of two providers."""

    def __init__(self, router: RouterUnderTest) -> None:
        self._router = router
        self.owner: dict[str, tuple[str, str]] = {}
        """Account and provider of every own key there ever was."""
        self.key_name: dict[str, str] = {}
        self.failures: Counter[grpc.StatusCode] = Counter()

    def put(self, number: int, *, version: int = 1) -> None:
        """Store an account's keys; the first one fails as its number says."""
        account, fault = f"a{number}", FAULTS[number % len(FAULTS)]
        keys = []
        for provider, words in (("openai", fault), ("openrouter", "")):
            value = secret(provider, account, words, version)
            self.owner[value] = (account, provider)
            self.key_name[value] = f"accounts/{account}/keys/{provider}"
            keys.append(
                stored_key(account, provider, provider, value, version=version, etag=str(version))
            )
        # One account in three has no second key: it falls back to credits.
        stored = keys[: 1 if number % 3 == 0 else 2]
        self._router.keyvault.put(account, *stored, active_provider="openai")

    async def ask(self, number: int, *, stream: bool) -> None:
        """Ask for a text that names its account; a failure is as good as an answer."""
        account, request_id = f"a{number}", str(uuid.uuid4())
        fields = {
            "account": f"accounts/{account}",
            "request_id": request_id,
            "input": text_input(f"request {request_id} of {account}", max_output_tokens=5),
        }
        if stream:
            await self._router.stream(timeout=30.0, **fields)
            return
        try:
            await self._router.generate(timeout=30.0, **fields)
        except grpc.aio.AioRpcError as fault:
            self.failures[fault.code()] += 1


async def everyone_asks(customers: Customers) -> None:
    """Interleave all accounts; some keys are rotated while others' requests run."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def visit(number: int) -> None:
        async with gate:
            await customers.ask(number, stream=number % 2 == 0)
            if number % 10 == ROTATED:
                customers.put(number, version=2)
                await customers.ask(number, stream=True)

    async with asyncio.TaskGroup() as group:
        for number in range(ACCOUNTS):
            group.create_task(visit(number))


@pytest.mark.requirement("R12", "R16", "L13", "K7")
async def test_no_key_serves_another_account_and_every_cost_is_in_one_statement(
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    async with serve_router(tmp_path, middlewares=[recorder.middleware()]) as router:
        customers = Customers(router)
        platform = [stored_key("platform", name, name, key) for name, key in SHARED.items()]
        router.keyvault.put("platform", *platform)
        for number in range(ACCOUNTS):
            customers.put(number)
        await everyone_asks(customers)
        runs = router.ledger.runs
        assert not customers.failures[grpc.StatusCode.INTERNAL]

    # No key for another account, and none at another provider's host.
    assert len({call.account for call in recorder.calls}) == ACCOUNTS
    for call in recorder.calls:
        if call.key not in SHARED.values():
            assert customers.owner[call.key] == (call.account, call.provider)
        else:
            assert SHARED[call.provider] == call.key

    # Every call that may have cost money is captured once, for its account and on its funding.
    paid: dict[str, Counter[str]] = defaultdict(Counter)
    for call in recorder.calls:
        if call.status not in _REFUSED:
            payer = customers.key_name.get(call.key, "credits")
            paid[call.request_id][f"{call.account} {payer}"] += 1
    for request_id, run in runs.items():
        stated: Counter[str] = Counter()
        for authorization in run.attempts.values():
            assert authorization.state != authorization_pb2.AUTHORIZATION_STATE_OPEN
            if authorization.state == authorization_pb2.AUTHORIZATION_STATE_CAPTURED:
                account = authorization.name.split("/")[1]
                own = authorization.funding == authorization_pb2.FUNDING_OWN_KEY
                stated[f"{account} {authorization.key if own else 'credits'}"] += 1
        assert stated == paid[request_id]
    assert set(paid) <= set(runs)
    # The scene held what it should: both sides paid, keys failed, new versions served.
    payers = Counter(payer for calls in paid.values() for payer in calls)
    assert any(payer.endswith("credits") for payer in payers)
    assert any(call.status in _REFUSED for call in recorder.calls)
    assert any("v2x" in call.key for call in recorder.calls)
