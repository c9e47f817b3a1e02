# SPDX-License-Identifier: Apache-2.0
"""
What to do next with a request: a state machine without I/O.

Events (`failed`, `refreshed`, `credits_refused`, `granted`) turn one `Progress` into the next;
`decide` reads it and gives one step. The rules:
1. The request's own fault (400, 404, 422, moderation) goes to the caller at once; so does anything
   after the first content.
2. 401: one question for another version of the key, a newer one or the one before in its overlap;
   then REJECTED. 402, 403: not again on that key.
3. 429: the key cools by the provider's hint. Then other own keys; one wait of at most two seconds;
   credits by consent; where credits are refused, waits in place up to the deadline.
4. 5xx, overload, network: the same key again after a growing, jittered pause, then the next.
5. A shared key that cools is passed over; where all do, one is waited for that is ready soon.
6. Budgets never multiply, each over the whole request: keys, keys tried at another version,
   transient retries (also within what the account can pay), waits, one repeat of a call that may
   have been billed on each funding, one deadline. Together they stay within the ledger's count.
7. The state told to the ledger is the one that needs the widest consent.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain import turns
from services.router.domain.keys import HealthState
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Candidate, Funding, OwnKeyState, Plan
from services.router.domain.progress import Progress, Runner, Standing
from services.router.domain.turns import MAYBE_BILLED_MAX

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from services.router.domain.keys import OwnKey
    from services.router.domain.text import Usage

REFRESHES_MAX = 3
"""Keys tried once more, at another version, after a 401."""
TRANSIENT_RETRIES_MAX = 2
UNHINTED_WAIT_SECONDS = 1.0
"""Cooldown after a 429 without any hint."""
RATE_LIMIT_WAIT_SECONDS_MIN = 0.05
BACKOFF_SECONDS_BASE = 0.5
BACKOFF_SECONDS_MAX = 5.0

REQUEST_FAULTS = frozenset(
    {
        Outcome.INVALID_REQUEST,
        Outcome.CONTEXT_LENGTH,
        Outcome.MODEL_NOT_FOUND,
        Outcome.NOT_FOUND,
        Outcome.CONTENT_FILTERED,
    }
)
TRANSIENT = frozenset({Outcome.OVERLOADED, Outcome.SERVER_ERROR, Outcome.NETWORK, Outcome.TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """
    How an attempt failed.
    """

    outcome: Outcome
    billed: Billed
    message: str
    """Our own sentence; holds no text of the provider."""
    http_status: int | None = None
    retry_after_seconds: float | None = None
    retryable: bool = True
    content_sent: bool = False
    deadline_passed: bool = False
    """The time for the answer was up while it came: the provider did not break it."""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """
    Ask the ledger for an attempt; its answer says which candidate is tried, once it is ready.
    """

    own_key_state: OwnKeyState
    own: Candidate | None
    """The own key to try, set where the state is READY."""
    shared: Candidate | None
    """The shared key to try if credits pay."""
    own_wait_seconds: float = 0.0
    shared_wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Refresh:
    """
    Ask keyvault once for another version of a key that answered 401.
    """

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class End:
    """
    Nothing more is tried.
    """

    failure: Failure | None
    """The failure the caller is told of; None where nothing was tried."""
    funding: Funding
    candidate: Candidate | None
    ready_at: float | None = None
    """Monotonic seconds from which a candidate of that funding can be tried again, where known."""


Step = Try | Refresh | End


def begin(plan: Plan, *, deadline: float, own_only: bool, may_repeat: bool = True) -> Progress:
    """
    Start a request from its plan.

    Args:
        plan: Who may serve it.
        deadline: Monotonic seconds.
        own_only: Whether the source rules credits out.
        may_repeat: Whether a call that may have been billed is made again.
    """
    return Progress(
        own=tuple(_runner(candidate) for candidate in plan.own),
        shared=tuple(_runner(candidate) for candidate in plan.shared),
        without_own_key=plan.without_own_key,
        deadline=deadline,
        on_credits=not plan.own and not own_only,
        credits_possible=not own_only,
        may_repeat=may_repeat,
    )


def begin_again(progress: Progress, plan: Plan, *, granted: bool) -> Progress:
    """
    Go on by another plan, as a key or prices have changed.

    What was used of the budgets stays used, and a key that is still the same stays what it has come
    to.

    Args:
        progress: Where the request stood.
        plan: The new plan.
        granted: Whether the change was found by an attempt that the ledger had granted.
    """
    before = {_identity(runner): runner for runner in (*progress.own, *progress.shared)}
    refused = progress.credits_refused
    return dataclasses.replace(
        progress,
        own=tuple(_carried(candidate, before) for candidate in plan.own),
        shared=tuple(_carried(candidate, before) for candidate in plan.shared),
        without_own_key=plan.without_own_key,
        attempts=progress.attempts + granted,
        keys=progress.keys + granted,
        # Who pays was decided, and what that payer's attempts used up stays used up.
        on_credits=progress.credits_possible
        and not refused
        and (progress.on_credits or not plan.own),
        ended=refused and not plan.own,
    )


def decide(progress: Progress, *, now: float) -> Step:
    """
    Give the next step.
    """
    if progress.ended:
        return _end(progress)
    for runner in (*progress.own, *progress.shared):
        if runner.standing is Standing.UNCONFIRMED:
            return Refresh(runner.candidate)
    if progress.on_credits:
        return _decide_on_credits(progress, now)
    return _decide_on_own_keys(progress, now)


def granted(progress: Progress, step: Try, funding: Funding) -> Progress:
    """
    Take the ledger's grant of an attempt: the candidate of that funding is now tried.
    """
    on_credits = funding is Funding.CREDITS
    switched = on_credits != progress.on_credits
    chosen = step.shared if on_credits else step.own
    assert chosen is not None, "the ledger grants only what terms were sent for"
    return dataclasses.replace(
        _spent_on(progress, _find(progress, chosen)),
        attempts=progress.attempts + 1,
        on_credits=on_credits,
        maybe_billed=0 if switched else progress.maybe_billed,
    )


def credits_refused(progress: Progress) -> Progress:
    """
    Take the ledger's refusal to let credits pay: only own keys are left.
    """
    return dataclasses.replace(
        progress,
        credits_refused=True,
        on_credits=False,
        ended=progress.ended or not progress.own,
    )


def limit_reached(progress: Progress, candidate: Candidate) -> Progress:
    """
    Take the ledger's refusal of an own key that has no room left under its spending limit.
    """
    runner = _find(progress, candidate)
    changed = dataclasses.replace(runner, standing=Standing.LIMIT_REACHED)
    return _put(_spent_on(progress, runner), runner, changed)


def refreshed(progress: Progress, candidate: Candidate, other: OwnKey | None) -> Progress:
    """
    Take keyvault's answer about another version of a refused key: a newer one, or the one before
    in its overlap; None where there is neither.
    """
    runner = _find(progress, candidate)
    if other is None:
        changed = dataclasses.replace(runner, standing=Standing.REJECTED, refreshed=True)
    else:
        changed = dataclasses.replace(
            runner,
            candidate=dataclasses.replace(candidate, key=other),
            standing=Standing.FRESH,
            refreshed=True,
        )
        progress = dataclasses.replace(progress, refreshes=progress.refreshes + 1)
    return _put(progress, runner, changed)


def failed(
    progress: Progress,
    candidate: Candidate,
    failure: Failure,
    *,
    now: float,
    chance: float,
    may_retry: bool = True,
) -> Progress:
    """
    Take the failure of an attempt.

    Args:
        progress: Where the request stood.
        candidate: Who was tried.
        failure: How it failed.
        now: Monotonic seconds.
        chance: Random number from 0 to 1, for the pause before a retry.
        may_retry: Whether the account can pay a retry on the same key.
    """
    runner = dataclasses.replace(_find(progress, candidate), failure=failure)
    if failure.billed is Billed.MAYBE_BILLED:
        count = progress.maybe_billed + 1
        closed = progress.own_closed or (count >= MAYBE_BILLED_MAX and not progress.on_credits)
        progress = dataclasses.replace(progress, maybe_billed=count, own_closed=closed)
    unrepeatable = failure.billed is Billed.MAYBE_BILLED and not progress.may_repeat
    if failure.content_sent or unrepeatable or failure.outcome in REQUEST_FAULTS:
        progress = dataclasses.replace(progress, ended=True)
        return _put(progress, runner, dataclasses.replace(runner, standing=Standing.FAILED))
    if failure.outcome in TRANSIENT:
        return _after_transient(progress, runner, failure, now, chance if may_retry else None)
    changed = _after_key_failure(progress, runner, failure, now)
    return _put(progress, runner, changed)


def own_key_state(progress: Progress, *, now: float) -> OwnKeyState:
    """
    Say whether an own key serves; where none does, the reason that needs the widest consent.
    """
    if not progress.own:
        return progress.without_own_key
    if turns.first_fresh(progress.own, progress, now) is not None:
        return OwnKeyState.READY
    states = [_STATES[runner.standing] for runner in progress.own]
    return max(states, key=lambda state: _CONSENT[state])


def without_shared_key(progress: Progress) -> End:
    """
    End a request that credits would pay for, as no shared key can serve it now.
    """
    first = next(iter(progress.shared), None)
    return End(
        None, Funding.CREDITS, first.candidate if first else None, _ready_at(progress.shared)
    )


def backoff_seconds(retries: int, chance: float) -> float:
    """
    Give the pause before a retry: doubled each time up to a bound, a fifth more or less by chance.
    """
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_BASE * 2.0**retries) * (0.8 + 0.4 * chance)


def is_request_fault(failure: Failure) -> bool:
    """
    Tell whether the request itself is at fault, whoever pays.
    """
    return failure.outcome in REQUEST_FAULTS


_STATES = {
    # Fresh, but not to be tried: its budget or its time is used up.
    Standing.FRESH: OwnKeyState.PROVIDER_FAILED,
    Standing.UNCONFIRMED: OwnKeyState.REJECTED,
    Standing.COOLING: OwnKeyState.COOLING,
    Standing.REJECTED: OwnKeyState.REJECTED,
    Standing.NO_CREDIT: OwnKeyState.NO_CREDIT,
    Standing.FAILED: OwnKeyState.PROVIDER_FAILED,
    Standing.UNOPENED: OwnKeyState.UNKNOWN,
    Standing.LIMIT_REACHED: OwnKeyState.LIMIT_REACHED,
}

_CONSENT = {
    OwnKeyState.COOLING: 1,
    OwnKeyState.NO_CREDIT: 2,
    OwnKeyState.REJECTED: 2,
    OwnKeyState.PROVIDER_FAILED: 3,
    OwnKeyState.LIMIT_REACHED: 3,
    OwnKeyState.UNKNOWN: 4,
}
"""Width of the consent a state needs: RATE_LIMIT, KEY_FAILURE, ANY; none is wide enough for
UNKNOWN."""

_HEALTH = {
    HealthState.ACTIVE: Standing.FRESH,
    HealthState.SUSPECT: Standing.FRESH,
    HealthState.COOLING: Standing.COOLING,
    HealthState.NO_CREDIT: Standing.NO_CREDIT,
    HealthState.REJECTED: Standing.REJECTED,
    # As a key that must be mended: no waiting helps, and the same consent lets credits pay.
    HealthState.NOT_BROUGHT: Standing.REJECTED,
    HealthState.UNOPENED: Standing.UNOPENED,
}


def _runner(candidate: Candidate) -> Runner:
    standing = _HEALTH[candidate.health.state]
    cooling = standing is Standing.COOLING
    return Runner(
        candidate=candidate,
        standing=standing,
        ready_at=candidate.health.until if cooling else 0.0,
    )


def _carried(candidate: Candidate, before: Mapping[Hashable, Runner]) -> Runner:
    runner = _runner(candidate)
    known = before.get(_identity(runner))
    return runner if known is None else dataclasses.replace(known, candidate=candidate)


def _identity(runner: Runner) -> Hashable:
    key, offer = runner.candidate.key, runner.candidate.offer
    return key.name, key.version, key.etag, offer.provider_model


def _decide_on_own_keys(progress: Progress, now: float) -> Step:
    runner = turns.first_fresh(progress.own, progress, now)
    soonest = turns.soonest(progress.own, progress, now)
    if runner is None and soonest and not progress.waits:
        runner = soonest if turns.is_short(soonest, progress, now) else None
    if runner is not None:
        return _try_own(progress, runner, now)
    state = own_key_state(progress, now=now)
    if progress.credits_possible and not progress.credits_refused:
        return _try(progress, state, None, now)
    if soonest:
        return _try_own(progress, soonest, now)
    untold = not progress.attempts or state is OwnKeyState.UNKNOWN
    if untold and not progress.credits_refused:
        # The ledger knows the mode, so it words the refusal.
        return Try(state, None, None)
    return _end(progress)


def _decide_on_credits(progress: Progress, now: float) -> Step:
    own = turns.first_fresh(progress.own, progress, now)
    step = _try(progress, own_key_state(progress, now=now), own, now)
    # Whether credits would pay at all is the ledger's to say, before we speak of capacity.
    return step if step.shared is not None or not progress.attempts else _end(progress)


def _try_own(progress: Progress, runner: Runner, now: float) -> Try:
    return _try(progress, OwnKeyState.READY, runner, now)


def _try(progress: Progress, state: OwnKeyState, own: Runner | None, now: float) -> Try:
    """
    Ask for an own key and a shared one; which of them is tried depends on who pays.
    """
    shared = _shared_choice(progress, now)
    return Try(
        state,
        own.candidate if own else None,
        shared.candidate if shared else None,
        own_wait_seconds=turns.wait(own, progress, now) if own else 0.0,
        shared_wait_seconds=turns.wait(shared, progress, now) if shared else 0.0,
    )


def _shared_choice(progress: Progress, now: float) -> Runner | None:
    """
    Choose the shared key to try if credits pay: one that cools only where it is ready soon.
    """
    if not progress.credits_possible or progress.credits_refused:
        return None
    runner = turns.first_fresh(progress.shared, progress, now)
    if runner is None:
        soonest = turns.soonest(progress.shared, progress, now)
        runner = soonest if soonest and turns.is_short(soonest, progress, now) else None
    return runner


def _spent_on(progress: Progress, runner: Runner) -> Progress:
    """
    Take what asking for a candidate uses of the budgets.
    """
    if runner.standing is Standing.COOLING:
        return dataclasses.replace(progress, waits=progress.waits + 1)
    # What is tried again was counted where that was decided.
    return dataclasses.replace(progress, keys=progress.keys + (runner.failure is None))


def _after_key_failure(progress: Progress, runner: Runner, failure: Failure, now: float) -> Runner:
    match failure.outcome:
        case Outcome.INVALID_KEY | Outcome.EXPIRED_CREDENTIALS:
            confirmed = runner.refreshed or progress.refreshes >= REFRESHES_MAX
            standing = Standing.REJECTED if confirmed else Standing.UNCONFIRMED
            return dataclasses.replace(runner, standing=standing)
        case Outcome.INSUFFICIENT_CREDIT:
            return dataclasses.replace(runner, standing=Standing.NO_CREDIT)
        case Outcome.RATE_LIMITED:
            hint = failure.retry_after_seconds
            wait = max(RATE_LIMIT_WAIT_SECONDS_MIN, UNHINTED_WAIT_SECONDS if hint is None else hint)
            ready_at = now + wait if failure.retryable else None
            return dataclasses.replace(runner, standing=Standing.COOLING, ready_at=ready_at)
        case _:
            return dataclasses.replace(runner, standing=Standing.REJECTED)


def _after_transient(
    progress: Progress, runner: Runner, failure: Failure, now: float, chance: float | None
) -> Progress:
    """
    Repeat after a pause, or give the candidate up; without a chance nothing is repeated.
    """
    retries, hint = progress.transient_retries, failure.retry_after_seconds or 0.0
    repeat = (
        failure.retryable
        and failure.outcome is not Outcome.TIMEOUT
        # Others serve meanwhile, or the caller hears when to come back.
        and hint <= BACKOFF_SECONDS_MAX
        and retries < TRANSIENT_RETRIES_MAX
        and progress.maybe_billed < MAYBE_BILLED_MAX
    )
    if chance is None or not repeat:
        return _put(progress, runner, dataclasses.replace(runner, standing=Standing.FAILED))
    ready_at = now + max(backoff_seconds(retries, chance), hint)
    waiting = dataclasses.replace(runner, standing=Standing.FRESH, ready_at=ready_at)
    if not turns.fits(waiting, progress, now):
        return _put(progress, runner, dataclasses.replace(runner, standing=Standing.FAILED))
    progress = dataclasses.replace(progress, transient_retries=retries + 1)
    return _put(progress, runner, waiting)


def _end(progress: Progress) -> End:
    """
    Name the failure to tell: the primary candidate's of the funding that was tried last.
    """
    side = progress.shared if progress.on_credits else progress.own
    for runners in (side, progress.own, progress.shared):
        told = [r for r in runners if r.failure is not None]
        # The request's own fault outweighs what became of other keys.
        told.sort(key=lambda r: r.failure is None or r.failure.outcome not in REQUEST_FAULTS)
        for runner in told:
            return End(
                runner.failure, runner.candidate.funding, runner.candidate, _ready_at(runners)
            )
    funding = Funding.CREDITS if progress.on_credits else Funding.OWN_KEY
    first = next(iter(side), None)
    return End(None, funding, first.candidate if first else None, _ready_at(side))


def _ready_at(runners: tuple[Runner, ...]) -> float | None:
    cooling = (r.ready_at for r in runners if r.standing is Standing.COOLING)
    return min((at for at in cooling if at is not None), default=None)


def _find(progress: Progress, candidate: Candidate) -> Runner:
    for runner in (*progress.own, *progress.shared):
        if runner.candidate is candidate:
            return runner
    raise AssertionError("the candidate is not of this request")


def _put(progress: Progress, old: Runner, new: Runner) -> Progress:
    def swap(runners: tuple[Runner, ...]) -> tuple[Runner, ...]:
        return tuple(new if r.candidate is old.candidate else r for r in runners)

    return dataclasses.replace(progress, own=swap(progress.own), shared=swap(progress.shared))
