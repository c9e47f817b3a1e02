# SPDX-License-Identifier: Apache-2.0
"""
Authorize an attempt: the claim of a request, the settlement of its last attempt, the decision who
pays, and the hold, in one unit of work.

Order: first what depends on the moment and leaves nothing behind (a reused id, a run in progress, a
wrong number); then the settlement, which stands whatever follows; then the decision, which is
recorded also when it is a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from services.ledger.domain.accounts import month_of
from services.ledger.domain.budgets import KeyBudget
from services.ledger.domain.fees import Fee, FeeSource, FeeTerms
from services.ledger.domain.files import AccountFile, RecordedRefusal
from services.ledger.domain.funding import FundingDecision, FundingRequest, decide
from services.ledger.domain.modes import Funding, OwnKeyState
from services.ledger.domain.money import PriceTerms
from services.ledger.domain.plans import Plan, PlanBook
from services.ledger.domain.requests import (
    Authorization,
    EndedBy,
    Request,
    RequestState,
    state_at_end,
)
from services.ledger.errors import (
    CreditsNotPossibleError,
    FallbackCapReachedError,
    OwnKeyLimitReachedError,
    PriceRequiredError,
    Refusal,
    RequestIdReusedError,
    RequestInProgressError,
    SequenceOutOfOrderError,
)
from services.ledger.usecases.commands import AuthorizeCommand, CreditTerms, OwnKeyTerms
from services.ledger.usecases.settle import find_attempt, lapse, lapsed, settle_attempt
from services.shared.errors import QuotaViolation

PROGRESS_RETRY_SECONDS_MAX = 2.0
"""Longest wait a repeat of a running request is told: a run may end long before its lease."""


@dataclass(frozen=True, slots=True)
class Granted:
    """
    The attempt may run.

    Args:
        attempt: The authorization.
        request: Its request.
        settled: The settled previous attempt, if the command carried its settlement.
        shared_part_per_million: What the plan lets one account use of a shared key's minute.
    """

    attempt: Authorization
    request: Request
    settled: Authorization | None
    shared_part_per_million: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """
    The request had ended before.

    Args:
        request: Where it stands.
        attempts: Those of its last run, in order.
    """

    request: Request
    attempts: list[Authorization]


def authorize(
    file: AccountFile, command: AuthorizeCommand, *, plans: PlanBook, lease: timedelta
) -> Granted | Recorded:
    """
    Authorize an attempt.

    Raises:
        ServiceError: One of those listed at the RPC.
    """
    request = file.requests.get(command.request_id)
    if request is not None and (
        (request.fingerprint, request.fingerprint_version)
        != (command.fingerprint, command.fingerprint_version)
    ):
        raise RequestIdReusedError(command.request_id)
    plan = plans.get(file.account.plan_id)
    repeated = _repeated(file, command, plan)
    if repeated is not None:
        return repeated
    if request is not None and request.claimant != command.claimant:
        if lapsed(file, request):
            lapse(file, request)
        if request.state is RequestState.RUNNING:
            remaining = (request.lease_expire_time - file.clock).total_seconds()
            raise RequestInProgressError(
                command.request_id,
                retry_after_seconds=min(remaining, PROGRESS_RETRY_SECONDS_MAX),
            )
        if request.state is not RequestState.FAILED_UNCHARGED:
            return Recorded(request, file.run_of(request))
    _check_sequence(file, request, command)
    settled = _settle_previous(file, command)
    claim = _claim(file, request, command, lease=lease)
    try:
        plans.require_mode(plan, file.account.billing_mode)
        attempt = _grant(file, claim, command, plan=plan)
    except Refusal as refusal:
        _refuse(file, claim, command, refusal)
        raise
    file.add_attempt(attempt)
    if attempt.budget_id is not None:
        held, spent = attempt.budgeted()
        file.add_to_budget(attempt.budget_id, held=held, spent=spent)
    file.put_request(claim)
    return Granted(attempt, claim, settled, plan.shared_part_per_million)


def _repeated(file: AccountFile, command: AuthorizeCommand, plan: Plan) -> Granted | None:
    """Answer a repeat of the same attempt by the same claimant as the first time."""
    key = (command.request_id, command.claimant, command.sequence)
    attempt, refused = file.attempts.get(key), file.refusals.get(key)
    digest = attempt.digest if attempt else refused.digest if refused else command.digest
    if digest != command.digest:
        raise RequestIdReusedError(command.request_id)
    if refused is not None:
        raise refused.refusal
    if attempt is None:
        return None
    request = file.requests[command.request_id]
    settled = _settle_previous(file, command)
    return Granted(attempt, request, settled, plan.shared_part_per_million)


def _check_sequence(file: AccountFile, request: Request | None, command: AuthorizeCommand) -> None:
    """Hold the attempt to its place in the run."""
    new_run = request is None or request.claimant != command.claimant
    expected = 1 if new_run or request is None else request.last_sequence + 1
    if command.sequence != expected:
        why = f"the next attempt of this claimant's run is number {expected}"
        raise SequenceOutOfOrderError(command.sequence, expected=expected, why=why)
    if new_run or request is None:
        if command.settlement is not None:
            why = "the first attempt of a run has none before it to settle"
            raise SequenceOutOfOrderError(command.sequence, expected=expected, why=why)
        return
    if request.ended_by in {EndedBy.CALLER, EndedBy.LAPSE}:
        why = f"the run has ended ({request.state}); start the request anew with a new claimant"
        raise SequenceOutOfOrderError(command.sequence, expected=expected, why=why)
    settling = command.settlement.sequence if command.settlement else 0
    for attempt in file.run_of(request):
        if attempt.settlement is None and attempt.sequence != settling:
            why = f"attempt {attempt.sequence} is still open; send its settlement along"
            raise SequenceOutOfOrderError(command.sequence, expected=expected, why=why)


def _settle_previous(file: AccountFile, command: AuthorizeCommand) -> Authorization | None:
    terms = command.settlement
    if terms is None:
        return None
    attempt = find_attempt(file, command.request_id, command.claimant, terms.sequence)
    settle_attempt(file, attempt, terms)
    return attempt


def _claim(
    file: AccountFile, request: Request | None, command: AuthorizeCommand, *, lease: timedelta
) -> Request:
    """Return the request as this attempt leaves it if it is granted; nothing is kept yet."""
    same_run = request is not None and request.claimant == command.claimant
    tried = command.own_key_state is OwnKeyState.READY
    always_use = command.always_use
    if request is not None and same_run:
        tried = tried or request.own_key_tried
        always_use = always_use or request.always_use
    run = 1 if request is None else request.run + (not same_run)
    return Request(
        request_id=command.request_id,
        fingerprint=command.fingerprint,
        fingerprint_version=command.fingerprint_version,
        claimant=command.claimant,
        run=run,
        state=RequestState.RUNNING,
        ended_by=EndedBy.NOTHING,
        last_sequence=command.sequence,
        lease_expire_time=file.clock + lease,
        own_key_tried=tried,
        always_use=always_use,
        checkpoint=None,
        outcome=b"",
    )


def _refuse(file: AccountFile, claim: Request, command: AuthorizeCommand, refusal: Refusal) -> None:
    """Record a refusal: it ends the run unless the same claimant goes on."""
    claim.state = state_at_end(succeeded=False, attempts=file.run_of(claim))
    claim.ended_by = EndedBy.REFUSAL
    file.put_request(claim)
    key = (command.request_id, command.claimant, command.sequence)
    file.add_refusal(key, RecordedRefusal(command.digest, refusal))


def _grant(
    file: AccountFile, claim: Request, command: AuthorizeCommand, *, plan: Plan
) -> Authorization:
    account = file.account
    decision = decide(
        FundingRequest(
            mode=account.billing_mode,
            consent=account.fallback_consent,
            source=command.source,
            own_key_state=command.own_key_state,
            always_use=claim.always_use,
            own_key_tried=claim.own_key_tried,
        )
    )
    own_key = command.own_key if decision.funding is Funding.OWN_KEY else None
    terms = own_key or command.credits
    if terms is None:
        raise _credits_not_possible(command)
    price_terms = plan.price_terms(command.operation, terms.price_row.model)
    fee_terms, allowance_month = None, None
    if own_key is not None:
        _within_limit(file, own_key)
    if own_key is not None and plan.fee is not None:
        fee_terms = plan.fee.terms(terms.price_row.model)
        allowance_month = _free_month(file, plan.fee)
        if allowance_month is None:
            _require_price(terms, fee_terms, price_terms, plan=plan)
    worst_case = terms.worst_case_nano_usd or 0
    amount = price_terms.credit_price(worst_case)
    if own_key is not None:
        due = fee_terms if allowance_month is None else None
        amount = due.fee(worst_case, price_terms) if due and due.source is FeeSource.CREDITS else 0
    fallback_day = _within_cap(file, decision, amount)
    hold = file.book.reserve(amount)
    if fallback_day is not None:
        account.fallback_used = account.fallback_used_on(fallback_day) + amount
        account.fallback_day = fallback_day
    if allowance_month is not None:
        account.allowance_used = account.allowance_used_in(allowance_month) + 1
        account.allowance_month = allowance_month
    account.authorization_count += 1
    return Authorization(
        request_id=command.request_id,
        claimant=command.claimant,
        run=claim.run,
        sequence=command.sequence,
        number=account.authorization_count,
        digest=command.digest,
        funding=decision.funding,
        source=command.source,
        own_key_state=command.own_key_state,
        fallback_day=fallback_day,
        mode_epoch=account.mode_epoch,
        plan_id=plan.plan_id,
        operation=command.operation,
        price_row=terms.price_row,
        price_terms=price_terms,
        fee_terms=fee_terms,
        allowance_month=allowance_month,
        key=own_key.key if own_key else "",
        key_version=own_key.key_version if own_key else 0,
        key_etag=own_key.key_etag if own_key else "",
        key_limit_nano_usd=own_key.monthly_limit_nano_usd if own_key else None,
        worst_case_nano_usd=terms.worst_case_nano_usd,
        hold=hold,
        create_time=file.now,
    )


def _free_month(file: AccountFile, fee: Fee) -> date | None:
    """Return the UTC month of which the attempt is a free request, None if none is left."""
    month = month_of(file.now)
    return month if file.account.allowance_used_in(month) < fee.free_request_count else None


def _require_price(
    terms: OwnKeyTerms | CreditTerms, fee: FeeTerms, price: PriceTerms, *, plan: Plan
) -> None:
    if terms.worst_case_nano_usd is not None or not fee.needs_cost(price):
        return
    model = terms.price_row.model
    message = (
        f"{plan.name} takes a fee on own-key use, and {model} has no price to work it out from; "
        "ask for a model of the catalogue, or for CREDITS"
    )
    raise PriceRequiredError(message, metadata={"model": model, "plan": plan.name})


def _within_limit(file: AccountFile, own_key: OwnKeyTerms) -> None:
    """Hold an attempt to its key's monthly spending limit."""
    limit, needed = own_key.monthly_limit_nano_usd, own_key.worst_case_nano_usd
    if limit is None:
        return
    if needed is None:
        model = own_key.price_row.model
        message = (
            f"{own_key.key} has a spending limit, and {model} has no price to hold it to; ask for "
            "a model of the catalogue, or for CREDITS"
        )
        raise PriceRequiredError(message, metadata={"model": model, "key": own_key.key})
    budget = file.budget((own_key.key, month_of(file.now)))
    if budget.used_nano_usd + needed > limit:
        raise _limit_reached(own_key.key, budget, limit=limit, needed=needed)


def _limit_reached(
    key: str, budget: KeyBudget, *, limit: int, needed: int
) -> OwnKeyLimitReachedError:
    left = max(0, limit - budget.used_nano_usd)
    message = (
        f"the request may cost {needed} nano-USD and {left} are left of the {limit} that {key} may "
        "spend in a UTC month, open requests included; raise the limit, wait for the next month, "
        "or ask for CREDITS"
    )
    return OwnKeyLimitReachedError(
        message,
        metadata={
            "key": key,
            "own_key_state": OwnKeyState.LIMIT_REACHED.value,
            "limit_nano_usd": str(limit),
            "used_nano_usd": str(budget.used_nano_usd),
            "needed_nano_usd": str(needed),
            "month": f"{budget.month:%Y-%m}",
        },
        quotas=[QuotaViolation(key, f"{left} nano-USD are left of the month's {limit}")],
    )


def _within_cap(file: AccountFile, decision: FundingDecision, amount: int) -> date | None:
    """Return the UTC day whose cap a fallback counts on, None for no fallback."""
    if not decision.fallback:
        return None
    account, day = file.account, file.now.date()
    used, cap = account.fallback_used_on(day), account.fallback_daily_cap
    if cap is not None and used + amount > cap:
        name = f"accounts/{account.account_id}"
        message = (
            f"the fallback needs {amount} nano-credits and {max(0, cap - used)} are left of the "
            f"daily cap of {cap}; raise the cap, wait for the next UTC day, or ask for CREDITS"
        )
        raise FallbackCapReachedError(
            message,
            metadata={
                "cap_nano_credits": str(cap),
                "used_nano_credits": str(used),
                "needed_nano_credits": str(amount),
            },
            quotas=[QuotaViolation(name, f"{max(0, cap - used)} nano-credits left until 00:00Z")],
        )
    return day


def _credits_not_possible(command: AuthorizeCommand) -> CreditsNotPossibleError:
    message = (
        "credits would pay for this request, but no shared key serves it or its model has no "
        "price; ask for another model, or use an own key"
    )
    return CreditsNotPossibleError(message, metadata={"source": command.source.value})
