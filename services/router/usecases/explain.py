# SPDX-License-Identifier: Apache-2.0
"""
Tells what a request would do, without spending.

It is rehearsed: the run's own plan, steps and refusals, with dry runs at the ledger, and every
candidate passed over as if rate-limited, which of all failures needs the narrowest consent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.router.domain import next_step
from services.router.domain.next_step import End, Failure, Try
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Candidate, Exclusion, ExclusionReason, Funding, Plan
from services.router.domain.progress import Standing
from services.router.domain.request import Request, Source
from services.router.errors import LedgerRefusalError
from services.router.usecases.planner import Planner
from services.router.usecases.ports import Ask, Grant, Recorded
from services.router.usecases.refusals import Wording, after_refusal, fault_of
from services.router.usecases.terms import credit_terms, own_terms
from services.router.usecases.walk import new_claim

if TYPE_CHECKING:
    from services.router.usecases.engine import Engine
    from services.shared.errors import ServiceError

AUTHORIZE_SECONDS_MAX = 5.0

_PASSED_OVER = Failure(
    outcome=Outcome.RATE_LIMITED, billed=Billed.REFUSED, message="rehearsed", retryable=False
)


@dataclass(frozen=True, slots=True)
class Turn:
    """
    A candidate that would be tried.
    """

    candidate: Candidate
    wait_seconds: float
    """How long it would be waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    What would be tried as long as nothing serves, and who would pay for the first attempt.
    """

    plan: Plan
    turns: tuple[Turn, ...]
    """In order; none where the request would be refused."""
    exclusions: tuple[Exclusion, ...]
    """What takes no part, by the plan or by the ledger."""
    grant: Grant | None
    """Of the first attempt."""
    refusal: ServiceError | None
    """What the request would be refused with before its first attempt."""
    now: float


class Explain:
    """
    The use case.

    Args:
        engine: What a run would work with.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, request: Request, *, deadline: float) -> Explanation:
        """
        Explain a request; changes nothing.
        """
        engine = self._engine
        plan = await Planner(engine, request).preview()
        now = engine.clock.monotonic()
        fault = fault_of(request, plan, engine.catalogue)
        rehearsal = _Rehearsal(engine, request, plan, deadline=deadline)
        if fault is None:
            fault = await rehearsal.play(now)
        return Explanation(
            plan=plan,
            turns=tuple(rehearsal.turns),
            exclusions=(*plan.exclusions, *rehearsal.passed_by()),
            grant=rehearsal.grant,
            refusal=fault,
            now=now,
        )


class _Rehearsal:
    """
    One request, rehearsed.
    """

    def __init__(self, engine: Engine, request: Request, plan: Plan, *, deadline: float) -> None:
        self._engine = engine
        self._plan = plan
        self._claim = replace(new_claim(engine, request), always_use=plan.always_use)
        self._progress = next_step.begin(
            plan,
            deadline=deadline,
            own_only=request.source is Source.OWN_KEY,
            may_repeat=request.input.operation.may_repeat,
        )
        self._refusal: LedgerRefusalError | None = None
        self.turns: list[Turn] = []
        self.grant: Grant | None = None

    async def play(self, now: float) -> ServiceError | None:
        """
        Go on until nothing more would be tried; gives what the request would be refused with.
        """
        at = now
        while True:
            step = next_step.decide(self._progress, now=at)
            if isinstance(step, End):
                return None if self.turns else self._wording(now).ended(step, self._refusal)
            assert isinstance(step, Try), "nothing was refused with 401"
            try:
                answer = await self._ask(step)
            except LedgerRefusalError as refusal:
                going_on = after_refusal(self._progress, step, refusal)
                if going_on is None or going_on.credits_refused:
                    self._refusal = refusal
                if going_on is None:
                    worded = self._wording(now).refused(refusal, self._progress)
                    return None if self.turns else worded
                self._progress = going_on
                continue
            if isinstance(answer, Recorded):
                return None  # The request id was used: a run would tell what came of it.
            at += self._take_grant(step, answer, at)

    def passed_by(self) -> list[Exclusion]:
        """
        Give what the plan holds and the ledger rules out.
        """
        tried = {id(turn.candidate) for turn in self.turns}
        found = []
        for runner in (*self._progress.own, *self._progress.shared):
            candidate, full = runner.candidate, runner.standing is Standing.LIMIT_REACHED
            if full:
                found.append(
                    _exclusion(
                        candidate,
                        ExclusionReason.LIMIT_REACHED,
                        "its monthly spending limit leaves no room for the request",
                    )
                )
            elif self.turns and runner.standing is Standing.FRESH and id(candidate) not in tried:
                found.append(_exclusion(candidate, *self._why(candidate)))
        # Shared keys are told by their provider alone, so several read as one.
        return list(dict.fromkeys(found))

    async def _ask(self, step: Try) -> Grant | Recorded:
        ask = Ask(
            claim=self._claim,
            sequence=1,
            own_key_state=step.own_key_state,
            own=own_terms(step.own),
            credits=credit_terms(step.shared),
            dry_run=True,
        )
        return await self._engine.ledger.authorize(ask, timeout_seconds=AUTHORIZE_SECONDS_MAX)

    def _take_grant(self, step: Try, grant: Grant, at: float) -> float:
        """
        Pass the candidate over; gives how long it would have been waited for.
        """
        self.grant = self.grant or grant
        on_own_key = grant.funding is Funding.OWN_KEY
        candidate = step.own if on_own_key else step.shared
        assert candidate is not None, "the ledger grants only what terms were sent for"
        wait = step.own_wait_seconds if on_own_key else step.shared_wait_seconds
        self.turns.append(Turn(candidate, wait))
        going_on = next_step.granted(self._progress, step, grant.funding)
        self._progress = next_step.failed(
            going_on, candidate, _PASSED_OVER, now=at + wait, chance=0.0
        )
        return wait

    def _why(self, candidate: Candidate) -> tuple[ExclusionReason, str]:
        assert self.grant is not None, "something was tried"
        own = candidate.funding is Funding.OWN_KEY
        if own and self.grant.funding is Funding.CREDITS:
            return ExclusionReason.PAYER, "the account's billing mode lets credits pay instead"
        if not own and self._refusal is not None:
            return ExclusionReason.PAYER, self._refusal.message
        return ExclusionReason.BUDGET, "a request ends after so many keys that do not serve it"

    def _wording(self, now: float) -> Wording:
        return Wording(self._plan, self._engine.catalogue, attempts=(), now=now)


def _exclusion(candidate: Candidate, reason: ExclusionReason, detail: str) -> Exclusion:
    own = candidate.funding is Funding.OWN_KEY
    name = candidate.key.name if own else ""
    return Exclusion(candidate.funding, candidate.offer.provider, name, reason, detail)
