# SPDX-License-Identifier: Apache-2.0
"""
The ledger while its database fails at a chosen exchange: whatever is lost, a request has one
outcome, and everyone who asks by its id is told that one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ownkey.ledger.v1 import account_pb2, grant_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.shared.status import from_rpc_error
from tests.support.clock import RestingClock
from tests.support.ledger import (
    RunningLedger,
    captured,
    consistent,
    own_key,
    refused,
    request_id,
    running_ledger,
)
from tests.support.postgres_proxy import Cut, Decide, Exchange, Fail, PostgresProxy

OWNS = 1000
EXCHANGES_MIN = 5
"""BEGIN, the lock, a read, a write, COMMIT."""

EXCHANGES_MAX = 60
Call = Callable[[], Awaitable[Any]]
Prepare = Callable[[RunningLedger, str], Awaitable[Call]]


@dataclass
class Faults:
    """
    A ledger behind a proxy.

    Args:
        books: The ledger.
        proxy: Before its database.
    """

    books: RunningLedger
    proxy: PostgresProxy
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def account(self) -> str:
        """Return a new account that owns something."""
        return await self.books.account(f"account-{next(self._numbers)}", owns=OWNS)

    async def prepared(self, prepare: Prepare) -> Prepared:
        """Return a call on a new account."""
        account = await self.account()
        return Prepared(self, account, await prepare(self.books, account), EFFECTS[prepare])

    async def sent(self, call: Awaitable[Any], decide: Decide) -> Any:
        """Send a call while the proxy decides."""
        self.proxy.decide = decide
        try:
            return await call
        finally:
            self.proxy.decide = lambda _exchange: None


@dataclass
class Prepared:
    """
    A call to send, any number of times.

    Args:
        faults: Where.
        account: Of which account.
        call: Sends it.
        effect: What the account owns and reserves once it was done.
    """

    faults: Faults
    account: str
    call: Call
    effect: tuple[int, int]

    async def done_once(self) -> None:
        """Hold the account to what one call leaves."""
        balance = await self.faults.books.balance(self.account)
        assert (balance.posted_nano_credits, balance.reserved_nano_credits) == self.effect


@dataclass
class At:
    """
    Decides on one exchange.

    Args:
        number: Which, from 0.
        fault: What to do to it.
        act: What to do besides.
    """

    number: int
    fault: Cut | Fail | None
    act: Callable[[], Any] = lambda: None
    seen: int = 0
    hit: Exchange | None = None

    def __call__(self, exchange: Exchange) -> Cut | Fail | None:
        """Count the exchange and decide."""
        self.seen += 1
        if self.seen - 1 != self.number:
            return None
        self.hit = exchange
        self.act()
        return self.fault


@dataclass
class AtCommit:
    """
    Decides on the commits of what was written.

    Args:
        fault: What to do to them.
        times: To how many.
    """

    fault: Cut | Fail
    times: int = 1
    reading: bool = False

    def __call__(self, exchange: Exchange) -> Cut | Fail | None:
        """Decide."""
        if exchange.sql.startswith("BEGIN"):
            self.reading = "READ ONLY" in exchange.sql
        if self.reading or not exchange.is_commit or not self.times:
            return None
        self.times -= 1
        return self.fault


async def authorize(books: RunningLedger, account: str) -> Call:
    """A hold."""
    run = books.run(account)
    return run.authorize


async def authorize_own_key(books: RunningLedger, account: str) -> Call:
    """An attempt on an own key with a limit."""
    await books.set_mode(account, "OWN_KEY_FIRST")
    run = books.run(account)
    return lambda: run.authorize(
        own_key_state=pb.OWN_KEY_STATE_READY,
        own_key=own_key(account, 100, monthly_limit_nano_usd=100),
    )


async def authorize_next(books: RunningLedger, account: str) -> Call:
    """The next attempt with the settlement of the one before."""
    run = books.run(account)
    await run.authorize()
    settlement = pb.Settlement(sequence=1, release=pb.ReleaseTerms(outcome="rate_limited"))
    return lambda: run.authorize(2, settlement=settlement)


async def renew(books: RunningLedger, account: str) -> Call:
    """A lease with a checkpoint."""
    run = books.run(account)
    await run.authorize()
    return lambda: run.renew(checkpoint=captured(30))


async def capture(books: RunningLedger, account: str) -> Call:
    """A capture that ends its request."""
    run = books.run(account)
    await run.authorize()
    return lambda: run.capture(40, end=pb.RequestEnd(succeeded=True))


async def release(books: RunningLedger, account: str) -> Call:
    """A release."""
    run = books.run(account)
    await run.authorize()
    return run.release


async def grant(books: RunningLedger, account: str) -> Call:
    """A grant."""
    request = grant_pb2.GrantCreditsRequest(
        request_id=request_id(),
        account=account,
        kind=grant_pb2.GRANT_KIND_PURCHASED,
        amount_nano_credits=500,
    )
    return lambda: books.backend.GrantCredits(request)


async def refund(books: RunningLedger, account: str) -> Call:
    """A refund of a charge."""
    run = books.run(account)
    await run.authorize()
    attempt = await run.capture(40)
    request = grant_pb2.RefundChargeRequest(
        request_id=request_id(), authorization=attempt.name, reason="goodwill"
    )
    return lambda: books.operator.RefundCharge(request)


async def set_mode(books: RunningLedger, account: str) -> Call:
    """A pause with a hold open."""
    await books.run(account).authorize()
    request = account_pb2.SetBillingModeRequest(
        request_id=request_id(),
        account=account,
        billing_mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY,
    )
    return lambda: books.backend.SetBillingMode(request)


async def change_plan(books: RunningLedger, account: str) -> Call:
    """A downgrade."""
    request = account_pb2.UpdateAccountRequest(
        request_id=request_id(),
        account=account_pb2.Account(name=account, plan="plans/credits-only"),
        update_mask=FieldMask(paths=["plan"]),
    )
    return lambda: books.backend.UpdateAccount(request)


EFFECTS: dict[Prepare, tuple[int, int]] = {
    authorize: (OWNS, 100),
    authorize_own_key: (OWNS, 0),
    authorize_next: (OWNS, 100),
    renew: (OWNS, 100),
    capture: (OWNS - 40, 0),
    release: (OWNS, 0),
    grant: (OWNS + 500, 0),
    refund: (OWNS, 0),
    set_mode: (OWNS, 100),
    change_plan: (OWNS, 0),
}
"""What each leaves owned and reserved when it was done once."""


@asynccontextmanager
async def faulty(folder: Path, dsn: str) -> AsyncIterator[Faults]:
    """A ledger behind a proxy, with nothing under way but what the test sends."""
    async with (
        PostgresProxy(dsn).serving() as proxy,
        running_ledger(folder, proxy.dsn, clock=RestingClock(), lanes="1") as books,
    ):
        yield Faults(books, proxy)


@pytest.fixture
async def faults(tmp_path: Path, ledger_dsn: str) -> AsyncIterator[Faults]:
    """A ledger behind a proxy."""
    async with faulty(tmp_path, ledger_dsn) as running:
        yield running


async def reason_of(call: Awaitable[Any]) -> str:
    """Return why a call failed, empty if it did not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return ""


@pytest.mark.requirement("L11", "L13")
class TestCommit:
    @pytest.mark.parametrize("fault", Cut)
    async def test_what_was_lost_around_a_commit_is_looked_up_and_told(
        self, faults: Faults, fault: Cut
    ) -> None:
        for prepare in EFFECTS:
            sent = await faults.prepared(prepare)
            answer = await faults.sent(sent.call(), AtCommit(fault))
            await sent.done_once()
            # A lease renewed again ends later.
            again = await sent.call()
            assert again == answer or prepare is renew
            await sent.done_once()
        assert await consistent(faults.books)

    @pytest.mark.parametrize("fault", Cut)
    async def test_every_item_of_a_batch_is_told_its_own_outcome(
        self, faults: Faults, fault: Cut
    ) -> None:
        accounts = [await faults.account() for _ in range(3)]
        runs = [faults.books.run(account) for account in accounts for _ in range(4)]
        # Of each account's four, three fit.
        requests = [run.authorize_request(worst_case=300) for run in runs]
        batch = pb.BatchAuthorizeRequest(requests=requests)
        answer = await faults.sent(faults.books.router.BatchAuthorize(batch), AtCommit(fault))
        granted = [result.HasField("response") for result in answer.results]
        assert granted == [True, True, True, False] * 3
        again = await faults.books.router.BatchAuthorize(batch)
        assert [result.response for result in again.results] == [
            result.response for result in answer.results
        ]
        for account in accounts:
            assert (await faults.books.balance(account)).reserved_nano_credits == 900
        settle = pb.BatchSettleRequest(
            requests=[
                pb.SettleRequest(capture=run.capture_request(100))
                for run, held in zip(runs, granted, strict=True)
                if held
            ]
        )
        settled = await faults.sent(faults.books.router.BatchSettle(settle), AtCommit(fault))
        assert [r.authorization.charged_nano_credits for r in settled.results] == [100] * 9
        for account in accounts:
            balance = await faults.books.balance(account)
            assert (balance.posted_nano_credits, balance.reserved_nano_credits) == (700, 0)
        assert await consistent(faults.books)

    async def test_a_database_that_stays_lost_is_unavailable_and_the_id_finds_the_outcome(
        self, faults: Faults
    ) -> None:
        account = await faults.account()
        run = faults.books.run(account)
        status = await refused(faults.sent(run.authorize(), AtCommit(Cut.AFTER, times=100)))
        assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        found = await faults.books.backend.GetAuthorization(
            pb.GetAuthorizationRequest(account=account, request_id=run.request_id)
        )
        (attempt,) = found.record.authorizations
        assert attempt.held_nano_credits == 100
        assert (await run.authorize()).granted.name == attempt.name
        assert (await faults.books.balance(account)).reserved_nano_credits == 100


# Some hundred calls each, which a busy machine may take its time for.
@pytest.mark.timeout(180)
@pytest.mark.requirement("L11", "L13")
class TestEveryExchange:
    """Each call is sent again and again, and the fault comes one exchange later each time."""

    @pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
    async def test_a_conflict_anywhere_has_the_whole_unit_tried_again(
        self, faults: Faults, sqlstate: str
    ) -> None:
        for prepare in EFFECTS:
            for number in range(EXCHANGES_MAX):
                sent, at = await faults.prepared(prepare), At(number, Fail(sqlstate))
                await faults.sent(sent.call(), at)
                await sent.done_once()
                if at.hit is None:
                    break
            assert EXCHANGES_MIN <= number < EXCHANGES_MAX - 1
        assert await consistent(faults.books)

    async def test_a_conflict_that_stays_is_overload_and_changes_nothing(
        self, faults: Faults
    ) -> None:
        account = await faults.account()
        run = faults.books.run(account)
        status = await refused(faults.sent(run.authorize(), AtCommit(Fail("40001"), times=100)))
        assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert status.retry_after_seconds
        assert (await faults.books.balance(account)).reserved_nano_credits == 0
        assert (await run.authorize()).granted.held_nano_credits == 100

    async def test_a_connection_cut_anywhere_leaves_one_outcome(self, faults: Faults) -> None:
        for prepare in EFFECTS:
            for number in range(EXCHANGES_MAX):
                sent, at = await faults.prepared(prepare), At(number, Cut.AFTER)
                reason = await reason_of(faults.sent(sent.call(), at))
                assert reason in {"", "STORE_UNAVAILABLE"}
                if reason:
                    await sent.call()
                await sent.done_once()
                if at.hit is None:
                    break
            assert EXCHANGES_MIN <= number < EXCHANGES_MAX - 1
        assert await consistent(faults.books)

    async def test_a_caller_that_leaves_anywhere_reads_the_outcome_later(
        self, faults: Faults
    ) -> None:
        for prepare in EFFECTS:
            for number in range(EXCHANGES_MAX):
                sent = await faults.prepared(prepare)
                leaving = asyncio.ensure_future(sent.call())
                at = At(number, None, act=leaving.cancel)
                await faults.sent(asyncio.gather(leaving, return_exceptions=True), at)
                await sent.call()
                await sent.done_once()
                if at.hit is None:
                    break
            assert EXCHANGES_MIN <= number < EXCHANGES_MAX - 1
        assert await consistent(faults.books)
