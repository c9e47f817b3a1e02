# SPDX-License-Identifier: Apache-2.0
"""
Between rows of the ledger's tables and the domain's values.

Members of the domain's enums are strings, and are written as such.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from enum import StrEnum
from typing import Any, TypeVar

from services.ledger.domain.accounts import Account, Grant, GrantKind, Totals
from services.ledger.domain.book import Charge, Part
from services.ledger.domain.budgets import KeyBudget
from services.ledger.domain.entries import Cause, Entry, EntryKind, SubLedger
from services.ledger.domain.fees import FeeBasis, FeeSource, FeeTerms
from services.ledger.domain.files import ModeChange, RecordedOperation, RecordedRefusal
from services.ledger.domain.modes import (
    BillingMode,
    FallbackConsent,
    Funding,
    Operation,
    OwnKeyState,
    Source,
)
from services.ledger.domain.money import PriceTerms
from services.ledger.domain.receipts import GrantState, OpenHold, PauseReceipt
from services.ledger.domain.requests import (
    Authorization,
    AuthorizationState,
    Capture,
    EndedBy,
    PriceRow,
    Request,
    RequestState,
    Settlement,
    UsageBasis,
)
from services.ledger.domain.usage import UsageKey, UsageSum, UsageUnits
from services.ledger.errors import REFUSALS, Refusal
from services.shared.errors import QuotaViolation

Row = Any
"""An asyncpg record: columns by name."""

_W = TypeVar("_W", bound=StrEnum)


def _words(words: type[_W]) -> dict[str, _W]:
    """Return an enum's members by their value: faster than to call the enum."""
    return {word.value: word for word in words}


_MODES, _CONSENTS, _GRANT_KINDS = _words(BillingMode), _words(FallbackConsent), _words(GrantKind)
_REQUEST_STATES, _ENDED_BY = _words(RequestState), _words(EndedBy)
_FUNDINGS, _SOURCES, _OWN_KEY_STATES = _words(Funding), _words(Source), _words(OwnKeyState)
_OPERATIONS, _FEE_BASES, _FEE_SOURCES = _words(Operation), _words(FeeBasis), _words(FeeSource)
_STATES = _words(AuthorizationState)

TOTALS = (
    "credits",
    "reserved",
    "overdrawn",
    "issued",
    "spent",
    "fees",
    "invoiced",
    "absorbed",
    "expired",
)


def account_of(row: Row) -> Account:
    """Read an account."""
    return Account(
        account_id=row["account_id"],
        plan_id=row["plan_id"],
        billing_mode=_MODES[row["billing_mode"]],
        mode_epoch=row["mode_epoch"],
        fallback_consent=_CONSENTS[row["fallback_consent"]],
        fallback_daily_cap=row["fallback_daily_cap"],
        fallback_day=row["fallback_day"],
        fallback_used=row["fallback_used"],
        allowance_month=row["allowance_month"],
        allowance_used=row["allowance_used"],
        first_period=row["first_period"],
        period_count=row["period_count"],
        pause_time=row["pause_time"],
        paused_for=row["paused_for"],
        totals=Totals(*[row[name] for name in TOTALS]),
        overdraft_limit=row["overdraft_limit"],
        entry_count=row["entry_count"],
        authorization_count=row["authorization_count"],
        revision=row["revision"],
        last_time=row["last_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def moved_values(account: Account, stamp: int) -> tuple[Any, ...]:
    """Write what attempts move of an account, in the order of MOVE_ACCOUNT's after the key."""
    totals = account.totals
    return (
        account.fallback_day,
        account.fallback_used,
        account.allowance_month,
        account.allowance_used,
        totals.credits,
        totals.reserved,
        totals.overdrawn,
        totals.issued,
        totals.spent,
        totals.fees,
        totals.invoiced,
        totals.absorbed,
        totals.expired,
        account.entry_count,
        account.authorization_count,
        account.last_time,
        stamp,
    )


def account_values(account: Account, stamp: int) -> tuple[Any, ...]:
    """Write an account, in the order of UPDATE_ACCOUNT's parameters after the key."""
    return (
        *moved_values(account, stamp),
        account.plan_id,
        account.billing_mode,
        account.mode_epoch,
        account.fallback_consent,
        account.fallback_daily_cap,
        account.first_period,
        account.period_count,
        account.pause_time,
        account.paused_for,
        account.overdraft_limit,
        account.revision,
        account.update_time,
    )


def grant_of(row: Row) -> Grant:
    """Read a grant."""
    return Grant(
        grant_id=row["grant_id"],
        kind=_GRANT_KINDS[row["kind"]],
        amount=row["amount"],
        remaining=row["remaining"],
        reserved=row["reserved"],
        expire_time=row["expire_time"],
        paused_before=row["paused_before"],
        note=row["note"],
        create_time=row["create_time"],
        number=row["number"],
    )


def grant_values(grant: Grant) -> tuple[Any, ...]:
    """Write a grant, in the order of UPSERT_GRANT's parameters after the account's key."""
    return (
        grant.grant_id,
        grant.kind,
        grant.amount,
        grant.remaining,
        grant.reserved,
        grant.expire_time,
        grant.paused_before,
        grant.note,
        grant.create_time,
        grant.number,
    )


def request_of(row: Row) -> Request:
    """Read a request."""
    return Request(
        request_id=str(row["request_id"]),
        fingerprint=row["fingerprint"],
        fingerprint_version=row["fingerprint_version"],
        claimant=row["claimant"],
        run=row["run"],
        state=_REQUEST_STATES[row["state"]],
        ended_by=_ENDED_BY[row["ended_by"]],
        last_sequence=row["last_sequence"],
        lease_expire_time=row["lease_expire_time"],
        own_key_tried=row["own_key_tried"],
        always_use=row["always_use"],
        checkpoint=capture_of(row["checkpoint"]),
        outcome=row["outcome"],
    )


def request_values(request: Request) -> tuple[Any, ...]:
    """Write a new request, in the order of REQUESTS' columns after the account's key."""
    return (
        request.request_id,
        request.fingerprint,
        request.fingerprint_version,
        *changed_request_values(request)[1:],
    )


def changed_request_values(request: Request) -> tuple[Any, ...]:
    """Write a request, in the order of UPDATE_REQUEST's parameters after the account's key."""
    return (
        request.request_id,
        request.claimant,
        request.run,
        request.state,
        request.ended_by,
        request.last_sequence,
        request.lease_expire_time,
        request.own_key_tried,
        request.always_use,
        capture_json(request.checkpoint),
        request.outcome,
    )


def authorization_of(row: Row) -> Authorization:
    """Read an authorization, without its settlements."""
    return Authorization(
        request_id=str(row["request_id"]),
        claimant=row["claimant"],
        run=row["run"],
        sequence=row["sequence"],
        number=row["number"],
        digest=row["digest"],
        funding=_FUNDINGS[row["funding"]],
        source=_SOURCES[row["source"]],
        own_key_state=_OWN_KEY_STATES[row["own_key_state"]],
        fallback_day=row["fallback_day"],
        mode_epoch=row["mode_epoch"],
        plan_id=row["plan_id"],
        operation=_OPERATIONS[row["operation"]],
        price_row=PriceRow(row["model"], row["provider"], row["price_id"]),
        price_terms=PriceTerms(
            row["credit_value_nano_usd"],
            row["markup_parts_per_million"],
            row["fixed_nano_credits"],
        ),
        fee_terms=_fee_terms_of(row),
        allowance_month=row["allowance_month"],
        key=row["key"],
        key_version=row["key_version"],
        key_etag=row["key_etag"],
        key_limit_nano_usd=row["key_limit_nano_usd"],
        worst_case_nano_usd=row["worst_case_nano_usd"],
        hold=_parts(row["hold_grants"], row["hold_amounts"]),
        create_time=row["create_time"],
    )


def _fee_terms_of(row: Row) -> FeeTerms | None:
    if row["fee_basis"] is None:
        return None
    return FeeTerms(
        _FEE_BASES[row["fee_basis"]],
        row["fee_rate_parts_per_million"],
        _FEE_SOURCES[row["fee_source"]],
        row["fee_cap_nano_credits"],
    )


def _fee_terms_values(terms: FeeTerms | None) -> tuple[Any, ...]:
    if terms is None:
        return (None, None, None, None)
    return (
        terms.basis,
        terms.rate_parts_per_million,
        terms.source,
        terms.cap_nano_credits,
    )


def authorization_values(attempt: Authorization) -> tuple[Any, ...]:
    """Write an authorization, in the order of AUTHORIZATIONS' columns after the account's key."""
    return (
        attempt.request_id,
        attempt.claimant,
        attempt.sequence,
        attempt.run,
        attempt.number,
        attempt.digest,
        attempt.funding,
        attempt.source,
        attempt.own_key_state,
        attempt.fallback_day,
        attempt.mode_epoch,
        attempt.plan_id,
        attempt.operation,
        attempt.price_row.model,
        attempt.price_row.provider,
        attempt.price_row.price_id,
        attempt.price_terms.credit_value_nano_usd,
        attempt.price_terms.markup_parts_per_million,
        attempt.price_terms.fixed_nano_credits,
        *_fee_terms_values(attempt.fee_terms),
        attempt.allowance_month,
        attempt.key,
        attempt.key_version,
        attempt.key_etag,
        attempt.key_limit_nano_usd,
        attempt.worst_case_nano_usd,
        attempt.held,
        [part.grant_id for part in attempt.hold],
        [part.amount for part in attempt.hold],
        attempt.create_time,
    )


def settlement_of(row: Row) -> Settlement:
    """Read a settlement."""
    parts = _parts(row["charge_grants"], row["charge_amounts"])
    return Settlement(
        state=_STATES[row["state"]],
        terms_digest=row["terms_digest"],
        capture=capture_of(row["capture"]),
        outcome=row["outcome"],
        charge=Charge(parts, row["overdraft"], row["absorbed"], row["invoiced"]),
        settle_time=row["settle_time"],
        refunded=row["refunded"],
    )


def settlement_values(
    attempt: Authorization, revision: int, settlement: Settlement
) -> tuple[Any, ...]:
    """Write a settlement, in the order of SETTLEMENTS' columns after the account's key."""
    charge, capture = settlement.charge, settlement.capture
    return (
        attempt.request_id,
        attempt.claimant,
        attempt.sequence,
        revision,
        settlement.state,
        settlement.terms_digest,
        capture_json(capture),
        settlement.outcome,
        capture.vendor_cost_nano_usd if capture else None,
        charge.customer,
        0 if attempt.funding is Funding.CREDITS else charge.customer,
        charge.overdraft,
        charge.absorbed,
        charge.invoiced,
        settlement.refunded,
        [part.grant_id for part in charge.parts],
        [part.amount for part in charge.parts],
        settlement.settle_time,
    )


def entry_of(row: Row) -> Entry:
    """Read an entry."""
    return Entry(
        sequence=row["sequence"],
        kind=EntryKind(row["kind"]),
        debit=SubLedger(row["debit"]),
        credit=SubLedger(row["credit"]),
        amount=row["amount"],
        posted_after=row["posted_after"],
        grant_id=row["grant_id"],
        cause=Cause(
            mode_epoch=row["mode_epoch"],
            authorization=row["authorization_id"],
            credits_asked=row["credits_asked"],
            reason=row["reason"],
            actor=row["actor"],
        ),
        create_time=row["create_time"],
    )


def entry_values(entry: Entry) -> tuple[Any, ...]:
    """Write an entry, in the order of ENTRIES' columns after the account's key."""
    return (
        entry.sequence,
        entry.kind,
        entry.debit,
        entry.credit,
        entry.amount,
        entry.posted_after,
        entry.grant_id,
        entry.cause.authorization,
        entry.cause.mode_epoch,
        entry.cause.credits_asked,
        entry.cause.reason,
        entry.cause.actor,
        entry.create_time,
    )


def refusal_of(text: str) -> Refusal:
    """Read a recorded refusal."""
    stored = json.loads(text)
    return REFUSALS[stored["reason"]](
        stored["message"],
        metadata=stored["metadata"],
        quotas=[QuotaViolation(*quota) for quota in stored["quotas"]],
    )


def refusal_json(refusal: Refusal) -> str:
    """Write a refusal."""
    return json.dumps(
        {
            "reason": refusal.reason,
            "message": refusal.message,
            "metadata": refusal.metadata,
            "quotas": [astuple(quota) for quota in refusal.quotas],
        }
    )


def recorded_refusal_of(row: Row) -> RecordedRefusal:
    """Read a refused attempt."""
    return RecordedRefusal(row["digest"], refusal_of(row["refusal"]))


def operation_of(row: Row) -> RecordedOperation:
    """Read an answered operation."""
    refused = row["refusal"]
    return RecordedOperation(
        request_id=str(row["request_id"]),
        operation=row["operation"],
        fingerprint=row["fingerprint"],
        answer=row["response"] if refused is None else refusal_of(refused),
    )


def operation_values(operation: RecordedOperation) -> tuple[Any, ...]:
    """Write an answered operation, in the order of OPERATIONS' columns after the account's key."""
    answer = operation.answer
    refused = isinstance(answer, Refusal)
    return (
        operation.request_id,
        operation.operation,
        operation.fingerprint,
        None if refused else answer,
        refusal_json(answer) if isinstance(answer, Refusal) else None,
    )


def mode_change_of(account_id: str, row: Row) -> ModeChange:
    """Read a change of mode."""
    stored = row["receipt"]
    return ModeChange(
        mode_epoch=row["mode_epoch"],
        billing_mode=_MODES[row["billing_mode"]],
        plan_id=row["plan_id"],
        entry_sequence=row["entry_sequence"],
        posted=row["posted"],
        reserved=row["reserved"],
        receipt=_receipt_of(account_id, row, json.loads(stored)) if stored else None,
        actor=row["actor"],
        create_time=row["create_time"],
    )


def mode_change_values(change: ModeChange) -> tuple[Any, ...]:
    """Write a change of mode, in the order of MODE_CHANGES' columns after the account's key."""
    return (
        change.mode_epoch,
        change.billing_mode,
        change.plan_id,
        change.entry_sequence,
        change.posted,
        change.reserved,
        _receipt_json(change.receipt) if change.receipt else None,
        change.actor,
        change.create_time,
    )


def usage_key_of(row: Row) -> UsageKey:
    """Read what a row of usage is about."""
    return UsageKey(
        day=row["day"],
        model=row["model"],
        provider=row["provider"],
        key=row["key"],
        funding=_FUNDINGS[row["funding"]],
    )


def usage_sum_of(row: Row) -> UsageSum:
    """Read the sums of a row of usage."""
    return UsageSum(
        attempt_count=row["attempt_count"],
        vendor_cost_nano_usd=row["vendor_cost_nano_usd"],
        charged_nano_credits=row["charged_nano_credits"],
        fee_nano_credits=row["fee_nano_credits"],
        units=UsageUnits(*(row[name] for name in UsageUnits._fields)),
    )


def usage_values(key: UsageKey, usage: UsageSum) -> tuple[Any, ...]:
    """Write usage to add, in the order of ADD_USAGE's parameters after the account's key."""
    return (
        key.day,
        key.model,
        key.provider,
        key.key,
        key.funding,
        usage.attempt_count,
        usage.vendor_cost_nano_usd,
        usage.charged_nano_credits,
        usage.fee_nano_credits,
        *usage.units,
    )


def budget_of(row: Row) -> KeyBudget:
    """Read a key's month."""
    return KeyBudget(row["key"], row["month"], row["held_nano_usd"], row["spent_nano_usd"])


def budget_values(budget: KeyBudget) -> tuple[Any, ...]:
    """Write a key's month, in the order of UPSERT_BUDGET's parameters after the account's key."""
    return (budget.key, budget.month, budget.held_nano_usd, budget.spent_nano_usd)


def capture_of(text: str | None) -> Capture | None:
    """Read a usage."""
    if text is None:
        return None
    stored = json.loads(text)
    return Capture(
        vendor_cost_nano_usd=stored["vendor_cost_nano_usd"],
        units=UsageUnits(**stored["units"]),
        basis=UsageBasis(stored["basis"]),
        delivered=stored["delivered"],
    )


def capture_json(capture: Capture | None) -> str | None:
    """Write a usage; counts of zero are left out."""
    if capture is None:
        return None
    counts = zip(UsageUnits._fields, capture.units, strict=True)
    units = ", ".join([f'"{name}": {count}' for name, count in counts if count])
    cost = "null" if capture.vendor_cost_nano_usd is None else capture.vendor_cost_nano_usd
    delivered = "true" if capture.delivered else "false"
    # Numbers and words only, so nothing needs to be escaped.
    return (
        f'{{"vendor_cost_nano_usd": {cost}, "units": {{{units}}}, '
        f'"basis": "{capture.basis}", "delivered": {delivered}}}'
    )


def _parts(grants: list[str], amounts: list[int]) -> tuple[Part, ...]:
    return tuple(Part(*part) for part in zip(grants, amounts, strict=True))


def _receipt_of(account_id: str, row: Row, stored: dict[str, Any]) -> PauseReceipt:
    return PauseReceipt(
        account_id=account_id,
        mode_epoch=row["mode_epoch"],
        pause_time=row["create_time"],
        posted=row["posted"],
        reserved=row["reserved"],
        entry_sequence=row["entry_sequence"],
        open_hold_count=stored["open_hold_count"],
        open_holds=tuple(OpenHold(*hold) for hold in stored["open_holds"]),
        grants=tuple(GrantState(*grant) for grant in stored["grants"]),
        digest=bytes.fromhex(stored["digest"]),
        mac=bytes.fromhex(stored["mac"]),
    )


def _receipt_json(receipt: PauseReceipt) -> str:
    """Write what of a receipt the change of mode beside it does not hold already."""
    return json.dumps(
        {
            "open_hold_count": receipt.open_hold_count,
            "open_holds": [astuple(hold) for hold in receipt.open_holds],
            "grants": [astuple(grant) for grant in receipt.grants],
            "digest": receipt.digest.hex(),
            "mac": receipt.mac.hex(),
        }
    )
