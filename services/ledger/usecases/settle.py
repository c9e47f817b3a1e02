# SPDX-License-Identifier: Apache-2.0
"""
Settle an attempt: capture, release, lapse.

Each attempt is settled once. An attempt whose lease ran out is settled at its last checkpoint; if
its claimant comes back with the exact amount, a second settlement corrects the first. A run that
another has taken over costs the customer nothing more: the house absorbs it.
"""

from __future__ import annotations

from datetime import timedelta

from services.ledger.domain.entries import Income
from services.ledger.domain.files import AccountFile
from services.ledger.domain.modes import Funding
from services.ledger.domain.requests import (
    Authorization,
    AuthorizationState,
    Capture,
    EndedBy,
    Request,
    RequestEnd,
    RequestState,
    Settlement,
    state_at_end,
)
from services.ledger.domain.usage import UsageKey, UsageSum
from services.ledger.errors import (
    AlreadySettledError,
    AuthorizationNotFoundError,
    LeaseLapsedError,
    SequenceOutOfOrderError,
)
from services.ledger.usecases.commands import RenewCommand, SettleCommand, SettleTerms
from services.shared.errors import InvalidArgumentError


def attempt_name(file: AccountFile, attempt: Authorization) -> str:
    """Return an attempt's resource name."""
    return f"accounts/{file.account.account_id}/authorizations/{attempt.authorization_id}"


def renew(file: AccountFile, command: RenewCommand, *, lease: timedelta) -> Authorization:
    """
    Extend an attempt's lease and keep its usage so far.

    A checkpoint that is behind the one on record, because it was overtaken, changes nothing.

    Raises:
        AuthorizationNotFoundError: If there is no such attempt.
        LeaseLapsedError: If the lease ran out and the attempt was settled for it.
        AlreadySettledError: If it was settled.
    """
    attempt = find_attempt(file, command.request_id, command.claimant, command.sequence)
    if attempt.state is AuthorizationState.LAPSED:
        raise LeaseLapsedError(attempt_name(file, attempt))
    if attempt.settlement is not None:
        raise AlreadySettledError(attempt_name(file, attempt), state=attempt.state.value)
    check_capture(attempt, command.checkpoint, field="checkpoint.vendor_cost_nano_usd")
    request = file.requests[command.request_id]
    request.lease_expire_time = max(request.lease_expire_time, file.clock + lease)
    if command.checkpoint is not None and not _behind(command.checkpoint, request.checkpoint):
        request.checkpoint = command.checkpoint
    file.put_request(request)
    return attempt


def settle(file: AccountFile, command: SettleCommand) -> Authorization:
    """
    Capture or release an attempt, and end its request if the command says so.

    Raises:
        AuthorizationNotFoundError: If there is no such attempt.
        AlreadySettledError: If it was settled otherwise, or the request ended otherwise.
        InvalidArgumentError: If a priced attempt is captured without a cost.
    """
    terms = command.terms
    attempt = find_attempt(file, command.request_id, command.claimant, terms.sequence)
    request = file.requests[command.request_id]
    if command.end is not None:
        _check_end(file, request, attempt, command.end)
    settle_attempt(file, attempt, terms)
    if command.end is not None:
        _end(file, request, attempt, command.end)
    return attempt


def settle_attempt(file: AccountFile, attempt: Authorization, terms: SettleTerms) -> None:
    """Settle an attempt, or find that it was settled alike."""
    current = attempt.settlement
    if current is not None and current.terms_digest == terms.digest:
        return
    if current is not None and current.state is not AuthorizationState.LAPSED:
        raise AlreadySettledError(attempt_name(file, attempt), state=current.state.value)
    check_capture(attempt, terms.capture, field="capture.vendor_cost_nano_usd")
    state = AuthorizationState.CAPTURED if terms.capture else AuthorizationState.RELEASED
    price = attempt.price(terms.capture)
    request = file.requests[attempt.request_id]
    if current is None:
        charge = file.book.settle(attempt.hold, price, cause=attempt.cause, income=attempt.income)
    else:
        charge = file.book.correct(
            current.charge,
            price,
            paid_max=_paid_max(file, request, attempt, current, price),
            cause=attempt.cause,
            income=attempt.income,
        )
    record_settlement(
        file,
        attempt,
        Settlement(state, terms.digest, terms.capture, terms.outcome, charge, file.now),
    )
    if request.run == attempt.run and request.ended_by in {EndedBy.LAPSE, EndedBy.REFUSAL}:
        request.state = state_at_end(succeeded=False, attempts=file.run_of(request))
        file.put_request(request)


def lapse(file: AccountFile, request: Request) -> None:
    """
    End a run whose lease ran out: settle its open attempt at the last checkpoint.

    On credits nothing delivered is free; an own key's provider may have charged for it.
    """
    for attempt in file.run_of(request):
        if attempt.settlement is None:
            charge = file.book.settle(
                attempt.hold,
                attempt.price(request.checkpoint),
                cause=attempt.cause,
                income=attempt.income,
            )
            settlement = Settlement(
                AuthorizationState.LAPSED, b"", request.checkpoint, "", charge, file.now
            )
            record_settlement(file, attempt, settlement)
    request.state = state_at_end(succeeded=False, attempts=file.run_of(request))
    request.ended_by = EndedBy.LAPSE
    request.checkpoint = None
    file.put_request(request)


def lapsed(file: AccountFile, request: Request) -> bool:
    """Return whether a run's lease has run out."""
    return request.state is RequestState.RUNNING and request.lease_expire_time <= file.clock


def find_attempt(file: AccountFile, request_id: str, claimant: str, sequence: int) -> Authorization:
    """
    Return an attempt.

    Raises:
        AuthorizationNotFoundError: If there is none.
    """
    attempt = file.attempts.get((request_id, claimant, sequence))
    if attempt is None:
        account = f"accounts/{file.account.account_id}"
        message = (
            f"attempt {sequence} of this claimant on request {request_id} was never authorized for "
            f"{account}; authorize it first"
        )
        raise AuthorizationNotFoundError(
            message, metadata={"account": account, "request_id": request_id}
        )
    return attempt


def check_capture(attempt: Authorization, capture: Capture | None, *, field: str) -> None:
    """
    Hold a capture to the attempt's terms.

    Raises:
        InvalidArgumentError: If the attempt has a price and the capture no cost.
    """
    priced = attempt.funding is Funding.CREDITS or attempt.worst_case_nano_usd is not None
    if capture is not None and priced and capture.vendor_cost_nano_usd is None:
        raise InvalidArgumentError.of(field, "must be set: the attempt was authorized with a price")


def _paid_max(
    file: AccountFile, request: Request, attempt: Authorization, current: Settlement, price: int
) -> int:
    """Return the most that the customer pays in all for an attempt that comes back late."""
    if request.run > attempt.run:
        return current.charge.customer
    if attempt.income is Income.INVOICED_FEE:
        return price
    return attempt.held + file.account.overdraft_limit


def record_settlement(file: AccountFile, attempt: Authorization, settlement: Settlement) -> None:
    """Write a settlement down, in the usage sums, the cap, the allowance and the budget too."""
    before, took_allowance = attempt.settlement, attempt.takes_allowance()
    held_before, spent_before = attempt.budgeted()
    paid_before = attempt.held if before is None else before.charge.customer
    if before is not None and before.capture is not None:
        file.add_usage(_usage_key(attempt, before), UsageSum().minus(_usage(attempt, before)))
    if settlement.capture is not None:
        file.add_usage(_usage_key(attempt, settlement), _usage(attempt, settlement))
    account = file.account
    if attempt.fallback_day is not None and attempt.fallback_day == account.fallback_day:
        account.fallback_used += settlement.charge.customer - paid_before
    file.add_settlement(attempt, settlement)
    # A free request of a month that has passed is nobody's any more.
    if attempt.allowance_month == account.allowance_month:
        account.allowance_used += attempt.takes_allowance() - took_allowance
    if attempt.budget_id is not None:
        held, spent = attempt.budgeted()
        file.add_to_budget(attempt.budget_id, held=held - held_before, spent=spent - spent_before)


def _usage_key(attempt: Authorization, settlement: Settlement) -> UsageKey:
    return UsageKey(
        day=settlement.settle_time.date(),
        model=attempt.price_row.model,
        provider=attempt.price_row.provider,
        key=attempt.key,
        funding=attempt.funding,
    )


def _usage(attempt: Authorization, settlement: Settlement) -> UsageSum:
    capture = settlement.capture
    if capture is None:
        return UsageSum()
    return UsageSum(
        attempt_count=1,
        vendor_cost_nano_usd=capture.vendor_cost_nano_usd or 0,
        charged_nano_credits=settlement.charge.customer,
        fee_nano_credits=0 if attempt.funding is Funding.CREDITS else settlement.charge.customer,
        units=capture.units,
    )


def _behind(checkpoint: Capture, known: Capture | None) -> bool:
    if known is None:
        return False
    return (checkpoint.vendor_cost_nano_usd or 0) < (known.vendor_cost_nano_usd or 0)


def _check_end(
    file: AccountFile, request: Request, attempt: Authorization, end: RequestEnd
) -> None:
    """Refuse an end that contradicts what is on record, before anything is changed."""
    if request.run != attempt.run:
        return
    if request.ended_by is EndedBy.CALLER:
        succeeded = request.state is RequestState.SUCCEEDED
        if (succeeded, request.outcome) != (end.succeeded, end.outcome):
            raise AlreadySettledError(attempt_name(file, attempt), state=request.state.value)
    later = [a for a in file.run_of(request) if a.sequence > attempt.sequence]
    if any(other.settlement is None for other in later):
        raise SequenceOutOfOrderError(
            attempt.sequence,
            expected=request.last_sequence,
            why="the request cannot end with it while a later attempt is open; settle that first",
        )


def _end(file: AccountFile, request: Request, attempt: Authorization, end: RequestEnd) -> None:
    if request.run != attempt.run or request.ended_by is EndedBy.CALLER:
        return
    request.state = state_at_end(succeeded=end.succeeded, attempts=file.run_of(request))
    request.ended_by = EndedBy.CALLER
    request.outcome = end.outcome
    request.checkpoint = None
    file.put_request(request)
