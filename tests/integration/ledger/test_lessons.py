# SPDX-License-Identifier: Apache-2.0
"""
What users of other ledgers ran into, each as a test here; the address tells where.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable
from typing import Any

import asyncpg
import grpc
import pytest
from ownkey.ledger.v1 import account_pb2, grant_pb2, usage_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.shared.status import from_rpc_error
from tests.support.ledger import Run, RunningLedger, consistent, refused, request_id

REFUNDS_AT_ONCE_MAX = 20


async def reasons(calls: Iterable[Awaitable[Any]]) -> Counter[str]:
    """Make calls at once and count why they failed; empty for those that did not."""

    async def reason(call: Awaitable[Any]) -> str:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
        return ""

    return Counter(await asyncio.gather(*map(reason, calls)))


async def owned(books: RunningLedger, account: str) -> tuple[int, int]:
    """Return what an account owns and reserves."""
    balance = await books.balance(account)
    return balance.posted_nano_credits, balance.reserved_nano_credits


@pytest.mark.requirement("L3")
async def test_six_holds_of_a_thousand_on_five_thousand_are_five(books: RunningLedger) -> None:
    """https://github.com/blnkfinance/blnk/issues/181: holds were not counted as spent."""
    account = await books.account(owns=5000)
    runs = [books.run(account) for _ in range(6)]
    found = await reasons(run.authorize(worst_case=1000) for run in runs)
    assert found == {"": 5, "INSUFFICIENT_CREDITS": 1}
    assert await owned(books, account) == (5000, 5000)


@pytest.mark.requirement("L3", "L11")
async def test_a_rejected_hold_can_never_be_captured(books: RunningLedger) -> None:
    """https://github.com/blnkfinance/blnk/issues/182: its queue record could be committed."""
    account = await books.account(owns=50)
    run = books.run(account)
    assert (await refused(run.authorize())).reason == "INSUFFICIENT_CREDITS"
    for call in (run.capture(10), run.release(), run.renew()):
        assert (await refused(call)).reason == "AUTHORIZATION_NOT_FOUND"
    await books.grant(account, 1000)
    assert (await refused(run.authorize())).reason == "INSUFFICIENT_CREDITS"
    assert (await refused(run.capture(10))).reason == "AUTHORIZATION_NOT_FOUND"
    assert await owned(books, account) == (1050, 0)
    assert await consistent(books)


@pytest.mark.requirement("L3", "L12")
async def test_of_many_settlements_at_once_one_stands(books: RunningLedger) -> None:
    """
    https://github.com/blnkfinance/blnk/pull/171 and https://github.com/getlago/lago-api/issues/3618:
    two commits read the same amount left; a payment was settled twice within milliseconds.
    """
    account = await books.account(owns=1000)
    run = books.run(account)
    await run.authorize()
    found = await reasons([*(run.capture(cost) for cost in range(1, 20)), run.release()])
    assert found == {"": 1, "ALREADY_SETTLED": 19}
    (attempt,) = (
        await books.backend.GetAuthorization(
            pb.GetAuthorizationRequest(account=account, request_id=run.request_id)
        )
    ).record.authorizations
    assert await owned(books, account) == (1000 - attempt.charged_nano_credits, 0)
    assert await consistent(books)


@pytest.mark.requirement("L2", "L11", "L12")
async def test_every_charge_refunded_twice_is_refunded_once(books: RunningLedger) -> None:
    """Formance reverts each transaction twice with 20 workers: exactly one may succeed."""
    account = await books.account(owns=1000)
    names = []
    for _ in range(20):
        run = books.run(account)
        await run.authorize(worst_case=20)
        names.append((await run.capture(20)).name)
    requests = [
        grant_pb2.RefundChargeRequest(request_id=request_id(), authorization=name, reason="twice")
        for name in names * 2
    ]
    slots = asyncio.Semaphore(REFUNDS_AT_ONCE_MAX)

    async def refund(request: grant_pb2.RefundChargeRequest) -> None:
        async with slots:
            await books.operator.RefundCharge(request)

    assert await reasons(map(refund, requests)) == {"": 20, "REFUND_EXCEEDS_CHARGE": 20}
    assert await owned(books, account) == (1000, 0)
    assert await consistent(books)


@pytest.mark.requirement("L10")
async def test_usage_is_read_while_the_account_is_locked(books: RunningLedger) -> None:
    """https://github.com/getlago/lago-api/issues/5692: usage was summed under the credit lock."""
    account = await books.account(owns=1000)
    run = books.run(account)
    await run.authorize()
    await run.capture(10)
    blocker = await asyncpg.connect(books.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT 1 FROM accounts FOR UPDATE")
            usage = await books.backend.GetUsage(usage_pb2.GetUsageRequest(account=account))
            assert [row.charged_nano_credits for row in usage.rows] == [10]
            assert await owned(books, account) == (990, 0)
    finally:
        await blocker.close()


@pytest.mark.requirement("L3", "L12")
async def test_an_account_without_a_single_row_is_locked_too(books: RunningLedger) -> None:
    """https://github.com/Climactic/laravel-credits/issues/20: locking the latest row locks none."""
    account = await books.account()
    calls = [books.run(account).authorize(worst_case=1) for _ in range(30)]
    grants = [books.grant(account, 1) for _ in range(30)]
    found = await reasons([*grants, *calls])
    assert found[""] + found["INSUFFICIENT_CREDITS"] == 60
    assert await owned(books, account) == (30, found[""] - 30)
    assert await consistent(books)


@pytest.mark.requirement("L11")
async def test_an_id_is_an_accounts_own_and_a_clash_is_told(books: RunningLedger) -> None:
    """
    https://github.com/formancehq/ledger/issues/364 and
    https://github.com/formancehq/stack/issues/1638: a clash was answered with nothing, and keys
    were unique over all ledgers.
    """
    one, two = await books.account("one", owns=100), await books.account("two", owns=100)
    run = books.run(one)
    await run.authorize()
    other = Run(books.router, two, request_id=run.request_id, claimant=run.claimant)
    assert (await other.authorize()).granted.held_nano_credits == 100
    status = await refused(run.authorize(fingerprint=b"g" * 32))
    assert (status.code, status.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert status.metadata["request_id"] == run.request_id


@pytest.mark.requirement("L11")
async def test_a_call_ends_at_its_deadline_and_its_outcome_is_found_by_id(
    books: RunningLedger,
) -> None:
    """
    https://github.com/tigerbeetle/tigerbeetle/issues/206 and
    https://jepsen.io/analyses/tigerbeetle-0.16.11: a client waited for ever for its cluster.
    """
    account = await books.account(owns=1000)
    run = books.run(account)
    blocker = await asyncpg.connect(books.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT 1 FROM accounts FOR UPDATE")
            status = await refused(books.router.Authorize(run.authorize_request(), timeout=0.5))
            assert status.code is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        await blocker.close()
    # Asking by id again is always safe: it is the first grant or the only one.
    assert (await run.authorize()).granted.held_nano_credits == 100
    found = await books.backend.GetAuthorization(
        pb.GetAuthorizationRequest(account=account, request_id=run.request_id)
    )
    assert found.record.state == pb.REQUEST_STATE_RUNNING
    assert await owned(books, account) == (1000, 100)


@pytest.mark.requirement("L4", "L13")
async def test_a_hold_made_before_a_pause_is_still_settled(books: RunningLedger) -> None:
    """A closed TigerBeetle account refuses to post its pending transfers; a paused one here not."""
    account = await books.account(owns=1000)
    run = books.run(account)
    await run.authorize()
    paused = await books.set_mode(account, "OWN_KEY_ONLY")
    assert paused.receipt.reserved_nano_credits == 100
    assert (await run.capture(60)).charged_nano_credits == 60
    resumed = await books.set_mode(account, "CREDITS")
    assert resumed.account.billing_mode == account_pb2.BILLING_MODE_CREDITS
    assert resumed.proof.proven
    assert await owned(books, account) == (940, 0)
