# SPDX-License-Identifier: Apache-2.0
"""Fees on own-key use, their caps, the free requests of a month, and what has no price."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import entry_pb2, usage_pb2

from services.shared.status import read_status
from tests.support.ledger import (
    Run,
    RunningLedger,
    captured,
    consistent,
    own_key,
    refused,
    rewrite,
    running_ledger,
)

READY = pb.OWN_KEY_STATE_READY


async def entries(books: RunningLedger, account: str) -> list[entry_pb2.Entry]:
    """Return an account's entries, newest first."""
    response = await books.backend.ListEntries(entry_pb2.ListEntriesRequest(parent=account))
    return list(response.entries)


@pytest.mark.requirement("L6", "L3")
class TestFromCredits:
    async def test_the_fee_is_held_for_the_worst_case_and_captured_exactly(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(plan="fee-credits", owns=1000)
        run = books.run(account)
        # 5 % of twice the vendor cost.
        granted = (await run.authorize(own_key_state=READY, worst_case=2000)).granted
        assert (granted.funding, granted.held_nano_credits) == (pb.FUNDING_OWN_KEY, 200)
        settled = await run.capture(500)
        assert (settled.charged_nano_credits, settled.fee_nano_credits) == (50, 50)
        assert settled.vendor_cost_nano_usd == 500
        balance = await books.balance(account)
        assert (balance.available_nano_credits, balance.fees_nano_credits) == (950, 50)
        assert balance.spent_nano_credits == 0
        (entry, _grant) = await entries(books, account)
        assert (entry.kind, entry.credit) == (
            entry_pb2.ENTRY_KIND_FEE,
            entry_pb2.SUB_LEDGER_FEES,
        )
        request = usage_pb2.GetUsageRequest(account=account)
        (row,) = (await books.backend.GetUsage(request)).rows
        assert (row.charged_nano_credits, row.fee_nano_credits) == (50, 50)
        assert await consistent(books)

    async def test_what_credits_cannot_cover_is_refused_before_anything_is_sent(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(plan="fee-credits", owns=199)
        run = books.run(account)
        status = await refused(run.authorize(own_key_state=READY, worst_case=2000))
        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "INSUFFICIENT_CREDITS",
        )
        assert status.metadata["needed_nano_credits"] == "200"
        assert (await books.balance(account)).reserved_nano_credits == 0

    @pytest.mark.parametrize("end", ["release", "undelivered"])
    async def test_a_failed_attempt_costs_no_fee(self, books: RunningLedger, end: str) -> None:
        account = await books.account(plan="fee-credits", owns=1000)
        run = books.run(account)
        await run.authorize(own_key_state=READY, worst_case=2000)
        settled = await (run.release() if end == "release" else run.capture(500, delivered=False))
        assert settled.charged_nano_credits == 0
        balance = await books.balance(account)
        assert (balance.posted_nano_credits, balance.reserved_nano_credits) == (1000, 0)
        assert await consistent(books)

    async def test_only_the_attempt_that_served_costs_a_fee(self, books: RunningLedger) -> None:
        account = await books.account(plan="fee-credits", owns=1000)
        run = books.run(account)
        await run.authorize(own_key_state=READY, worst_case=2000)
        release = pb.Settlement(sequence=1, release=pb.ReleaseTerms(outcome="overloaded"))
        await run.authorize(2, own_key_state=READY, worst_case=2000, settlement=release)
        await run.capture(2000, 2)
        await run.capture(2000, 2)
        assert (await books.balance(account)).fees_nano_credits == 200

    @pytest.mark.requirement("L7")
    async def test_a_cap_holds_and_charges_no_more_than_itself(self, books: RunningLedger) -> None:
        account = await books.account(plan="fee-credits", owns=1000)
        run = books.run(account)
        key = own_key(account, 2000, model="acme/film")
        granted = (await run.authorize(own_key_state=READY, own_key=key)).granted
        assert granted.held_nano_credits == 3
        assert (await run.capture(9999)).fee_nano_credits == 3

    async def test_past_its_hold_a_fee_takes_the_overdraft_then_the_house_bears_it(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(plan="fee-credits", owns=10)
        run = books.run(account)
        await run.authorize(own_key_state=READY, worst_case=100)
        settled = await run.capture(1000)
        assert (settled.charged_nano_credits, settled.absorbed_nano_credits) == (60, 40)
        assert (await books.balance(account)).posted_nano_credits == -50
        assert await consistent(books)

    async def test_a_fixed_price_gives_the_fee_without_a_vendor_cost(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(plan="fee-credits", owns=1000)
        run = books.run(account)
        terms = {"operation": pb.OPERATION_IMAGE, "own_key": own_key(account, None)}
        granted = (await run.authorize(own_key_state=READY, **terms)).granted
        assert granted.held_nano_credits == 50
        assert (await run.capture(None)).fee_nano_credits == 50


@pytest.mark.requirement("L6", "L4")
async def test_invoiced_fees_leave_paused_credits_alone(books: RunningLedger) -> None:
    account = await books.account(plan="fee-invoice", owns=1000)
    for cost in (1000, 30, 50):
        run = books.run(account)
        granted = (await run.authorize(own_key_state=READY, worst_case=2000)).granted
        assert granted.held_nano_credits == 0
        # 5 % of the cost alone: 50, 1.5 and 2.5, halves to the even one.
        settled = await run.capture(cost)
        assert settled.fee_nano_credits == round(cost * 0.05)
    balance = await books.balance(account)
    assert (balance.posted_nano_credits, balance.fees_nano_credits) == (1000, 54)
    assert balance.invoiced_nano_credits == 54
    proof = (await books.set_mode(account, "CREDITS")).proof
    assert proof.proven
    assert proof.posted_nano_credits == 1000
    assert await consistent(books)


@pytest.mark.requirement("L6")
class TestAllowance:
    async def test_of_a_thousand_at_once_exactly_the_free_ones_are_free(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(plan="fee-free", owns=1_000_000)
        runs = [books.run(account) for _ in range(1000)]

        async def authorized(batch: list[Run]) -> list[bool]:
            requests = [run.authorize_request(own_key_state=READY) for run in batch]
            response = await books.router.BatchAuthorize(
                pb.BatchAuthorizeRequest(requests=requests)
            )
            return [result.response.granted.fee_waived for result in response.results]

        async def fees(batch: list[Run]) -> list[int]:
            requests = [pb.SettleRequest(capture=run.capture_request(100)) for run in batch]
            response = await books.router.BatchSettle(pb.BatchSettleRequest(requests=requests))
            return [result.authorization.fee_nano_credits for result in response.results]

        batches = [runs[i : i + 25] for i in range(0, 1000, 25)]
        waived = [w for batch in await asyncio.gather(*map(authorized, batches)) for w in batch]
        assert waived.count(True) == 10
        paid = [fee for batch in await asyncio.gather(*map(fees, batches)) for fee in batch]
        assert [fee == 0 for fee in paid] == waived
        assert (await books.balance(account)).fees_nano_credits == 990 * 50
        assert await consistent(books)

    async def test_a_failed_attempt_gives_its_free_request_back(self, books: RunningLedger) -> None:
        account = await books.account(plan="fee-free", owns=1000)
        for number in range(10):
            run = books.run(account)
            assert (await run.authorize(own_key_state=READY)).granted.fee_waived
            await (run.release() if number % 2 else run.capture(5, delivered=False))
        for _ in range(10):
            run = books.run(account)
            assert (await run.authorize(own_key_state=READY)).granted.fee_waived
            assert (await run.capture(100)).fee_nano_credits == 0
        run = books.run(account)
        granted = (await run.authorize(own_key_state=READY)).granted
        assert (granted.fee_waived, granted.held_nano_credits) == (False, 50)
        assert await consistent(books)

    async def test_a_dry_run_takes_none(self, books: RunningLedger) -> None:
        account = await books.account(plan="fee-free", owns=1000)
        for _ in range(11):
            run = books.run(account)
            assert (await run.authorize(own_key_state=READY, dry_run=True)).granted.fee_waived

    async def test_credits_take_none(self, books: RunningLedger) -> None:
        account = await books.account(plan="fee-free", owns=10_000)
        for _ in range(11):
            run = books.run(account)
            assert not (await run.authorize()).granted.fee_waived
            await run.capture(1)
        assert (await books.run(account).authorize(own_key_state=READY)).granted.fee_waived

    async def test_the_next_month_begins_anew_and_takes_nothing_back(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(plan="fee-free", owns=1000)
        open_run = books.run(account)
        await open_run.authorize(own_key_state=READY)
        # As if all of this had been last month, when every free request was taken.
        await rewrite(
            books.dsn,
            "UPDATE accounts SET allowance_month = allowance_month - interval '1 month', "
            "allowance_used = 10",
            "UPDATE authorizations SET allowance_month = allowance_month - interval '1 month'",
        )
        for _ in range(10):
            run = books.run(account)
            assert (await run.authorize(own_key_state=READY)).granted.fee_waived
        await open_run.release()
        granted = (await books.run(account).authorize(own_key_state=READY)).granted
        assert not granted.fee_waived
        assert await consistent(books)


@pytest.mark.requirement("L6", "R5")
class TestPriceRequired:
    async def test_an_unpriced_model_is_refused_where_the_fee_needs_its_cost(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(plan="fee-invoice")
        key = own_key(account, None, model="acme/new")
        run = books.run(account)
        status = await refused(run.authorize(own_key_state=READY, own_key=key))
        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PRICE_REQUIRED",
        )
        assert status.metadata == {"model": "acme/new", "plan": "plans/fee-invoice"}

    async def test_a_free_request_needs_no_price(self, books: RunningLedger) -> None:
        account = await books.account(plan="fee-free")
        for number in range(11):
            request = books.run(account).authorize_request(
                own_key_state=READY, own_key=own_key(account, None)
            )
            batch = pb.BatchAuthorizeRequest(requests=[request])
            (result,) = (await books.router.BatchAuthorize(batch)).results
            reason = read_status(result.error).reason if result.HasField("error") else ""
            assert reason == ("PRICE_REQUIRED" if number == 10 else "")


@pytest.mark.requirement("L6", "L13")
async def test_a_lapse_charges_the_fee_of_its_checkpoint_and_a_late_capture_the_exact_one(
    tmp_path: Path, ledger_dsn: str
) -> None:
    async with running_ledger(tmp_path, ledger_dsn, sweep_seconds="0.1") as books:
        account = await books.account(plan="fee-credits", owns=1000)
        told, untold = books.run(account), books.run(account)
        for run in (told, untold):
            await run.authorize(own_key_state=READY, worst_case=2000)
        await told.renew(checkpoint=captured(400))
        for run in (told, untold):
            await books.run_out(run)
        async with asyncio.timeout(20):
            while (await books.balance(account)).reserved_nano_credits:
                await asyncio.sleep(0.1)
        assert (await books.balance(account)).fees_nano_credits == 40
        assert (await told.capture(300)).fee_nano_credits == 30
        assert (await untold.capture(1000)).fee_nano_credits == 100
        assert (await books.balance(account)).posted_nano_credits == 870
        assert await consistent(books)
