# SPDX-License-Identifier: Apache-2.0
"""
How soon a withdrawn key stops being used: within a second of the call's return, under load.

The simulator's recording says when each provider request arrived, on the clock of this machine. An
arrival can only be later than the beginning of its request, so what is held here is the stricter
promise.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
from ownkey.keyvault.v1 import audit_pb2, key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.identity import ROUTER, call_metadata
from services.shared.ids import new_id
from services.shared.secret import Secret
from services.shared.status import RichStatus, from_rpc_error
from tests.e2e.support import (
    CREDITS,
    MODELS,
    OWN_KEY,
    StoredKey,
    add_key,
    balance,
    clients_of,
    eventually,
    fault,
    generate,
    new_account,
    new_secret,
    recorded_requests,
    running_suite,
    second_router,
    shared_secret,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.requirement("K15")]

PROMISED_SECONDS = 1.0
WORKERS = 6
CALL_SECONDS_MAX = 4.0
WARM_COUNT = 20
"""Requests that the load has made before anything is withdrawn."""
AFTER_SECONDS = 2.5
"""How long the load goes on after the promise must hold."""
PAUSED_SECONDS = 2.0
NEVER = datetime.max.replace(tzinfo=UTC)

ONLY_OWN_KEY = account_pb2.BILLING_MODE_OWN_KEY_ONLY
OWN_KEY_FIRST = account_pb2.BILLING_MODE_OWN_KEY_FIRST


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of its own: its parts are paused and stopped."""
    with running_suite(tmp_path_factory.mktemp("revocation") / "state") as running:
        yield running


class Load:
    """Generations on one account, one after the other in each worker, and what came of them."""

    def __init__(self, clients: Clients, account: str, **request: Any) -> None:
        self.served: list[attempt_pb2.Receipt] = []
        self.refused: list[tuple[datetime, RichStatus]] = []
        self._clients = clients
        self._account = account
        self._request = request
        self._stopping = False

    @property
    def reasons(self) -> Counter[str]:
        """How often each reason was given."""
        return Counter(status.reason for _, status in self.refused)

    async def work(self) -> None:
        """Asks again and again until told to stop."""
        while not self._stopping:
            try:
                answer = await generate(
                    self._clients,
                    self._account,
                    timeout_seconds=CALL_SECONDS_MAX,
                    **self._request,
                )
            except grpc.aio.AioRpcError as failure:
                self.refused.append((datetime.now(UTC), from_rpc_error(failure)))
                # Refusals come quickly; without a breath they would starve what is measured.
                await asyncio.sleep(0.02)
            else:
                self.served.append(answer.receipt)

    def stop(self) -> None:
        """Lets what runs be the last."""
        self._stopping = True


@asynccontextmanager
async def load(clients: Clients, account: str, **request: Any) -> AsyncIterator[Load]:
    """A load that is warm; it is stopped at the end."""
    running = Load(clients, account, **request)
    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(running.work())

        async def is_warm() -> bool:
            return len(running.served) >= WARM_COUNT

        try:
            await eventually(is_warm)
            yield running
        finally:
            running.stop()


async def go_on(since: datetime) -> None:
    """Lets the load go on until the promise has held for a while."""
    end = since + timedelta(seconds=PROMISED_SECONDS + AFTER_SECONDS)
    await asyncio.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()))


async def late(
    clients: Clients,
    secret: str,
    since: datetime,
    *,
    until: datetime = NEVER,
    model: str = "",
) -> list[dict[str, Any]]:
    """Generations with a secret that arrived later than promised."""
    limit = since + timedelta(seconds=PROMISED_SECONDS)
    return [
        found
        for found in await recorded_requests(clients, secret)
        if limit < datetime.fromisoformat(found["time"]) < until and model in ("", found["model"])
    ]


async def disable(clients: Clients, key: StoredKey) -> None:
    await clients.keyvault.DisableKey(
        kv.DisableKeyRequest(name=key.name, request_id=new_id()), timeout=10
    )


async def delete(clients: Clients, key: StoredKey) -> None:
    await clients.keyvault.DeleteKey(
        kv.DeleteKeyRequest(name=key.name, request_id=new_id()), timeout=10
    )


async def replace(clients: Clients, key: StoredKey) -> None:
    await clients.keyvault.ReplaceKey(
        kv.ReplaceKeyRequest(name=key.name, secret=new_secret(), request_id=new_id()), timeout=10
    )


Withdraw = Callable[[Clients, StoredKey], Awaitable[None]]
WITHDRAWALS = [
    pytest.param(disable, marks=pytest.mark.requirement("K6")),
    pytest.param(delete, marks=pytest.mark.requirement("K7")),
    pytest.param(replace, marks=pytest.mark.requirement("K7")),
]


@pytest.mark.parametrize("withdraw", WITHDRAWALS)
class TestSecret:
    async def test_it_is_not_used_a_second_after_it_was_withdrawn(
        self, suite: Suite, withdraw: Withdraw
    ) -> None:
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_OWN_KEY)
            key = await add_key(clients, account)
            async with load(clients, account) as running:
                await withdraw(clients, key)
                since = datetime.now(UTC)
                served = len(running.served)
                await go_on(since)
            assert await recorded_requests(clients, key.secret), "the load never used the key"
            assert await late(clients, key.secret, since) == []
            if withdraw is replace:
                assert len(running.served) > served + WARM_COUNT
                assert running.refused == []
            else:
                assert set(running.reasons) <= {"NO_USABLE_OWN_KEY", "KEY_CHANGED"}
                assert running.reasons["NO_USABLE_OWN_KEY"] > WARM_COUNT

    async def test_nor_by_a_router_that_was_paused_meanwhile(
        self, suite: Suite, withdraw: Withdraw
    ) -> None:
        """A router that slept through the change wakes with copies it may no longer use."""
        if withdraw is replace:
            # The live test of a new secret goes through the router; there is only this one.
            withdraw = disable
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_OWN_KEY)
            key = await add_key(clients, account)
            async with load(clients, account):
                router = suite.process("router").pid
                os.kill(router, signal.SIGSTOP)
                try:
                    woken = time.monotonic() + PAUSED_SECONDS
                    await withdraw(clients, key)
                    since = datetime.now(UTC)
                    await asyncio.sleep(max(0.0, woken - time.monotonic()))
                finally:
                    os.kill(router, signal.SIGCONT)
                await go_on(datetime.now(UTC))
            assert await recorded_requests(clients, key.secret)
            assert await late(clients, key.secret, since) == []


class TestRules:
    @pytest.mark.requirement("K1", "R9")
    async def test_always_use_stops_fallbacks(self, suite: Suite) -> None:
        """The old rule let a cooling key's requests fall back to credits, on the shared key."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=OWN_KEY_FIRST)
            key = await add_key(clients, account)
            shared = shared_secret(suite.addresses.simulator, "openai")
            async with (
                fault(clients, key.secret, "ratelimited-gen-seconds60"),
                load(clients, account) as running,
            ):
                await update(clients, key, ["always_use"], always_use=True)
                since = datetime.now(UTC)
                await go_on(since)
                held = await balance(clients, account)
            assert {receipt.payer for receipt in running.served} == {CREDITS}
            assert await recorded_requests(clients, shared)
            assert await late(clients, shared, since) == []
            assert running.reasons
            assert set(running.reasons) <= {"RATE_LIMITED", "FALLBACK_NOT_ALLOWED"}
            assert held.posted_nano_credits == (await balance(clients, account)).posted_nano_credits

    @pytest.mark.requirement("K1")
    async def test_a_model_taken_off_the_list_is_not_called_on_the_key(self, suite: Suite) -> None:
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_OWN_KEY)
            key = await add_key(clients, account)
            async with load(clients, account, model=MODELS["openai"]) as running:
                await update(clients, key, ["allowed_models"], allowed_models=["openai/gpt-4o"])
                since = datetime.now(UTC)
                await go_on(since)
            assert {receipt.payer for receipt in running.served} == {OWN_KEY}
            assert await recorded_requests(clients, key.secret)
            assert await late(clients, key.secret, since, model="gpt-4o-mini") == []
            assert running.refused
            other = await generate(clients, account, model="openai/gpt-4o")
            assert other.receipt.payer == OWN_KEY

    @pytest.mark.requirement("K6", "R9")
    async def test_a_disabled_key_leaves_the_request_to_credits(self, suite: Suite) -> None:
        """Nothing is refused on the way: credits pay as soon as the key is out."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=OWN_KEY_FIRST)
            key = await add_key(clients, account)
            async with load(clients, account) as running:
                await disable(clients, key)
                since = datetime.now(UTC)
                await go_on(since)
            assert await late(clients, key.secret, since) == []
            assert running.refused == []
            assert running.served[-1].payer == CREDITS
            assert not running.served[-1].fallback


class TestKeyvaultAway:
    @pytest.mark.requirement("R9", "R11")
    async def test_nothing_is_used_that_cannot_be_vouched_for(self, suite: Suite) -> None:
        """Without keyvault a router fails closed: no key is used, and nothing goes to credits."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=OWN_KEY_FIRST)
            key = await add_key(clients, account)
            shared = shared_secret(suite.addresses.simulator, "openai")
            before = await balance(clients, account)
            keyvault = suite.process("keyvault")
            async with load(clients, account) as running:
                await asyncio.to_thread(keyvault.kill)
                since = datetime.now(UTC)
                try:
                    await go_on(since)
                finally:
                    running.stop()
                    back = datetime.now(UTC)
                    suite.start_part("keyvault")
            for secret in (key.secret, shared):
                assert await late(clients, secret, since, until=back) == []
            assert set(running.reasons) == {"PEER_UNAVAILABLE"}
            assert all(status.retry_after_seconds for _, status in running.refused)
            assert {receipt.payer for receipt in running.served} == {OWN_KEY}
            assert await balance_stands(clients, account, before.posted_nano_credits)
            await recovers(clients, account)

    @pytest.mark.requirement("R9", "R11")
    async def test_nor_when_it_hangs(self, suite: Suite) -> None:
        """A keyvault that takes calls and answers none vouches for nothing either."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=OWN_KEY_FIRST)
            key = await add_key(clients, account)
            keyvault = suite.process("keyvault").pid
            async with load(clients, account) as running:
                os.kill(keyvault, signal.SIGSTOP)
                since = datetime.now(UTC)
                try:
                    await go_on(since)
                finally:
                    running.stop()
                    back = datetime.now(UTC)  # What it vouches for from here on may be used.
                    os.kill(keyvault, signal.SIGCONT)
            assert await late(clients, key.secret, since, until=back) == []
            assert {receipt.payer for receipt in running.served} == {OWN_KEY}
            await recovers(clients, account)


async def update(clients: Clients, key: StoredKey, mask: list[str], **fields: Any) -> None:
    await clients.keyvault.UpdateKey(
        kv.UpdateKeyRequest(
            key=key_pb2.Key(name=key.name, **fields),
            update_mask={"paths": mask},
            request_id=new_id(),
        ),
        timeout=10,
    )


async def balance_stands(clients: Clients, account: str, nano_credits: int) -> bool:
    found = await balance(clients, account)
    return (found.posted_nano_credits, found.reserved_nano_credits) == (nano_credits, 0)


async def recovers(clients: Clients, account: str) -> None:
    """The own key serves again, without anybody's help, and keyvault answers this client."""

    async def serves() -> bool:
        if not await answers(clients, account):
            return False
        try:
            answer = await generate(clients, account, timeout_seconds=CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.receipt.payer == OWN_KEY)

    await eventually(serves)


class TestSeveralReplicas:
    async def test_no_router_uses_it_a_second_after_it_was_withdrawn(self, suite: Suite) -> None:
        """Also one whose watch stream is cut at that moment by the end of its keyvault."""
        async with clients_of(suite) as clients, second_router(suite) as other:
            account = await new_account(clients, mode=ONLY_OWN_KEY)
            key = await add_key(clients, account)
            async with (
                load(clients, account) as first,
                load(clients, account, router=other) as second,
            ):
                await disable(clients, key)
                since = datetime.now(UTC)
                await asyncio.to_thread(suite.process("keyvault").kill)
                suite.start_part("keyvault")
                await go_on(since)
            assert await recorded_requests(clients, key.secret)
            assert await late(clients, key.secret, since) == []
            for running in (first, second):
                assert running.served
                told = {"NO_USABLE_OWN_KEY", "KEY_CHANGED", "PEER_UNAVAILABLE"}
                assert set(running.reasons) <= told
            await eventually(lambda: is_refused(clients, account))


class TestReleases:
    @pytest.mark.requirement("K13")
    async def test_each_is_in_the_trail_although_keyvault_was_killed(self, suite: Suite) -> None:
        """No secret was answered with whose release was lost with the process."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_OWN_KEY)
            await add_key(clients, account)
            router = call_metadata(Secret(suite.state.token(ROUTER)))
            answered = 0

            async def resolve() -> None:
                nonlocal answered
                request = resolution_pb2.ResolveKeysRequest(accounts=[account])
                while True:
                    answer = await clients.keyvault.ResolveKeys(request, metadata=router, timeout=5)
                    answered += bool(answer.accounts[0].keys[0].secret)

            callers = [asyncio.create_task(resolve()) for _ in range(WORKERS)]

            async def is_warm() -> bool:
                return answered >= WARM_COUNT

            await eventually(is_warm)
            await asyncio.to_thread(suite.process("keyvault").kill)
            ends = await asyncio.gather(*callers, return_exceptions=True)
            assert {type(end) for end in ends} == {grpc.aio.AioRpcError}
            suite.start_part("keyvault")
            await eventually(lambda: answers(clients, account))
            assert await releases(clients, account) >= answered


async def answers(clients: Clients, account: str) -> bool:
    """Whether keyvault answers this client."""
    try:
        await clients.keyvault.ListKeys(kv.ListKeysRequest(parent=account), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return True


async def is_refused(clients: Clients, account: str) -> bool:
    """Whether a request is told that no own key serves."""
    try:
        await generate(clients, account, timeout_seconds=CALL_SECONDS_MAX)
    except grpc.aio.AioRpcError as failure:
        return from_rpc_error(failure).reason == "NO_USABLE_OWN_KEY"
    return False


async def releases(clients: Clients, account: str) -> int:
    """How many releases to a router are in an account's trail."""
    count, token = 0, ""
    while True:
        request = kv.ListAuditEventsRequest(parent=account, page_size=1000, page_token=token)
        page = await clients.keyvault.ListAuditEvents(request, timeout=10)
        count += sum(event.action == audit_pb2.AUDIT_ACTION_RELEASE for event in page.audit_events)
        token = page.next_page_token
        if not token:
            return count
