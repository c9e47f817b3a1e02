# SPDX-License-Identifier: Apache-2.0
"""
Parts that go away and come back: what callers are told meanwhile, and that nothing is lost.

Vault's outages are in test_vault_outages.py. Parts are started from the test's own thread: what a
thread has started is stopped when that thread ends (PR_SET_PDEATHSIG of prctl(2)).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import account_pb2, authorization_pb2, verification_pb2
from ownkey.router.v1 import attempt_pb2, text_pb2

from deploy.local.clients import Clients
from deploy.local.processes import grpc_serving
from deploy.local.suite import Suite
from services.shared.ids import new_id
from services.shared.status import RichStatus, from_rpc_error
from tests.e2e.support import (
    CREDITS,
    GRANT_NANO_CREDITS,
    OWN_KEY,
    add_key,
    attempts_of,
    balance,
    clients_of,
    create_key,
    credit_price,
    eventually,
    fault,
    generate,
    list_keys,
    new_account,
    new_secret,
    open_stream,
    recorded_requests,
    release,
    request_record,
    router_beside,
    running_suite,
    shared_secret,
    stream,
)
from tests.e2e.witness import authorizations_of, entries_of, hold_to_the_rules, refused, whole

pytestmark = pytest.mark.timeout(180)

LEASE_SECONDS = 3
BACK_SECONDS_MAX = 40.0
"""How long everything may take to work again by itself."""
WORKERS = 4
WARM_COUNT = 10
ERRORS_MIN = 4
"""One of each worker: the router tries for a while before it says so."""

ONLY_CREDITS = account_pb2.BILLING_MODE_CREDITS
OWN_KEY_FIRST = account_pb2.BILLING_MODE_OWN_KEY_FIRST
OWN_KEY_ONLY = account_pb2.BILLING_MODE_OWN_KEY_ONLY
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of its own with short leases, so that the sweeper comes soon."""
    settings = {"ledger": {"LEASE_SECONDS": str(LEASE_SECONDS), "SWEEP_SECONDS": "0.2"}}
    folder = tmp_path_factory.mktemp("outages") / "state"
    with running_suite(folder, environ=settings) as running:
        yield running


@pytest.fixture(autouse=True)
async def everything_serves(suite: Suite) -> None:
    """Each test begins when what the one before broke works again, for this client too."""
    async with clients_of(suite) as clients:
        account = await served(lambda: new_account(clients))

        async def works() -> object:
            await list_keys(clients, account)
            return await generate(clients, account, timeout_seconds=5)

        await served(works)


async def served(call: Callable[[], Awaitable[Any]]) -> Any:
    """What a call answers, as soon as it does."""
    answers: list[Any] = []

    async def answered() -> bool:
        try:
            answers.append(await call())
        except grpc.aio.AioRpcError as failure:
            if failure.code() not in {UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise
            return False
        return True

    await eventually(answered, seconds=BACK_SECONDS_MAX)
    return answers[0]


async def nothing_reserved(clients: Clients, account: str) -> None:
    async def settled() -> bool:
        return (await balance(clients, account)).reserved_nano_credits == 0

    await eventually(settled, seconds=BACK_SECONDS_MAX)


async def proven(clients: Clients, account: str) -> None:
    """The account's books add up: by its own records and by the ledger's own proof."""
    found = await balance(clients, account)
    attempts = await authorizations_of(clients, account)
    charged = sum(attempt.charged_nano_credits for attempt in attempts)
    assert found.posted_nano_credits == GRANT_NANO_CREDITS - charged
    entries = await entries_of(clients, account)
    assert entries[0].posted_after_nano_credits == found.posted_nano_credits
    assert sorted(entry.sequence for entry in entries) == list(range(1, len(entries) + 1))
    last = verification_pb2.VerifyLedgerResponse()
    async for progress in clients.ledger.VerifyLedger(
        verification_pb2.VerifyLedgerRequest(), metadata=clients.operator, timeout=30
    ):
        last = progress
    assert last.done
    assert last.violation_count == 0


class Load:
    """Generations on one account under ids of their own, and what came of each."""

    def __init__(self, clients: Clients, account: str) -> None:
        self.account = account
        self.served: dict[str, attempt_pb2.Receipt] = {}
        self.refused: dict[str, RichStatus] = {}
        self._clients = clients
        self._stopping = asyncio.Event()

    async def work(self) -> None:
        """Asks again and again until told to stop."""
        while not self._stopping.is_set():
            request_id = new_id()
            try:
                answer = await generate(self._clients, self.account, request_id=request_id)
            except grpc.aio.AioRpcError as failure:
                self.refused[request_id] = from_rpc_error(failure)
                await asyncio.sleep(0.05)  # A breath, or refusals would be all there is.
            else:
                self.served[request_id] = answer.receipt

    def stop(self) -> None:
        """Lets what runs be the last."""
        self._stopping.set()


@pytest.mark.requirement("L12", "L13", "R11")
class TestPostgreSQL:
    @pytest.mark.parametrize("service", ["ledger", "keyvault"])
    async def test_a_service_that_starts_without_it_waits_and_says_so(
        self, suite: Suite, service: str
    ) -> None:
        process = suite.process(service)
        probe = grpc_serving(getattr(suite.addresses, service))
        await asyncio.to_thread(process.stop)
        await asyncio.to_thread(suite.postgres.stop)
        try:
            process.start()

            async def says_so() -> bool:
                return "waiting_for_postgresql" in process.log.read_text()

            await eventually(says_so)
            assert process.running
            assert not await asyncio.to_thread(probe)
        finally:
            suite.postgres.start()
        await asyncio.to_thread(process.wait_ready, probe)

    @pytest.mark.parametrize("ending", ["stop", "kill"])
    async def test_it_goes_and_comes_back_in_the_middle_of_requests(
        self, suite: Suite, ending: str
    ) -> None:
        """Callers are told UNAVAILABLE; whatever was answered is paid for exactly once."""
        async with clients_of(suite) as clients:
            by_credits = Load(clients, await new_account(clients, mode=ONLY_CREDITS))
            by_key = Load(clients, await new_account(clients, mode=OWN_KEY_FIRST))
            await add_key(clients, by_key.account)
            loads = (by_credits, by_key)

            async def both(count: int, attribute: str) -> None:
                async def reached() -> bool:
                    return all(len(getattr(load, attribute)) >= count for load in loads)

                await eventually(reached, seconds=BACK_SECONDS_MAX)

            async with asyncio.TaskGroup() as group:
                for load in loads:
                    for _ in range(WORKERS):
                        group.create_task(load.work())
                try:
                    await both(WARM_COUNT, "served")
                    await asyncio.to_thread(getattr(suite.postgres, ending))
                    try:
                        await both(ERRORS_MIN, "refused")
                    finally:
                        suite.postgres.start()
                    before = max(len(load.served) for load in loads)
                    await both(before + WARM_COUNT, "served")
                finally:
                    for load in loads:
                        load.stop()
            for load in loads:
                for status in load.refused.values():
                    hold_to_the_rules(status)
                    assert status.code is UNAVAILABLE, status.message
                    assert status.reason in {"PEER_UNAVAILABLE", "STORE_UNAVAILABLE"}
                await nothing_reserved(clients, load.account)
            await self._paid_once(clients, by_credits)
            assert {receipt.payer for receipt in by_key.served.values()} == {OWN_KEY}
            assert (await balance(clients, by_key.account)).spent_nano_credits == 0
            for load in loads:
                await proven(clients, load.account)

    @staticmethod
    async def _paid_once(clients: Clients, load: Load) -> None:
        """Every answer is charged its exact price, in the end."""
        for request_id, receipt in load.served.items():
            price = credit_price(receipt.cost_nano_usd)
            assert price > 0

            async def charged(request_id: str = request_id, price: int = price) -> bool:
                record = await request_record(clients, load.account, request_id)
                attempts = record.authorizations
                return sum(attempt.charged_nano_credits for attempt in attempts) == price

            await eventually(charged, seconds=BACK_SECONDS_MAX)


@pytest.mark.requirement("R11", "K3")
class TestProviders:
    async def test_nobody_is_charged_while_they_are_away(self, suite: Suite) -> None:
        async with clients_of(suite) as clients:
            own = await new_account(clients, mode=OWN_KEY_FIRST)
            await add_key(clients, own)
            paying = await new_account(clients, mode=ONLY_CREDITS)
            keys = await list_keys(clients, own)
            before = [await balance(clients, account) for account in (own, paying)]
            await asyncio.to_thread(suite.process("simulator").stop)
            try:
                for account in (own, paying):
                    status = await refused(generate(clients, account))
                    assert (status.code, status.reason) == (UNAVAILABLE, "PROVIDER_DOWN")
                    assert status.retry_after_seconds
                status = await refused(create_key(clients, own, new_secret()))
                assert (status.code, status.reason) == (UNAVAILABLE, "PROVIDER_UNREACHABLE")
            finally:
                suite.start_part("simulator")
            for account, balance_before in zip((own, paying), before, strict=True):
                await nothing_reserved(clients, account)
                found = await balance(clients, account)
                assert found.posted_nano_credits == balance_before.posted_nano_credits
                await proven(clients, account)
            assert [key.name for key in await list_keys(clients, own)] == [k.name for k in keys]
            # A provider's outage says nothing about a key.
            answer = await served(lambda: generate(clients, own))
            assert answer.receipt.payer == OWN_KEY


@pytest.mark.requirement("R9", "R11", "L13")
class TestLedger:
    async def test_without_it_nothing_is_sent_and_nothing_is_free(self, suite: Suite) -> None:
        async with clients_of(suite) as clients:
            own = await new_account(clients, mode=OWN_KEY_FIRST)
            key = await add_key(clients, own)
            paying = await new_account(clients, mode=ONLY_CREDITS)
            shared = shared_secret(suite.addresses.simulator, "openai")
            sent = len(await recorded_requests(clients, shared))
            sent_own = len(await recorded_requests(clients, key.secret))
            await asyncio.to_thread(suite.process("ledger").kill)
            try:
                # At once: the router tries for a while before it says so.
                for status in await asyncio.gather(
                    *(
                        refused(generate(clients, account, source=source))
                        for account, source in (
                            (own, attempt_pb2.SOURCE_AUTO),
                            (own, attempt_pb2.SOURCE_CREDITS),
                            (own, attempt_pb2.SOURCE_OWN_KEY),
                            (paying, attempt_pb2.SOURCE_AUTO),
                            (paying, attempt_pb2.SOURCE_CREDITS),
                        )
                    )
                ):
                    assert (status.code, status.reason) == (UNAVAILABLE, "PEER_UNAVAILABLE")
                    assert status.metadata["peer"] == "ledger"
                    assert status.retry_after_seconds
            finally:
                suite.start_part("ledger")
            assert len(await recorded_requests(clients, shared)) == sent
            assert len(await recorded_requests(clients, key.secret)) == sent_own
            for account in (own, paying):
                await served(lambda account=account: balance(clients, account))
                await served(lambda account=account: generate(clients, account))
                await nothing_reserved(clients, account)
                await proven(clients, account)

    async def test_what_was_answered_without_it_is_charged_when_it_is_back(
        self, suite: Suite
    ) -> None:
        """It goes after the hold and comes back after the answer: the charge still lands, once."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_CREDITS)
            shared = shared_secret(suite.addresses.simulator, "openai")
            sent = len(await recorded_requests(clients, shared))
            request_id = new_id()

            async def arrived() -> bool:
                return len(await recorded_requests(clients, shared)) > sent

            async with asyncio.TaskGroup() as group:
                async with fault(clients, shared, "slow"):
                    asked = group.create_task(generate(clients, account, request_id=request_id))
                    await eventually(arrived)
                    await asyncio.to_thread(suite.process("ledger").kill)
                try:
                    answer = await asked
                finally:
                    suite.start_part("ledger")
            assert answer.text
            assert answer.receipt.settlement_state == attempt_pb2.SETTLEMENT_STATE_PENDING
            price = credit_price(answer.receipt.cost_nano_usd)

            async def charged() -> bool:
                found = await served(lambda: balance(clients, account))
                return bool(
                    found.posted_nano_credits == GRANT_NANO_CREDITS - price
                    and found.reserved_nano_credits == 0
                )

            await eventually(charged, seconds=BACK_SECONDS_MAX)
            await proven(clients, account)


@pytest.mark.requirement("R9", "R11")
class TestKeyvault:
    async def test_without_it_no_request_is_read_as_one_without_a_key(self, suite: Suite) -> None:
        """Whoever has a key, or none, or asks for it: nobody is called, nothing is charged."""
        async with clients_of(suite) as clients:
            own, without, only, nothing = [
                await new_account(clients, mode=mode)
                for mode in (OWN_KEY_FIRST, OWN_KEY_FIRST, OWN_KEY_ONLY, OWN_KEY_ONLY)
            ]
            for account in (own, only):
                await add_key(clients, account)
            before = {a: await balance(clients, a) for a in (own, without, only, nothing)}
            shared = shared_secret(suite.addresses.simulator, "openai")
            sent = len(await recorded_requests(clients, shared))
            await asyncio.to_thread(suite.process("keyvault").stop)
            try:
                for account in before:
                    for source in (attempt_pb2.SOURCE_AUTO, attempt_pb2.SOURCE_OWN_KEY):
                        self._told(await refused(generate(clients, account, source=source)))
                    streamed = await stream(clients, account)
                    assert streamed.events == []
                    assert streamed.error is not None
                    self._told(streamed.error)
                assert len(await recorded_requests(clients, shared)) == sent
                for account, balance_before in before.items():
                    found = await balance(clients, account)
                    assert found.posted_nano_credits == balance_before.posted_nano_credits
                    assert found.reserved_nano_credits == 0
            finally:
                suite.start_part("keyvault")
            for account, payer in ((own, OWN_KEY), (only, OWN_KEY), (without, CREDITS)):
                answer = await served(lambda account=account: generate(clients, account))
                assert answer.receipt.payer == payer
            assert (await refused(generate(clients, nothing))).reason == "NO_USABLE_OWN_KEY"

    @staticmethod
    def _told(status: RichStatus) -> None:
        assert (status.code, status.reason) == (UNAVAILABLE, "PEER_UNAVAILABLE")
        assert status.metadata["peer"] == "keyvault"
        assert status.retry_after_seconds
        assert attempts_of(status) == []

    async def test_the_router_away_leaves_keys_untested_and_unstored(self, suite: Suite) -> None:
        async with clients_of(suite) as clients:
            account = await new_account(clients)
            key = await add_key(clients, account)
            before = await whole(clients, account)
            await asyncio.to_thread(suite.process("router").stop)
            try:
                for call in (
                    create_key(clients, account, new_secret()),
                    clients.keyvault.ReplaceKey(
                        kv.ReplaceKeyRequest(
                            name=key.name, secret=new_secret(), request_id=new_id()
                        )
                    ),
                    clients.keyvault.TestKey(kv.TestKeyRequest(name=key.name)),
                ):
                    status = await refused(call)
                    assert (status.code, status.reason) == (UNAVAILABLE, "PEER_UNAVAILABLE")
                    assert status.retry_after_seconds
            finally:
                suite.start_part("router")
            assert before.differences(await whole(clients, account)) == []
            await served(lambda: create_key(clients, account, new_secret()))


@pytest.mark.requirement("L3", "L9", "L13")
class TestRouterKilled:
    async def test_what_was_delivered_is_charged_at_the_last_checkpoint(self, suite: Suite) -> None:
        """In mid-stream, after a renewal: nothing delivered is free, and the rest comes back."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_CREDITS)
            shared = shared_secret(suite.addresses.simulator, "openai")
            request_id = new_id()
            async with fault(clients, shared, "stall", count=1):
                call = open_stream(clients, account, request_id=request_id)
                assert (await call.read()).WhichOneof("event") == "start"
                assert (await call.read()).WhichOneof("event") == "text_delta"
                (held,) = await authorizations_of(clients, account)
                assert held.state == authorization_pb2.AUTHORIZATION_STATE_OPEN

                await until_renewed(clients, account, held)
                await killed(suite, call)
            (lapsed,) = await lapsed_attempts(clients, account)
            assert 0 < lapsed.charged_nano_credits <= held.held_nano_credits
            await proven(clients, account)
            found = await whole(clients, account)
            # The request is over, and paid for: a repeat says so and calls nobody.
            sent = len(await recorded_requests(clients, shared))
            status = await self._repeated(clients, account, request_id)
            assert status.code is grpc.StatusCode.FAILED_PRECONDITION, status.message
            assert status.reason == "REQUEST_ABANDONED"
            assert len(await recorded_requests(clients, shared)) == sent
            assert found.differences(await whole(clients, account)) == []

    async def test_nothing_is_charged_where_nothing_was_delivered(self, suite: Suite) -> None:
        """Before the first byte: the hold comes back whole, and a repeat runs anew."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_CREDITS)
            shared = shared_secret(suite.addresses.simulator, "openai")
            sent = len(await recorded_requests(clients, shared))
            request_id = new_id()

            async def arrived() -> bool:
                return len(await recorded_requests(clients, shared)) > sent

            async with fault(clients, shared, "slow", count=1):
                call = open_stream(clients, account, request_id=request_id)
                reading = asyncio.ensure_future(call.read())
                await eventually(arrived)
                await killed(suite, reading)
            (lapsed,) = await lapsed_attempts(clients, account)
            assert lapsed.charged_nano_credits == 0
            found = await balance(clients, account)
            assert found.posted_nano_credits == GRANT_NANO_CREDITS
            await proven(clients, account)
            answer = await served(lambda: generate(clients, account, request_id=request_id))
            assert not answer.receipt.replayed
            assert answer.text

    @staticmethod
    async def _repeated(clients: Clients, account: str, request_id: str) -> RichStatus:
        """The refusal of a repeat, once the new router serves this client."""
        await served(lambda: new_client_works(clients))
        return await refused(generate(clients, account, request_id=request_id))


@pytest.mark.requirement("R14", "L13")
class TestOneOfTwoRouters:
    """A repeat at the replica that goes on; the ledger's record is all that the two share."""

    async def test_a_run_that_was_killed_is_told_by_the_other(self, suite: Suite) -> None:
        """Running as long as its lease stands, then over: at no time is anybody called."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_CREDITS)
            shared = shared_secret(suite.addresses.simulator, "openai")
            request_id = new_id()
            async with router_beside(suite) as beside, fault(clients, shared, "stall", count=1):
                call = open_stream(clients, account, request_id=request_id, router=beside.router)
                assert (await call.read()).WhichOneof("event") == "start"
                assert (await call.read()).WhichOneof("event") == "text_delta"
                (held,) = await authorizations_of(clients, account)
                await until_renewed(clients, account, held)
                calls = len(await recorded_requests(clients, shared))
                await asyncio.to_thread(beside.process.kill)

            async def over() -> bool:
                again = await refused(generate(clients, account, request_id=request_id))
                if again.reason == "REQUEST_IN_PROGRESS":
                    assert again.code is UNAVAILABLE
                    assert again.retry_after_seconds
                    return False
                assert (again.code, again.reason) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "REQUEST_ABANDONED",
                )
                return True

            await eventually(over)
            await lapsed_attempts(clients, account)
            assert len(await recorded_requests(clients, shared)) == calls
            await proven(clients, account)

    async def test_an_update_lets_the_old_one_end_its_run_and_the_new_one_tell_of_it(
        self, suite: Suite
    ) -> None:
        """The old one is asked to stop in the middle: one call, one charge, one outcome."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=ONLY_CREDITS)
            shared = shared_secret(suite.addresses.simulator, "openai")
            calls = len(await recorded_requests(clients, shared))
            request_id = new_id()

            async def arrived() -> bool:
                return len(await recorded_requests(clients, shared)) > calls

            async with router_beside(suite) as old, fault(clients, shared, "slow", count=1):
                running = asyncio.ensure_future(
                    generate(clients, account, request_id=request_id, router=old.router)
                )
                await eventually(arrived)
                stopping = asyncio.ensure_future(asyncio.to_thread(old.process.stop))
                status = await refused(generate(clients, account, request_id=request_id))
                assert (status.code, status.reason) == (UNAVAILABLE, "REQUEST_IN_PROGRESS")
                await release(clients, shared)
                first = await running
                await stopping
            again = await generate(clients, account, request_id=request_id)
            assert (first.receipt.replayed, again.receipt.replayed) == (False, True)
            assert again.receipt.attempts == first.receipt.attempts
            assert len(await recorded_requests(clients, shared)) == calls + 1
            await proven(clients, account)


async def new_client_works(clients: Clients) -> object:
    """Any call that the router answers."""
    request = text_pb2.GenerateTextRequest()
    try:
        return await clients.router.GenerateText(request)
    except grpc.aio.AioRpcError as failure:
        if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
            return failure
        raise


async def killed(suite: Suite, reading: Any) -> None:
    """Kills the router under a stream and starts another."""
    await asyncio.to_thread(suite.process("router").kill)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await (reading.read() if hasattr(reading, "read") else reading)
    assert failure.value.code() is UNAVAILABLE
    suite.start_part("router")


async def until_renewed(
    clients: Clients, account: str, held: authorization_pb2.Authorization
) -> None:
    """Wait until the account's one attempt has a later lease, and so a checkpoint."""

    async def renewed() -> bool:
        (now,) = await authorizations_of(clients, account)
        return now.lease_expire_time.ToDatetime() > held.lease_expire_time.ToDatetime()

    await eventually(renewed)


async def lapsed_attempts(clients: Clients, account: str) -> list[authorization_pb2.Authorization]:
    """The attempts that the sweeper settled; all of them, and soon."""

    async def swept() -> bool:
        found = await authorizations_of(clients, account)
        return all(a.state == authorization_pb2.AUTHORIZATION_STATE_LAPSED for a in found)

    await eventually(swept)
    await nothing_reserved(clients, account)
    return await authorizations_of(clients, account)
