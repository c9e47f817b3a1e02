# SPDX-License-Identifier: Apache-2.0
"""Write the ledger's words into messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ownkey.ledger.v1 import (
    account_pb2,
    authorization_pb2,
    entry_pb2,
    grant_pb2,
    plan_pb2,
    usage_pb2,
    verification_pb2,
)

from services.ledger.domain.accounts import Account, Grant
from services.ledger.domain.entries import Entry
from services.ledger.domain.fees import Fee
from services.ledger.domain.files import AccountFile
from services.ledger.domain.modes import Funding
from services.ledger.domain.plans import Plan
from services.ledger.domain.receipts import PauseReceipt, ResumeProof
from services.ledger.domain.requests import (
    Authorization,
    AuthorizationState,
    Request,
    UsageBasis,
)
from services.ledger.domain.usage import UsageUnits
from services.ledger.usecases.accounts import etag_of
from services.ledger.usecases.authorize import Granted, Recorded
from services.ledger.usecases.ports import UsageRow, Violation

_EPOCH = datetime.fromtimestamp(0, tz=UTC)
_DAY_SECONDS = 86_400


@cache
def number(enum: Any, value: StrEnum) -> Any:
    """Return a proto enum's number by the domain's word."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return enum.Value(prefix + value.value)


_STATES = {
    state: number(authorization_pb2.AuthorizationState, state) for state in AuthorizationState
}
_FUNDINGS = {funding: number(authorization_pb2.Funding, funding) for funding in Funding}
_BASES = {basis: number(authorization_pb2.UsageBasis, basis) for basis in UsageBasis}


def stamp(time: datetime | None) -> Timestamp | None:
    """Write a time; None for an unset field."""
    if time is None:
        return None
    written = Timestamp()
    _set_time(written, time)
    return written


def _set_time(stamp: Timestamp, time: datetime) -> None:
    """Write a time; several times faster than the message's own FromDatetime."""
    since = time - _EPOCH
    stamp.seconds = since.days * _DAY_SECONDS + since.seconds
    stamp.nanos = since.microseconds * 1000


def _set_span(written: Duration, span: timedelta) -> None:
    """Write a span of zero or more; faster than the message's own FromTimedelta."""
    written.seconds = span.days * _DAY_SECONDS + span.seconds
    written.nanos = span.microseconds * 1000


def account(value: Account) -> account_pb2.Account:
    """Write an account."""
    return account_pb2.Account(
        name=f"accounts/{value.account_id}",
        plan=f"plans/{value.plan_id}",
        billing_mode=number(account_pb2.BillingMode, value.billing_mode),
        mode_epoch=value.mode_epoch,
        fallback_consent=number(account_pb2.FallbackConsent, value.fallback_consent),
        fallback_daily_cap_nano_credits=value.fallback_daily_cap,
        pause_time=stamp(value.pause_time),
        create_time=stamp(value.create_time),
        update_time=stamp(value.update_time),
        etag=etag_of(value),
    )


def plan(value: Plan) -> plan_pb2.Plan:
    """Write a plan."""
    return plan_pb2.Plan(
        name=value.name,
        title=value.title,
        allowed_modes=[number(account_pb2.BillingMode, mode) for mode in value.allowed_modes],
        default_mode=number(account_pb2.BillingMode, value.default_mode),
        credit_value_nano_usd=value.credit_value_nano_usd,
        markup_parts_per_million=value.markup_parts_per_million,
        operation_prices=[
            plan_pb2.OperationPrice(
                operation=number(authorization_pb2.Operation, operation), price_nano_credits=price
            )
            for operation, price in value.operation_prices.items()
        ],
        overdraft_nano_credits=value.overdraft_nano_credits,
        shared_part_per_million=value.shared_part_per_million,
        fee=_fee(value.fee) if value.fee else None,
        model_price_nano_credits=value.model_prices,
        monthly_grant_nano_credits=value.monthly_grant_nano_credits,
    )


def _fee(value: Fee) -> plan_pb2.Fee:
    return plan_pb2.Fee(
        basis=number(plan_pb2.FeeBasis, value.basis),
        rate_parts_per_million=value.rate_parts_per_million,
        source=number(plan_pb2.FeeSource, value.source),
        free_request_count=value.free_request_count,
        cap_nano_credits=value.cap_nano_credits,
    )


def grant(file: AccountFile, value: Grant) -> grant_pb2.Grant:
    """Write a grant."""
    return grant_pb2.Grant(
        name=f"accounts/{file.account.account_id}/grants/{value.grant_id}",
        kind=number(grant_pb2.GrantKind, value.kind),
        amount_nano_credits=value.amount,
        remaining_nano_credits=value.remaining,
        reserved_nano_credits=value.reserved,
        expire_time=stamp(value.expires_at(file.account, file.now)),
        note=value.note,
        create_time=stamp(value.create_time),
    )


def balance(file: AccountFile) -> grant_pb2.Balance:
    """Write an account's balance."""
    totals = file.account.totals
    return grant_pb2.Balance(
        account=f"accounts/{file.account.account_id}",
        posted_nano_credits=totals.posted,
        reserved_nano_credits=totals.reserved,
        available_nano_credits=totals.available,
        paused=file.account.pause_time is not None,
        issued_nano_credits=totals.issued,
        spent_nano_credits=totals.spent,
        fees_nano_credits=totals.fees,
        invoiced_nano_credits=totals.invoiced,
        absorbed_nano_credits=totals.absorbed,
        expired_nano_credits=totals.expired,
        grants=[grant(file, value) for value in file.book.in_order()],
        entry_sequence=file.account.entry_count,
        read_time=stamp(file.now),
    )


def entry(account_id: str, value: Entry) -> entry_pb2.Entry:
    """Write an entry."""
    parent = f"accounts/{account_id}"
    cause = value.cause
    attempt = f"{parent}/authorizations/{cause.authorization}" if cause.authorization else ""
    return entry_pb2.Entry(
        name=f"{parent}/entries/e{value.sequence}",
        sequence=value.sequence,
        kind=number(entry_pb2.EntryKind, value.kind),
        debit=number(entry_pb2.SubLedger, value.debit),
        credit=number(entry_pb2.SubLedger, value.credit),
        amount_nano_credits=value.amount,
        posted_after_nano_credits=value.posted_after,
        grant=f"{parent}/grants/{value.grant_id}" if value.grant_id else "",
        authorization=attempt,
        mode_epoch=cause.mode_epoch,
        credits_asked=cause.credits_asked,
        reason=cause.reason,
        actor=cause.actor,
        create_time=stamp(value.create_time),
    )


def receipt(value: PauseReceipt) -> account_pb2.PauseReceipt:
    """Write a pause receipt."""
    name = f"accounts/{value.account_id}"
    return account_pb2.PauseReceipt(
        account=name,
        mode_epoch=value.mode_epoch,
        pause_time=stamp(value.pause_time),
        posted_nano_credits=value.posted,
        reserved_nano_credits=value.reserved,
        entry_sequence=value.entry_sequence,
        open_hold_count=value.open_hold_count,
        open_holds=[
            account_pb2.OpenHold(
                authorization=f"{name}/authorizations/{hold.authorization}",
                held_nano_credits=hold.held,
            )
            for hold in value.open_holds
        ],
        grants=[
            account_pb2.GrantState(
                grant=f"{name}/grants/{state.grant_id}",
                remaining_nano_credits=state.remaining,
                reserved_nano_credits=state.reserved,
            )
            for state in value.grants
        ],
        digest=value.digest,
        mac=value.mac,
    )


def proof(value: ResumeProof) -> account_pb2.ResumeProof:
    """Write the proof of a pause."""
    sums, end = value.sums, value.resumption
    return account_pb2.ResumeProof(
        receipt=receipt(value.receipt),
        resume_time=stamp(end.resume_time),
        entry_sequence=end.entry_sequence,
        explicit_charged_nano_credits=sums.explicit_charged,
        earlier_holds_charged_nano_credits=sums.earlier_holds_charged,
        granted_nano_credits=sums.granted,
        adjusted_nano_credits=sums.adjusted,
        corrected_nano_credits=sums.corrected,
        expired_nano_credits=sums.expired,
        posted_nano_credits=end.posted,
        reserved_nano_credits=end.reserved,
        proven=value.proven,
        entries=[entry(value.receipt.account_id, item) for item in value.entries],
    )


def authorization(
    account_id: str, value: Authorization, request: Request, *, lease: timedelta
) -> authorization_pb2.Authorization:
    """Write an attempt; its lease is shown while it is open."""
    written = authorization_pb2.Authorization()
    write_authorization(written, account_id, value, request, lease=lease)
    return written


def write_authorization(
    written: authorization_pb2.Authorization,
    account_id: str,
    value: Authorization,
    request: Request,
    *,
    lease: timedelta,
) -> None:
    """Write an attempt into its place in an answer, which saves copying it there."""
    funding, row, price = value.funding, value.price_row, written.price
    written.name = f"accounts/{account_id}/authorizations/{value.authorization_id}"
    written.request_id = value.request_id
    written.sequence = value.sequence
    written.funding = _FUNDINGS[funding]
    written.mode_epoch = value.mode_epoch
    written.held_nano_credits = value.held
    if value.fallback_day is not None:
        written.fallback = True
    if value.allowance_month is not None:
        written.fee_waived = True
    if value.key:
        written.key, written.key_version = value.key, value.key_version
    price.model, price.provider, price.price_id = row
    _set_time(written.create_time, value.create_time)
    settlement = value.settlement
    if settlement is None:
        written.state = _STATES[AuthorizationState.OPEN]
        _set_time(written.lease_expire_time, request.lease_expire_time)
        _set_span(written.lease_duration, lease)
        return
    written.state = _STATES[settlement.state]
    charge, refunded = settlement.charge, settlement.refunded
    charged = charge.customer + refunded
    written.charged_nano_credits = charged
    written.refunded_nano_credits = refunded
    if funding is Funding.OWN_KEY:
        written.fee_nano_credits = charged
    written.absorbed_nano_credits = charge.absorbed
    _set_time(written.settle_time, settlement.settle_time)
    capture = settlement.capture
    if capture is not None:
        if capture.vendor_cost_nano_usd is not None:
            written.vendor_cost_nano_usd = capture.vendor_cost_nano_usd
        _set_units(written.units, capture.units)
        written.basis = _BASES[capture.basis]


def record(
    account_id: str, request: Request, attempts: list[Authorization], *, lease: timedelta
) -> authorization_pb2.RequestRecord:
    """Write a request's record."""
    return authorization_pb2.RequestRecord(
        request_id=request.request_id,
        state=number(authorization_pb2.RequestState, request.state),
        outcome=request.outcome,
        authorizations=[
            authorization(account_id, attempt, request, lease=lease) for attempt in attempts
        ],
    )


def write_authorized(
    response: authorization_pb2.AuthorizeResponse,
    account_id: str,
    outcome: Granted | Recorded,
    *,
    lease: timedelta,
) -> None:
    """Write what Authorize came to into its place in an answer."""
    if isinstance(outcome, Recorded):
        written = record(account_id, outcome.request, outcome.attempts, lease=lease)
        response.recorded.CopyFrom(written)
        return
    attempt, request, settled = outcome.attempt, outcome.request, outcome.settled
    write_authorization(response.granted, account_id, attempt, request, lease=lease)
    if attempt.funding is Funding.CREDITS:
        response.shared_part_per_million = outcome.shared_part_per_million
    if settled is not None:
        write_authorization(response.settled, account_id, settled, request, lease=lease)


def units(value: UsageUnits) -> authorization_pb2.UsageUnits:
    """Write units."""
    written = authorization_pb2.UsageUnits()
    _set_units(written, value)
    return written


def _set_units(written: authorization_pb2.UsageUnits, value: UsageUnits) -> None:
    # A message that was touched is there, also with nothing but zeros.
    written.SetInParent()
    for name, count in zip(UsageUnits._fields, value, strict=True):
        if count:
            setattr(written, name, count)


def usage_row(value: UsageRow) -> usage_pb2.UsageRow:
    """Write a row of usage."""
    key, usage = value.key, value.usage
    return usage_pb2.UsageRow(
        day=key.day.isoformat(),
        model=key.model,
        provider=key.provider,
        key=key.key,
        funding=number(authorization_pb2.Funding, key.funding),
        attempt_count=usage.attempt_count,
        vendor_cost_nano_usd=usage.vendor_cost_nano_usd,
        charged_nano_credits=usage.charged_nano_credits,
        fee_nano_credits=usage.fee_nano_credits,
        units=units(usage.units),
    )


def violation(value: Violation) -> verification_pb2.Violation:
    """Write an invariant that does not hold."""
    return verification_pb2.Violation(
        account=f"accounts/{value.account_id}",
        invariant=value.invariant,
        description=value.description,
    )
