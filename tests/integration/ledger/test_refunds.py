# SPDX-License-Identifier: Apache-2.0
"""Refunds of captured charges."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import entry_pb2, grant_pb2, usage_pb2

from services.shared.status import from_rpc_error
from tests.support.ledger import RunningLedger, consistent, own_key, refused, request_id, told


def refund(authorization: str, **fields: Any) -> grant_pb2.RefundChargeRequest:
    """Return a RefundCharge."""
    values = {"request_id": request_id(), "reason": "broken picture", **fields}
    return grant_pb2.RefundChargeRequest(authorization=authorization, **values)


async def charge(books: RunningLedger, account: str, amount: int) -> str:
    """Charge an account and return the name of the attempt."""
    run = books.run(account)
    await run.authorize(worst_case=amount)
    return (await run.capture(amount)).name


@pytest.mark.requirement("L2", "L12")
class TestRefund:
    async def test_a_part_then_the_rest_goes_back_with_reason_and_identity(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        name = await charge(books, account, 100)
        first = await books.operator.RefundCharge(refund(name, amount_nano_credits=30))
        attempt = first.authorization
        assert (attempt.charged_nano_credits, attempt.refunded_nano_credits) == (100, 30)
        (entry,) = first.entries
        assert (entry.kind, entry.debit, entry.credit, entry.amount_nano_credits) == (
            entry_pb2.ENTRY_KIND_REFUND,
            entry_pb2.SUB_LEDGER_SPENT,
            entry_pb2.SUB_LEDGER_CREDITS,
            30,
        )
        assert (entry.reason, entry.actor) == ("broken picture", "operator")
        assert entry.authorization == name
        assert first.balance.posted_nano_credits == 930
        rest = await books.operator.RefundCharge(refund(name))
        assert rest.authorization.refunded_nano_credits == 100
        assert rest.balance.posted_nano_credits == 1000
        (row,) = (await books.backend.GetUsage(usage_pb2.GetUsageRequest(account=account))).rows
        assert (row.attempt_count, row.charged_nano_credits) == (1, 0)
        assert await consistent(books)

    async def test_a_repeat_refunds_once_and_is_answered_alike(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        name = await charge(books, account, 100)
        request = refund(name, amount_nano_credits=60)
        first = await books.operator.RefundCharge(request)
        assert await books.operator.RefundCharge(request) == first
        request.amount_nano_credits = 61
        assert (await refused(books.operator.RefundCharge(request))).reason == "REQUEST_ID_REUSED"
        assert (await books.balance(account)).posted_nano_credits == 960

    async def test_of_many_at_once_as_many_succeed_as_the_charge_covers(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        name = await charge(books, account, 100)
        requests = [refund(name, amount_nano_credits=20) for _ in range(20)]
        found = await asyncio.gather(
            *(books.operator.RefundCharge(request) for request in requests), return_exceptions=True
        )
        refusals = [
            from_rpc_error(error).reason
            for error in found
            if isinstance(error, grpc.aio.AioRpcError)
        ]
        assert refusals == ["REFUND_EXCEEDS_CHARGE"] * 15
        assert (await books.balance(account)).posted_nano_credits == 1000
        assert await consistent(books)

    async def test_more_than_is_left_is_refused_for_good(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        name = await charge(books, account, 100)
        request = refund(name, amount_nano_credits=101)
        first = await refused(books.operator.RefundCharge(request))
        assert (first.code, first.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "REFUND_EXCEEDS_CHARGE",
        )
        assert first.metadata["left_nano_credits"] == "100"
        assert told(await refused(books.operator.RefundCharge(request))) == told(first)
        assert (await books.balance(account)).posted_nano_credits == 900

    @pytest.mark.parametrize("state", ["OPEN", "RELEASED"])
    async def test_only_what_was_captured_is_refunded(
        self, books: RunningLedger, state: str
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        name = (await run.authorize()).granted.name
        if state == "RELEASED":
            await run.release()
        status = await refused(books.operator.RefundCharge(refund(name)))
        assert (status.reason, status.metadata["state"]) == ("CHARGE_NOT_REFUNDABLE", state)

    async def test_a_repeated_capture_is_still_answered_after_a_refund(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        name = (await run.authorize()).granted.name
        await run.capture(100)
        await books.operator.RefundCharge(refund(name))
        assert (await run.capture(100)).charged_nano_credits == 100
        assert (await books.balance(account)).posted_nano_credits == 1000

    async def test_it_lands_while_paused_and_the_proof_explains_it(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        name = await charge(books, account, 100)
        await books.set_mode(account, "OWN_KEY_ONLY")
        await books.operator.RefundCharge(refund(name))
        proof = (await books.set_mode(account, "CREDITS")).proof
        assert proof.proven
        assert (proof.corrected_nano_credits, proof.posted_nano_credits) == (100, 1000)

    async def test_a_fee_is_refunded_to_where_it_came_from(self, books: RunningLedger) -> None:
        for plan, posted in (("fee-credits", 1000), ("fee-invoice", 1000)):
            account = await books.account(plan, plan=plan, owns=1000)
            run = books.run(account)
            key = own_key(account, 1000)
            await run.authorize(own_key_state=pb.OWN_KEY_STATE_READY, own_key=key)
            name = (await run.capture(1000)).name
            response = await books.operator.RefundCharge(refund(name))
            assert response.authorization.refunded_nano_credits in {50, 100}
            balance = response.balance
            assert (balance.posted_nano_credits, balance.fees_nano_credits) == (posted, 0)
            assert balance.invoiced_nano_credits == 0
        assert await consistent(books)

    async def test_bad_input_and_strangers_are_refused(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        name = await charge(books, account, 100)
        unknown = f"{account}/authorizations/r{request_id()}-1-1"
        for request, reason in (
            (refund(name, reason=""), "INVALID_ARGUMENT"),
            (refund(name, amount_nano_credits=0), "INVALID_ARGUMENT"),
            (refund(name, amount_nano_credits=-1), "INVALID_ARGUMENT"),
            (refund("x"), "INVALID_ARGUMENT"),
            (refund(unknown), "AUTHORIZATION_NOT_FOUND"),
            (refund(name.replace("demo", "nobody")), "ACCOUNT_NOT_FOUND"),
        ):
            assert (await refused(books.operator.RefundCharge(request))).reason == reason
        assert (await refused(books.backend.RefundCharge(refund(name)))).reason == "ACCESS_DENIED"
        assert (await books.balance(account)).posted_nano_credits == 900


@pytest.mark.requirement("L2", "L12")
async def test_a_negative_correction_carries_reason_and_identity(books: RunningLedger) -> None:
    account = await books.account(owns=1000)
    response = await books.operator.AdjustCredits(
        grant_pb2.AdjustCreditsRequest(
            request_id=request_id(), account=account, amount_nano_credits=-7, reason="typo"
        )
    )
    (entry,) = response.entries
    assert (entry.reason, entry.actor, entry.amount_nano_credits) == ("typo", "operator", 7)
    assert await consistent(books)
