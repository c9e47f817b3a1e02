# SPDX-License-Identifier: Apache-2.0
"""What the ledger says to bad input, and that nothing changes."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import timestamp_pb2
from ownkey.ledger.v1 import account_pb2, authorization_pb2, entry_pb2, grant_pb2
from ownkey.ledger.v1 import usage_pb2 as ledger_usage_pb2

from services.shared.ids import new_id
from tests.e2e.bad_input import (
    INT64_MAX,
    INT64_MIN,
    INVALID,
    MEBIBYTE,
    MODEL,
    NANO,
    NO_ACCOUNT,
    REUSED,
    STALE,
    Call,
    Expected,
    Scene,
    case,
    every,
    hold_to,
    page_cases,
    read_one,
)

CREDITS_MAX = 10**18


def ledger(rpc: str, request: Any) -> Call:
    return lambda scene: getattr(scene.clients.ledger, rpc)(request)


def grant(amount: int, **fields: Any) -> Call:
    return lambda scene: scene.clients.ledger.GrantCredits(
        grant_pb2.GrantCreditsRequest(
            **{
                "request_id": new_id(),
                "account": scene.account,
                "kind": grant_pb2.GRANT_KIND_PURCHASED,
                "amount_nano_credits": amount,
                **fields,
            }
        )
    )


def adjust(amount: int, reason: str = "a correction") -> Call:
    return lambda scene: scene.clients.ledger.AdjustCredits(
        grant_pb2.AdjustCreditsRequest(
            request_id=new_id(), account=scene.account, amount_nano_credits=amount, reason=reason
        )
    )


def open_account(**fields: Any) -> Call:
    known = {"account_id": f"x{new_id()}"[:20].rstrip("-"), "plan": "plans/standard"}
    return lambda scene: scene.clients.ledger.CreateAccount(
        account_pb2.CreateAccountRequest(**{"request_id": new_id(), **known, **fields})
    )


def change(mask: list[str], mode: int = 0, **fields: Any) -> Call:
    return lambda scene: scene.clients.ledger.UpdateAccount(
        account_pb2.UpdateAccountRequest(
            request_id=new_id(),
            account=account_pb2.Account(name=scene.account, **fields),
            update_mask={"paths": mask},
            billing_mode=mode,
        )
    )


def authorize(**fields: Any) -> Call:
    """An Authorize by the router's identity, sound but for these fields."""
    price = authorization_pb2.PriceRow(model=MODEL, provider="openai", price_id="p")
    known: dict[str, Any] = {
        "claimant": "claimant-0123456789",
        "sequence": 1,
        "fingerprint": bytes(32),
        "fingerprint_version": 1,
        "source": authorization_pb2.SOURCE_CREDITS,
        "own_key_state": authorization_pb2.OWN_KEY_STATE_NONE_STORED,
        "operation": authorization_pb2.OPERATION_TEXT,
        "credits": authorization_pb2.CreditTerms(price=price, worst_case_nano_usd=1),
    }

    def call(scene: Scene) -> Awaitable[object]:
        request = authorization_pb2.AuthorizeRequest(
            **{"account": scene.account, "request_id": new_id(), **known, **fields}
        )
        answer: Awaitable[object] = scene.clients.ledger.Authorize(request, metadata=scene.router)
        return answer

    return call


def worst_case(nano_usd: int) -> Call:
    price = authorization_pb2.PriceRow(model=MODEL, provider="openai", price_id="p")
    return authorize(
        credits=authorization_pb2.CreditTerms(price=price, worst_case_nano_usd=nano_usd)
    )


def statement(scene: Scene, **fields: Any) -> Awaitable[object]:
    request = entry_pb2.ExportStatementRequest(**{"account": scene.account, **fields})
    return read_one(scene.clients.ledger.ExportStatement(request))


def stamp(moment: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


NOW = datetime.now(UTC)
NOBODY = "accounts/nobody-here"

LEDGER_CASES = [
    case(
        "unknown_account_read",
        NO_ACCOUNT,
        ledger("GetAccount", account_pb2.GetAccountRequest(name=NOBODY)),
    ),
    case(
        "unknown_account_balance",
        NO_ACCOUNT,
        ledger("GetBalance", grant_pb2.GetBalanceRequest(account=NOBODY)),
    ),
    case("unknown_account_granted", NO_ACCOUNT, grant(NANO, account=NOBODY)),
    case(
        "unknown_account_switched",
        NO_ACCOUNT,
        lambda s: s.clients.ledger.SetBillingMode(
            account_pb2.SetBillingModeRequest(
                request_id=new_id(), account=NOBODY, billing_mode=account_pb2.BILLING_MODE_CREDITS
            )
        ),
    ),
    case(
        "unknown_account_entries",
        NO_ACCOUNT,
        ledger("ListEntries", entry_pb2.ListEntriesRequest(parent=NOBODY)),
    ),
    case(
        "unknown_account_usage",
        NO_ACCOUNT,
        ledger("GetUsage", ledger_usage_pb2.GetUsageRequest(account=NOBODY)),
    ),
    case("unknown_account_statement", NO_ACCOUNT, lambda s: statement(s, account=NOBODY, format=1)),
    case("unknown_account_authorized", NO_ACCOUNT, authorize(account=NOBODY)),
    case(
        "unknown_authorization",
        (grpc.StatusCode.NOT_FOUND, "AUTHORIZATION_NOT_FOUND"),
        lambda s: s.clients.ledger.GetAuthorization(
            authorization_pb2.GetAuthorizationRequest(account=s.account, request_id=new_id())
        ),
    ),
    case("malformed_account", INVALID, grant(NANO, account="demo")),
    case("empty_grant", INVALID, ledger("GrantCredits", grant_pb2.GrantCreditsRequest())),
    case("empty_adjustment", INVALID, ledger("AdjustCredits", grant_pb2.AdjustCreditsRequest())),
    case("empty_account", INVALID, ledger("CreateAccount", account_pb2.CreateAccountRequest())),
    case("empty_update", INVALID, ledger("UpdateAccount", account_pb2.UpdateAccountRequest())),
    case("empty_switch", INVALID, ledger("SetBillingMode", account_pb2.SetBillingModeRequest())),
    case("grant_zero", INVALID, grant(0)),
    case("grant_negative", INVALID, grant(-1)),
    case("grant_lowest", INVALID, grant(INT64_MIN)),
    case("grant_too_much", INVALID, grant(CREDITS_MAX + 1)),
    case("grant_highest", INVALID, grant(INT64_MAX)),
    case("grant_past_what_an_account_may_own", INVALID, grant(CREDITS_MAX)),
    case("grant_without_kind", INVALID, grant(NANO, kind=0)),
    case("grant_of_adjustment", INVALID, grant(NANO, kind=grant_pb2.GRANT_KIND_ADJUSTMENT)),
    case("grant_expired", INVALID, grant(NANO, expire_time=stamp(NOW - timedelta(days=1)))),
    case(
        "grant_at_no_time",
        INVALID,
        grant(NANO, expire_time=timestamp_pb2.Timestamp(seconds=INT64_MAX)),
    ),
    case("note_too_long", INVALID, grant(NANO, note="x" * 201)),
    case("grant_without_request_id", INVALID, grant(NANO, request_id="")),
    case("message_too_large", INVALID, grant(NANO, note="x" * 5 * MEBIBYTE)),
    case("adjust_zero", INVALID, adjust(0)),
    case("adjust_without_reason", INVALID, adjust(NANO, reason="")),
    case("adjust_too_much", INVALID, adjust(CREDITS_MAX + 1)),
    case("adjust_lowest", INVALID, adjust(INT64_MIN)),
    case("adjust_past_what_an_account_may_own", INVALID, adjust(CREDITS_MAX)),
    case(
        "adjust_below_what_is_there",
        (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS"),
        adjust(-101 * NANO),
    ),
    case("account_id_malformed", INVALID, open_account(account_id="Demo_1")),
    case("account_id_too_long", INVALID, open_account(account_id="a" * 64)),
    case(
        "account_exists",
        (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_EXISTS"),
        lambda s: open_account(account_id=s.account.removeprefix("accounts/"))(s),
    ),
    case(
        "unknown_plan",
        (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_NOT_FOUND"),
        open_account(plan="plans/nothing"),
    ),
    case("malformed_plan", INVALID, open_account(plan="nothing")),
    case("cap_negative", INVALID, open_account(fallback_daily_cap_nano_credits=-1)),
    case("unknown_mode", INVALID, open_account(billing_mode=99)),
    case(
        "switch_to_nothing",
        INVALID,
        lambda s: s.clients.ledger.SetBillingMode(
            account_pb2.SetBillingModeRequest(request_id=new_id(), account=s.account)
        ),
    ),
    case("mask_empty", INVALID, change([])),
    case("mask_star", INVALID, change(["*"])),
    case("mask_output_only", INVALID, change(["mode_epoch"])),
    case(
        "update_cap_negative",
        INVALID,
        change(["fallback_daily_cap_nano_credits"], fallback_daily_cap_nano_credits=-1),
    ),
    case("update_no_consent", INVALID, change(["fallback_consent"])),
    case("update_stale", STALE, change(["fallback_consent"], fallback_consent=1, etag="stale")),
    *page_cases(
        lambda s, **fields: s.clients.ledger.ListEntries(
            entry_pb2.ListEntriesRequest(parent=s.account, **fields)
        )
    ),
    case(
        "range_reversed",
        INVALID,
        lambda s: s.clients.ledger.ListEntries(
            entry_pb2.ListEntriesRequest(
                parent=s.account,
                start_time=stamp(NOW),
                end_time=stamp(NOW - timedelta(seconds=1)),
            )
        ),
    ),
    case(
        "day_malformed",
        INVALID,
        lambda s: s.clients.ledger.GetUsage(
            ledger_usage_pb2.GetUsageRequest(account=s.account, start_day="yesterday")
        ),
    ),
    case("statement_without_format", INVALID, statement),
    case("authorize_cost_negative", INVALID, worst_case(-1)),
    case("authorize_cost_overflowing", INVALID, worst_case(INT64_MAX)),
    case(
        "authorize_cost_unaffordable",
        (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS"),
        worst_case(10**13),
    ),
    case("authorize_no_attempt", INVALID, authorize(sequence=0)),
    case("authorize_attempt_too_many", INVALID, authorize(sequence=33)),
    case("authorize_short_fingerprint", INVALID, authorize(fingerprint=b"x")),
    case("authorize_claimant_malformed", INVALID, authorize(claimant="me")),
    case("authorize_no_source", INVALID, authorize(source=0)),
    case("authorize_no_key_state", INVALID, authorize(own_key_state=0)),
    case(
        "settle_nothing",
        INVALID,
        lambda s: s.clients.ledger.BatchSettle(
            authorization_pb2.BatchSettleRequest(), metadata=s.router
        ),
    ),
    case(
        "capture_negative",
        INVALID,
        lambda s: s.clients.ledger.Capture(
            authorization_pb2.CaptureRequest(
                account=s.account,
                request_id=new_id(),
                claimant="claimant-0123456789",
                sequence=1,
                capture=authorization_pb2.CaptureTerms(vendor_cost_nano_usd=-1, basis=1),
            ),
            metadata=s.router,
        ),
    ),
]


@pytest.mark.requirement("L2", "L3", "L12")
@every(LEDGER_CASES)
async def test_bad_input_is_refused(scene: Scene, call: Call, expected: Expected) -> None:
    await hold_to(scene, call, expected, service="ledger")


@pytest.mark.requirement("L2", "L11")
async def test_a_request_id_with_another_body_is_refused(scene: Scene) -> None:
    """Also one for quite another thing."""
    request_id = new_id()
    await grant(NANO, request_id=request_id)(scene)
    adjustment = grant_pb2.AdjustCreditsRequest(
        request_id=request_id,
        account=scene.account,
        amount_nano_credits=NANO,
        reason="the same id for another thing",
    )
    for other in (grant(2 * NANO, request_id=request_id), ledger("AdjustCredits", adjustment)):
        await hold_to(scene, other, REUSED, service="ledger")
