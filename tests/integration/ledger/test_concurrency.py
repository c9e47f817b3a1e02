# SPDX-License-Identifier: Apache-2.0
"""Many at once on the same account, lost replies, two ledgers on one database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ownkey.ledger.v1 import account_pb2, usage_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.shared.status import from_rpc_error, read_status
from tests.support.ledger import Run, RunningLedger, consistent, refused, request_id, running_ledger


async def held(run: Run, *, worst_case: int) -> bool:
    """Authorize and return whether it was granted; the only refusal is a lack of credits."""
    request = run.authorize_request(worst_case=worst_case)
    (result,) = (
        await run.stub.BatchAuthorize(pb.BatchAuthorizeRequest(requests=[request]))
    ).results
    if result.HasField("error"):
        assert read_status(result.error).reason == "INSUFFICIENT_CREDITS"
        return False
    return True


@pytest.mark.requirement("L3", "L12")
async def test_sixty_four_writers_on_one_account_are_exact(books: RunningLedger) -> None:
    account = await books.account(owns=10_000)
    spent = 0

    async def writer(number: int) -> None:
        nonlocal spent
        for step in range(5):
            run = books.run(account)
            if not await held(run, worst_case=200):
                continue
            if (number + step) % 4 == 0:
                await run.release()
            else:
                settled = await run.capture(number + step)
                spent += settled.charged_nano_credits

    await asyncio.gather(*(writer(number) for number in range(64)))
    balance = await books.balance(account)
    assert balance.posted_nano_credits == 10_000 - spent
    assert balance.reserved_nano_credits == 0
    assert balance.absorbed_nano_credits == 0
    assert await consistent(books)


@pytest.mark.requirement("L3")
async def test_holds_never_exceed_what_is_available(books: RunningLedger) -> None:
    account = await books.account(owns=5000)

    runs = [books.run(account) for _ in range(40)]
    granted = await asyncio.gather(*(held(run, worst_case=1000) for run in runs))
    assert sum(granted) == 5
    assert (await books.balance(account)).available_nano_credits == 0


@pytest.mark.requirement("R14")
async def test_of_many_claimants_one_runs(books: RunningLedger) -> None:
    account = await books.account(owns=5000)
    run = books.run(account)
    runs = [run, *(run.again() for _ in range(19))]
    outcomes = await asyncio.gather(*(r.authorize() for r in runs), return_exceptions=True)
    granted = [outcome for outcome in outcomes if isinstance(outcome, pb.AuthorizeResponse)]
    assert len(granted) == 1
    reasons = {
        from_rpc_error(outcome).reason
        for outcome in outcomes
        if isinstance(outcome, grpc.aio.AioRpcError)
    }
    assert reasons == {"REQUEST_IN_PROGRESS"}
    assert (await books.balance(account)).reserved_nano_credits == 100


@pytest.mark.requirement("L11", "L13")
async def test_a_reply_that_was_lost_is_found_by_asking_again(books: RunningLedger) -> None:
    account = await books.account(owns=1000)
    runs = [books.run(account) for _ in range(10)]

    async def cut(run: object, delay: float) -> None:
        call = asyncio.ensure_future(run.authorize())  # type: ignore[attr-defined]
        await asyncio.sleep(delay)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    await asyncio.gather(*(cut(run, number * 0.002) for number, run in enumerate(runs)))
    for run in runs:
        assert (await run.authorize()).granted.held_nano_credits == 100
    assert (await books.balance(account)).reserved_nano_credits == 1000
    assert await consistent(books)


@pytest.mark.requirement("L11")
async def test_a_terminated_backend_is_unavailable_and_a_repeat_succeeds(
    books: RunningLedger,
) -> None:
    account = await books.account(owns=1000)
    blocker = await asyncpg.connect(books.dsn)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT 1 FROM accounts FOR UPDATE")
    run = books.run(account)
    waiting = asyncio.ensure_future(refused(run.authorize()))
    ended = 0
    async with asyncio.timeout(10):
        while not ended:
            ended = await blocker.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'ownkey-ledger' AND wait_event_type = 'Lock'"
            )
            await asyncio.sleep(0.02)
    status = await waiting
    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    await transaction.rollback()
    await blocker.close()
    assert (await run.authorize()).granted.held_nano_credits == 100
    assert await consistent(books)


@pytest.mark.requirement("L3", "R14")
async def test_two_ledgers_on_one_database_are_one_ledger(
    tmp_path: Path, books: RunningLedger
) -> None:
    account = await books.account(owns=2000)
    async with running_ledger(tmp_path / "second", books.dsn) as other:
        stubs = [books.router, other.router]

        async def work(number: int) -> None:
            run = books.run(account)
            run.stub = stubs[number % 2]
            await run.authorize(worst_case=10)
            run.stub = stubs[(number + 1) % 2]
            await run.capture(10)

        await asyncio.gather(*(work(number) for number in range(60)))
        assert (await other.balance(account)).posted_nano_credits == 1400
    assert await consistent(books)


@pytest.mark.requirement("L3")
async def test_of_a_thousand_at_once_on_two_ledgers_credits_for_ten_admit_exactly_ten(
    tmp_path: Path, books: RunningLedger
) -> None:
    account = await books.account(owns=1099)
    async with running_ledger(tmp_path / "second", books.dsn) as other:
        runs = [books.run(account) for _ in range(1000)]
        for run in runs[::2]:
            run.stub = other.router
        granted = await asyncio.gather(*(held(run, worst_case=100) for run in runs))
    assert sum(granted) == 10
    balance = await books.balance(account)
    assert (balance.reserved_nano_credits, balance.available_nano_credits) == (1000, 99)
    assert await consistent(books)


@pytest.mark.requirement("L1", "L6", "L13")
async def test_plans_changed_under_load_bill_each_request_to_one_side(
    books: RunningLedger,
) -> None:
    account = await books.account(owns=100_000, plan="overdraft-fee")
    plans = {"overdraft-fee": "OWN_KEY_FIRST", "credits-only": "CREDITS"}

    async def change() -> None:
        for plan, mode in list(plans.items()) * 5:
            await books.backend.UpdateAccount(
                account_pb2.UpdateAccountRequest(
                    request_id=request_id(),
                    account=account_pb2.Account(name=account, plan=f"plans/{plan}"),
                    update_mask=FieldMask(paths=["plan"]),
                    billing_mode=account_pb2.BillingMode.Value(f"BILLING_MODE_{mode}"),
                )
            )

    async def request() -> tuple[int, int, int]:
        run = books.run(account)
        granted = (await run.authorize(own_key_state=pb.OWN_KEY_STATE_READY)).granted
        settled = await run.capture(8)
        own = granted.funding == pb.FUNDING_OWN_KEY
        fee = 0 if granted.fee_waived else 4
        return own, settled.charged_nano_credits, fee if own else 8

    async with asyncio.TaskGroup() as group:
        group.create_task(change())
        requests = [group.create_task(request()) for _ in range(150)]
    found = [task.result() for task in requests]
    assert all(charged == expected for _, charged, expected in found)
    usage = (await books.backend.GetUsage(usage_pb2.GetUsageRequest(account=account))).rows
    by_funding = {row.funding: row for row in usage}
    own = sum(own for own, _, _ in found)
    counts = {pb.FUNDING_OWN_KEY: own, pb.FUNDING_CREDITS: 150 - own}
    for funding, count in counts.items():
        if count:
            assert by_funding[funding].attempt_count == count
            assert by_funding[funding].vendor_cost_nano_usd == 8 * count
    spent = sum(charged for _, charged, _ in found)
    assert (await books.balance(account)).posted_nano_credits == 100_000 - spent
    assert await consistent(books)
