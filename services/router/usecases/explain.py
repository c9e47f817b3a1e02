# SPDX-License-Identifier: Apache-2.0
"""
Tells what a request would do, without spending: its plan, and the ledger's answer to a dry run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.router.domain import next_step
from services.router.domain.next_step import Try
from services.router.domain.plan import Plan, check_preferences, plan
from services.router.domain.request import Source, TextRequest
from services.router.errors import LedgerRefusalError
from services.router.usecases.engine import Engine
from services.router.usecases.ports import PLATFORM, Ask, Claim, Grant
from services.router.usecases.request_identity import FINGERPRINT_VERSION, request_fingerprint
from services.router.usecases.terms import credit_terms, own_terms

AUTHORIZE_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    What would be tried, and who would pay for the first attempt.
    """

    plan: Plan
    grant: Grant | None
    refusal: LedgerRefusalError | None
    now: float


class Explain:
    """
    The use case.

    Args:
        engine: What a run would work with.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, request: TextRequest, *, deadline: float) -> Explanation:
        """
        Explain a request; changes nothing.
        """
        engine = self._engine
        check_preferences(request.preferences, engine.catalogue)
        own, shared = await asyncio.gather(
            engine.keys.held(request.account), engine.keys.held(PLATFORM)
        )
        now = engine.clock.monotonic()
        laid_out = plan(
            request,
            keys=own.keys,
            shared=shared.keys,
            catalogue=engine.catalogue,
            unsupported=engine.caller.unsupported,
            conditions=engine.experience.at(now, chance=0.0),
            now=now,
            spread=0,
        )
        own_only = request.source is Source.OWN_KEY
        progress = next_step.begin(laid_out, deadline=deadline, own_only=own_only)
        step = next_step.decide(progress, now=now)
        grant, refusal = None, None
        if isinstance(step, Try):
            try:
                grant = await self._dry_run(request, laid_out, step)
            except LedgerRefusalError as error:
                refusal = error
        return Explanation(plan=laid_out, grant=grant, refusal=refusal, now=now)

    async def _dry_run(self, request: TextRequest, laid_out: Plan, step: Try) -> Grant | None:
        engine = self._engine
        ask = Ask(
            claim=Claim(
                account=request.account,
                request_id=request.request_id,
                claimant=engine.new_claimant(),
                fingerprint=request_fingerprint(engine.fingerprint_key, request),
                fingerprint_version=FINGERPRINT_VERSION,
                source=request.source,
                always_use=laid_out.always_use,
            ),
            sequence=1,
            own_key_state=step.own_key_state,
            own=own_terms(step.own),
            credits=credit_terms(step.shared),
            dry_run=True,
        )
        answer = await engine.ledger.authorize(ask, timeout_seconds=AUTHORIZE_SECONDS_MAX)
        return answer if isinstance(answer, Grant) else None
