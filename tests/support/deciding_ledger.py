# SPDX-License-Identifier: Apache-2.0
"""A ledger that decides as the real one does, by its own rules, and a clock on which waits pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from services.ledger.domain import funding as rules
from services.ledger.domain import modes
from services.router import errors
from services.router.domain.plan import Funding, OwnKeyState
from services.router.usecases.ports import Ask, Grant, Recorded, Settled
from services.shared.clock import Timer
from services.shared.errors import ServiceError
from tests.support.clock import ManualClock, ManualTimer
from tests.support.engine import FakeLedger


@dataclass
class DecidingLedger(FakeLedger):
    """
    Decides who pays by the ledger's own rules.

    Args:
        mode: The account's billing mode.
        consent: Its consent to fall back.
        full: Names of own keys whose spending limit leaves no room.
    """

    mode: modes.BillingMode = modes.BillingMode.OWN_KEY_FIRST
    consent: modes.FallbackConsent = modes.FallbackConsent.ANY
    full: frozenset[str] = frozenset()
    _tried: set[str] = field(default_factory=set)

    async def authorize(self, ask: Ask, *, timeout_seconds: float) -> Grant | Recorded:
        """Decide who pays."""
        self.asks.append(ask)
        claimant = ask.claim.claimant
        decision = self._decision(ask, own_key_tried=claimant in self._tried)
        if ask.own_key_state is OwnKeyState.READY and not ask.dry_run:
            self._tried.add(claimant)
        own = ask.own if decision.funding is modes.Funding.OWN_KEY else None
        if own is None and ask.credits is None:
            raise errors.CreditsNotPossibleError("nothing that credits can pay for serves this")
        if own is not None and own.key.name in self.full:
            raise errors.OwnKeyLimitReachedError("no room is left")
        return Grant(
            funding=Funding.CREDITS if own is None else Funding.OWN_KEY,
            fallback=decision.fallback,
            held_nano_credits=0,
            lease_seconds=60.0,
            settled=Settled(0) if ask.settlement else None,
        )

    def _decision(self, ask: Ask, *, own_key_tried: bool) -> rules.FundingDecision:
        request = rules.FundingRequest(
            mode=self.mode,
            consent=self.consent,
            source=modes.Source[ask.claim.source.name],
            own_key_state=modes.OwnKeyState[ask.own_key_state.name],
            always_use=ask.claim.always_use,
            own_key_tried=own_key_tried,
        )
        try:
            return rules.decide(request)
        except ServiceError as refusal:
            told: type[errors.LedgerRefusalError] = getattr(errors, type(refusal).__name__)
            raise told(str(refusal)) from None


class PassingClock(ManualClock):
    """Time passes as soon as somebody waits; nothing is promised for later."""

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Never call back."""
        return ManualTimer(seconds, callback)
