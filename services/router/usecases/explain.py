# SPDX-License-Identifier: Apache-2.0
"""
Tells what a request would do, without spending: its plan, and the ledger's answer to a dry run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.router.domain import next_step
from services.router.domain.next_step import End, Try
from services.router.domain.plan import ExclusionReason, Funding, Plan
from services.router.domain.request import Request, Source
from services.router.errors import LedgerRefusalError
from services.router.usecases.engine import Engine
from services.router.usecases.failures import failure_error, shared_keys_unavailable
from services.router.usecases.planner import Planner
from services.router.usecases.ports import Ask, Grant
from services.router.usecases.terms import credit_terms, own_terms
from services.router.usecases.walk import fault_of, is_own_lack, new_claim
from services.shared.errors import ServiceError

AUTHORIZE_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    What would be tried, and who would pay for the first attempt.
    """

    plan: Plan
    grant: Grant | None
    refusal: ServiceError | None
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
        laid_out = await Planner(engine, request).preview()
        now = engine.clock.monotonic()
        own_only = request.source is Source.OWN_KEY
        progress = next_step.begin(laid_out, deadline=deadline, own_only=own_only)
        step = next_step.decide(progress, now=now)
        grant, refusal = None, fault_of(request, laid_out, engine.catalogue)
        if refusal is None and isinstance(step, Try):
            try:
                grant = await self._dry_run(request, laid_out, step)
            except LedgerRefusalError as error:
                refusal = self._worded(error, laid_out, now)
        return Explanation(plan=laid_out, grant=grant, refusal=refusal, now=now)

    async def _dry_run(self, request: Request, laid_out: Plan, step: Try) -> Grant | None:
        engine = self._engine
        ask = Ask(
            claim=replace(new_claim(engine, request), always_use=laid_out.always_use),
            sequence=1,
            own_key_state=step.own_key_state,
            own=own_terms(step.own),
            credits=credit_terms(step.shared),
            dry_run=True,
        )
        answer = await engine.ledger.authorize(ask, timeout_seconds=AUTHORIZE_SECONDS_MAX)
        return answer if isinstance(answer, Grant) else None

    def _worded(self, refusal: LedgerRefusalError, laid_out: Plan, now: float) -> ServiceError:
        """
        Word a refusal as a run would.
        """
        if not is_own_lack(refusal, laid_out):
            return refusal
        if any(e.reason is ExclusionReason.KEY_UNAVAILABLE for e in laid_out.exclusions):
            return shared_keys_unavailable(())
        end = End(None, Funding.CREDITS, None)
        return failure_error(
            end, attempts=(), refusal=None, catalogue=self._engine.catalogue, now=now
        )
