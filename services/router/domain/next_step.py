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
   credits by consent; where credits are refused, a wait in place up to the deadline.
4. 5xx, overload, network: the same key again after a growing, jittered pause, then the next.
5. Budgets never multiply: attempts over all, transient retries over all and within what the account
   can pay, one repeat of a call that may have been billed on each funding, one deadline.
6. The state told to the ledger is the one that needs the widest consent.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from services.router.domain.keys import HealthState
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Candidate, Funding, OwnKeyState, Plan

if TYPE_CHECKING:
    from services.router.domain.keys import OwnKey
    from services.router.domain.text import Usage

ATTEMPTS_MAX = 32
TRANSIENT_RETRIES_MAX = 2
MAYBE_BILLED_MAX = 2
"""Calls on one funding that may have been billed without an answer: the first and one repeat."""
SHORT_WAIT_SECONDS_MAX = 2.0
UNHINTED_WAIT_SECONDS = 1.0
"""Cooldown after a 429 without any hint."""
RATE_LIMIT_WAIT_SECONDS_MIN = 0.05
WAITS_MAX = 5
"""Waits for a cooling key within one request."""
WAIT_SECONDS_MAX = 60.0
"""A longer cooldown is not waited out, however long the deadline: its end is told instead."""
BACKOFF_SECONDS_BASE = 0.5
BACKOFF_SECONDS_MAX = 5.0
ATTEMPT_SECONDS_MIN = 0.5
"""With less than this left before the deadline nothing more is tried."""

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


class Standing(StrEnum):
    """
    What a candidate has come to within this request.
    """

    FRESH = "fresh"
    UNCONFIRMED = "unconfirmed"
    """Answered 401 once: a newer version may exist."""
    COOLING = "cooling"
    REJECTED = "rejected"
    NO_CREDIT = "no_credit"
    FAILED = "failed"
    UNOPENED = "unopened"
    """Keyvault cannot open it now."""
    LIMIT_REACHED = "limit_reached"
    """Its monthly spending limit leaves no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """
    A candidate and what it has come to.
    """

    candidate: Candidate
    standing: Standing
    ready_at: float | None = 0.0
    """Monotonic seconds before which it is not tried; None where no waiting helps."""
    refreshed: bool = False
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    Where a request stands.
    """

    own: tuple[Runner, ...]
    shared: tuple[Runner, ...]
    without_own_key: OwnKeyState
    deadline: float
    on_credits: bool = False
    credits_refused: bool = False
    credits_possible: bool = True
    ended: bool = False
    attempts: int = 0
    transient_retries: int = 0
    maybe_billed: int = 0
    """Calls on the funding in use that may have been billed without an answer."""
    own_closed: bool = False
    """Whether that budget is used up for own keys."""
    waits: int = 0
    may_repeat: bool = True
    """Whether a call that may have been billed is made again: images, speech and jobs are not."""


@dataclass(frozen=True, slots=True)
class Try:
    """
    Ask the ledger for an attempt, after a pause; its answer says which candidate is tried.
    """

    own_key_state: OwnKeyState
    own: Candidate | None
    """The own key to try, set where the state is READY."""
    shared: Candidate | None
    """The shared key to try if credits pay."""
    delay_seconds: float


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


def decide(progress: Progress, *, now: float) -> Step:
    """
    Give the next step.
    """
    if progress.ended or progress.attempts >= ATTEMPTS_MAX:
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
    waited = chosen is not None and _find(progress, chosen).standing is Standing.COOLING
    return dataclasses.replace(
        progress,
        attempts=progress.attempts + 1,
        on_credits=on_credits,
        waits=progress.waits + waited,
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
    return _put(progress, runner, dataclasses.replace(runner, standing=Standing.LIMIT_REACHED))


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
    changed = _after_key_failure(runner, failure, now)
    return _put(progress, runner, changed)


def own_key_state(progress: Progress, *, now: float) -> OwnKeyState:
    """
    Say whether an own key serves; where none does, the reason that needs the widest consent.
    """
    if not progress.own:
        return progress.without_own_key
    if _own_choice(progress, now) is not None:
        return OwnKeyState.READY
    states = [_STATES[runner.standing] for runner in progress.own]
    return max(states, key=lambda state: _CONSENT[state])


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


def _decide_on_own_keys(progress: Progress, now: float) -> Step:
    runner = _first_fresh(progress.own, progress, now)
    soonest = _soonest(progress.own, progress, now)
    if runner is None and soonest and not progress.waits:
        runner = soonest if _wait(soonest, now) <= SHORT_WAIT_SECONDS_MAX else None
    if runner is not None:
        return _try_own(progress, runner, now)
    state = own_key_state(progress, now=now)
    if progress.credits_possible and not progress.credits_refused:
        return Try(state, None, _shared_choice(progress, now), 0.0)
    if soonest and progress.waits < WAITS_MAX and _wait(soonest, now) <= WAIT_SECONDS_MAX:
        return _try_own(progress, soonest, now)
    untold = not progress.attempts or state is OwnKeyState.UNKNOWN
    if untold and not progress.credits_refused:
        # The ledger knows the mode, so it words the refusal.
        return Try(state, None, None, 0.0)
    return _end(progress)


def _decide_on_credits(progress: Progress, now: float) -> Step:
    state, own = own_key_state(progress, now=now), _own_choice(progress, now)
    runner = _first_fresh(progress.shared, progress, now)
    if runner is None:
        soonest = _soonest(progress.shared, progress, now)
        short = soonest and _wait(soonest, now) <= SHORT_WAIT_SECONDS_MAX
        runner = soonest if short and progress.waits < WAITS_MAX else None
    if runner is not None:
        return Try(state, own, runner.candidate, _wait(runner, now))
    if not progress.attempts:
        # Whether credits would pay at all is the ledger's to say, before we speak of capacity.
        return Try(state, own, None, 0.0)
    return _end(progress)


def _try_own(progress: Progress, runner: Runner, now: float) -> Try:
    shared = None if progress.credits_refused else _shared_choice(progress, now)
    return Try(OwnKeyState.READY, runner.candidate, shared, _wait(runner, now))


def _own_choice(progress: Progress, now: float) -> Candidate | None:
    fresh = _first_fresh(progress.own, progress, now)
    return fresh.candidate if fresh else None


def _shared_choice(progress: Progress, now: float) -> Candidate | None:
    if not progress.credits_possible:
        return None
    runner = _first_fresh(progress.shared, progress, now)
    runner = runner or _soonest(progress.shared, progress, now)
    return runner.candidate if runner else None


def _first_fresh(runners: tuple[Runner, ...], progress: Progress, now: float) -> Runner | None:
    shared_closed = progress.on_credits and progress.maybe_billed >= MAYBE_BILLED_MAX
    if progress.own_closed if runners is progress.own else shared_closed:
        return None
    for runner in runners:
        if runner.standing is Standing.FRESH and _fits(runner, progress, now):
            return runner
    return None


def _soonest(runners: tuple[Runner, ...], progress: Progress, now: float) -> Runner | None:
    cooling = [
        runner
        for runner in runners
        if runner.standing is Standing.COOLING and _fits(runner, progress, now)
    ]
    return min(cooling, key=lambda runner: runner.ready_at or 0.0, default=None)


def _wait(runner: Runner, now: float) -> float:
    return max(0.0, (runner.ready_at or 0.0) - now)


def _fits(runner: Runner, progress: Progress, now: float) -> bool:
    if runner.ready_at is None:
        return False
    return max(now, runner.ready_at) + ATTEMPT_SECONDS_MIN <= progress.deadline


def _after_key_failure(runner: Runner, failure: Failure, now: float) -> Runner:
    match failure.outcome:
        case Outcome.INVALID_KEY | Outcome.EXPIRED_CREDENTIALS:
            standing = Standing.REJECTED if runner.refreshed else Standing.UNCONFIRMED
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
    retries = progress.transient_retries
    repeat = (
        failure.retryable
        and failure.outcome is not Outcome.TIMEOUT
        and retries < TRANSIENT_RETRIES_MAX
        and progress.maybe_billed < MAYBE_BILLED_MAX
    )
    if chance is None or not repeat:
        return _put(progress, runner, dataclasses.replace(runner, standing=Standing.FAILED))
    backoff = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_BASE * 2**retries) * (0.8 + 0.4 * chance)
    ready_at = now + max(backoff, failure.retry_after_seconds or 0.0)
    waiting = dataclasses.replace(runner, standing=Standing.FRESH, ready_at=ready_at)
    if not _fits(waiting, progress, now):
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
