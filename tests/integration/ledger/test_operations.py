# SPDX-License-Identifier: Apache-2.0
"""Accounts, grants and adjustments: once, whatever is repeated; and bad input."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from ownkey.ledger.v1 import account_pb2, grant_pb2, plan_pb2

from services.ledger.domain.money import CREDITS_MAX
from tests.support.ledger import RunningLedger, refused, request_id, told


def grant_request(account: str, amount: int = 100, **fields: Any) -> grant_pb2.GrantCreditsRequest:
    """Return a GrantCredits with a new id."""
    values = {"kind": grant_pb2.GRANT_KIND_PURCHASED, "request_id": request_id(), **fields}
    return grant_pb2.GrantCreditsRequest(account=account, amount_nano_credits=amount, **values)


def adjust_request(account: str, amount: int, reason: str = "typo") -> Any:
    """Return an AdjustCredits with a new id."""
    return grant_pb2.AdjustCreditsRequest(
        request_id=request_id(), account=account, amount_nano_credits=amount, reason=reason
    )


@pytest.mark.requirement("L2", "L11")
class TestGrants:
    async def test_a_repeated_grant_is_granted_once(self, books: RunningLedger) -> None:
        account = await books.account()
        request = grant_request(account)
        first = await books.backend.GrantCredits(request)
        assert await books.backend.GrantCredits(request) == first
        assert (await books.balance(account)).posted_nano_credits == 100

    async def test_twenty_repeats_at_once_are_granted_once(self, books: RunningLedger) -> None:
        account = await books.account()
        request = grant_request(account)
        answers = await asyncio.gather(*(books.backend.GrantCredits(request) for _ in range(20)))
        assert all(answer == answers[0] for answer in answers)
        assert (await books.balance(account)).posted_nano_credits == 100

    async def test_another_body_under_the_same_id_is_refused(self, books: RunningLedger) -> None:
        account = await books.account()
        request = grant_request(account)
        await books.backend.GrantCredits(request)
        request.amount_nano_credits += 1
        status = await refused(books.backend.GrantCredits(request))
        assert (status.code, status.reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
        )
        assert (await books.balance(account)).posted_nano_credits == 100

    async def test_the_soonest_to_expire_is_spent_first(self, books: RunningLedger) -> None:
        account = await books.account(owns=100)
        monthly = await books.grant(
            account,
            100,
            kind=grant_pb2.GRANT_KIND_MONTHLY,
            expire_time=Timestamp(seconds=4_000_000_000),
        )
        run = books.run(account)
        await run.authorize(worst_case=120)
        held = await books.balance(account)
        assert [grant.reserved_nano_credits for grant in held.grants] == [100, 20]
        assert held.grants[0].name == monthly.name
        await run.capture(110)
        left = await books.balance(account)
        assert [grant.remaining_nano_credits for grant in left.grants] == [90]

    @pytest.mark.parametrize("amount", [0, -1, CREDITS_MAX + 1, 2**63 - 1, -(2**63)])
    async def test_an_amount_out_of_range_is_refused(
        self, books: RunningLedger, amount: int
    ) -> None:
        account = await books.account()
        status = await refused(books.backend.GrantCredits(grant_request(account, amount)))
        assert status.reason == "INVALID_ARGUMENT"
        assert status.metadata["field"] == "amount_nano_credits"

    async def test_more_than_an_account_may_own_is_refused(self, books: RunningLedger) -> None:
        account = await books.account(owns=CREDITS_MAX)
        status = await refused(books.backend.GrantCredits(grant_request(account, 1)))
        assert status.metadata["field"] == "amount_nano_credits"
        assert (await books.balance(account)).posted_nano_credits == CREDITS_MAX

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"request_id": ""}, "request_id"),
            ({"request_id": "not-a-uuid"}, "request_id"),
            ({"kind": 0}, "kind"),
            ({"kind": grant_pb2.GRANT_KIND_ADJUSTMENT}, "kind"),
            ({"expire_time": Timestamp(seconds=1)}, "expire_time"),
            ({"note": "x" * 201}, "note"),
            ({"note": "a\nb"}, "note"),
        ],
    )
    async def test_a_malformed_field_is_named(
        self, books: RunningLedger, fields: dict[str, Any], field: str
    ) -> None:
        account = await books.account()
        status = await refused(books.backend.GrantCredits(grant_request(account, **fields)))
        assert (status.reason, status.metadata["field"]) == ("INVALID_ARGUMENT", field)

    async def test_an_unknown_account_is_not_found(self, books: RunningLedger) -> None:
        status = await refused(books.backend.GrantCredits(grant_request("accounts/nobody")))
        assert status.reason == "ACCOUNT_NOT_FOUND"
        status = await refused(books.balance("accounts/nobody"))
        assert status.reason == "ACCOUNT_NOT_FOUND"


@pytest.mark.requirement("L2")
class TestAdjustments:
    async def test_up_and_down_with_a_reason(self, books: RunningLedger) -> None:
        account = await books.account(owns=100)
        up = await books.backend.AdjustCredits(adjust_request(account, 50, "goodwill"))
        assert up.balance.posted_nano_credits == 150
        assert (up.entries[0].reason, up.entries[0].actor) == ("goodwill", "anonymous")
        down = await books.operator.AdjustCredits(adjust_request(account, -120))
        assert down.balance.posted_nano_credits == 30
        assert {entry.actor for entry in down.entries} == {"operator"}

    @pytest.mark.requirement("L11")
    async def test_never_below_what_is_available_and_a_repeat_is_refused_alike(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=100)
        await books.run(account).authorize(worst_case=60)
        request = adjust_request(account, -41)
        first = await refused(books.backend.AdjustCredits(request))
        assert first.reason == "INSUFFICIENT_CREDITS"
        await books.grant(account, 1000)
        assert told(await refused(books.backend.AdjustCredits(request))) == told(first)
        assert (await books.balance(account)).posted_nano_credits == 1100

    @pytest.mark.parametrize(
        ("amount", "reason", "field"),
        [
            (0, "typo", "amount_nano_credits"),
            (-CREDITS_MAX - 1, "typo", "amount_nano_credits"),
            (1, "", "reason"),
        ],
    )
    async def test_a_malformed_field_is_named(
        self, books: RunningLedger, amount: int, reason: str, field: str
    ) -> None:
        account = await books.account()
        status = await refused(books.backend.AdjustCredits(adjust_request(account, amount, reason)))
        assert status.metadata["field"] == field


@pytest.mark.requirement("L1", "L11")
class TestAccounts:
    async def test_a_repeated_creation_is_one_and_another_is_refused(
        self, books: RunningLedger
    ) -> None:
        request = account_pb2.CreateAccountRequest(
            request_id=request_id(), account_id="acme", plan="plans/even"
        )
        first = await books.backend.CreateAccount(request)
        assert await books.backend.CreateAccount(request) == first
        request.request_id = request_id()
        status = await refused(books.backend.CreateAccount(request))
        assert (status.code, status.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_EXISTS")

    async def test_an_account_may_begin_paused(self, books: RunningLedger) -> None:
        account = await books.account(owns=10, billing_mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        assert (await books.balance(account)).paused
        assert (await books.set_mode(account, "CREDITS")).proof.granted_nano_credits == 10

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"account_id": "Not Allowed"}, "INVALID_ARGUMENT"),
            ({"account_id": "platform"}, "INVALID_ARGUMENT"),
            ({"plan": "gold"}, "INVALID_ARGUMENT"),
            ({"plan": "plans/gold"}, "PLAN_NOT_FOUND"),
            ({"billing_mode": 9}, "INVALID_ARGUMENT"),
            (
                {
                    "plan": "plans/credits-only",
                    "billing_mode": account_pb2.BILLING_MODE_OWN_KEY_FIRST,
                },
                "MODE_NOT_ALLOWED",
            ),
            ({"fallback_daily_cap_nano_credits": -1}, "INVALID_ARGUMENT"),
        ],
    )
    async def test_a_wrong_creation_makes_nothing(
        self, books: RunningLedger, fields: dict[str, Any], reason: str
    ) -> None:
        values = {
            "request_id": request_id(),
            "account_id": "acme",
            "plan": "plans/even",
            **fields,
        }
        request = account_pb2.CreateAccountRequest(**values)
        assert (await refused(books.backend.CreateAccount(request))).reason == reason
        name = "accounts/acme"
        missing = await refused(books.backend.GetAccount(account_pb2.GetAccountRequest(name=name)))
        assert missing.reason == "ACCOUNT_NOT_FOUND"

    async def test_an_update_is_guarded_by_its_etag(self, books: RunningLedger) -> None:
        name = await books.account()
        request = account_pb2.UpdateAccountRequest(
            request_id=request_id(),
            account=account_pb2.Account(
                name=name,
                fallback_consent=account_pb2.FALLBACK_CONSENT_NEVER,
                fallback_daily_cap_nano_credits=5,
                etag="1",
            ),
            update_mask=FieldMask(paths=["fallback_consent", "fallback_daily_cap_nano_credits"]),
        )
        updated = (await books.backend.UpdateAccount(request)).account
        assert updated.fallback_consent == account_pb2.FALLBACK_CONSENT_NEVER
        assert updated.fallback_daily_cap_nano_credits == 5
        assert updated.etag == "2"
        request.request_id = request_id()
        assert (await refused(books.backend.UpdateAccount(request))).reason == "ETAG_MISMATCH"
        request.account.etag = ""
        request.account.ClearField("fallback_daily_cap_nano_credits")
        request.request_id = request_id()
        cleared = (await books.backend.UpdateAccount(request)).account
        assert not cleared.HasField("fallback_daily_cap_nano_credits")

    @pytest.mark.parametrize("paths", [[], ["*"], ["billing_mode"], ["plan", "etag"]])
    async def test_a_mask_that_names_nothing_updatable_is_refused(
        self, books: RunningLedger, paths: list[str]
    ) -> None:
        request = account_pb2.UpdateAccountRequest(
            request_id=request_id(),
            account=account_pb2.Account(name="accounts/demo", plan="plans/even"),
            update_mask=FieldMask(paths=paths),
        )
        status = await refused(books.backend.UpdateAccount(request))
        assert status.metadata["field"] == "update_mask"

    async def test_the_plans_are_listed(self, books: RunningLedger) -> None:
        response = await books.backend.ListPlans(plan_pb2.ListPlansRequest())
        plans = {plan.name: plan for plan in response.plans}
        assert list(plans) == sorted(plans)
        marked_up = plans["plans/marked-up"]
        assert marked_up.operation_prices[0].price_nano_credits == 4_000_000_000
        assert not marked_up.HasField("fee")
        monthly = plans["plans/monthly"]
        assert monthly.monthly_grant_nano_credits == 500
        assert monthly.model_price_nano_credits == {"acme/film": 7}
        fee = plans["plans/fee-credits"].fee
        assert (fee.basis, fee.source) == (
            plan_pb2.FEE_BASIS_CREDIT_PRICE,
            plan_pb2.FEE_SOURCE_CREDITS,
        )
        assert (fee.rate_parts_per_million, fee.cap_nano_credits) == (50_000, {"acme/film": 3})

    async def test_times_are_the_databases(self, books: RunningLedger) -> None:
        name = await books.account()
        response = await books.backend.GetAccount(account_pb2.GetAccountRequest(name=name))
        made = response.account.create_time.ToDatetime(tzinfo=UTC)
        assert abs((datetime.now(UTC) - made).total_seconds()) < 60
