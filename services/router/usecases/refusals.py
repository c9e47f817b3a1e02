# SPDX-License-Identifier: Apache-2.0
"""
What a refusal means for a request: other keys may still serve it, or it ends, and in which words.

A run and its explanation both go by this, so that what is told is what happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router import errors
from services.router.domain import next_step
from services.router.domain.plan import ExclusionReason, Funding, OwnKeyState, Plan
from services.router.domain.request import Source
from services.router.usecases.failures import (
    failure_error,
    no_candidate,
    shared_keys_unavailable,
)

if TYPE_CHECKING:
    from services.router.domain.attempts import AttemptRecord
    from services.router.domain.catalogue import Catalogue
    from services.router.domain.next_step import End, Try
    from services.router.domain.progress import Progress
    from services.router.domain.request import Request
    from services.shared.errors import ServiceError

CONSENT_REFUSALS = (
    errors.FallbackNotAllowedError,
    errors.FallbackCapReachedError,
    errors.NoUsableOwnKeyError,
    errors.SourceNotAllowedError,
    errors.InsufficientCreditsError,
    errors.CreditsNotPossibleError,
)
"""Refusals after which an own key may still serve, if waiting helps."""
_BY_THE_REQUEST = frozenset(
    {ExclusionReason.PREFERENCE, ExclusionReason.PRICE, ExclusionReason.PARAMETER}
)
"""Why an own key takes no part that would, if the request did not ask for so much."""


def fault_of(request: Request, plan: Plan, catalogue: Catalogue) -> ServiceError | None:
    """
    Give what a request is refused with before anybody is asked; None where the ledger decides.
    """
    if plan.own or plan.shared or _lacks_shared_keys(plan):
        return None
    own = {e.reason for e in plan.exclusions if e.funding is Funding.OWN_KEY}
    if request.source is Source.OWN_KEY and not own & _BY_THE_REQUEST:
        return None
    return no_candidate(request, plan, catalogue)


def after_refusal(
    progress: Progress, step: Try, refusal: errors.LedgerRefusalError
) -> Progress | None:
    """
    Go on after the ledger refused an attempt; None where the request ends with that.
    """
    if isinstance(refusal, errors.OwnKeyLimitReachedError):
        assert step.own is not None, "the ledger holds own keys to their limits"
        return next_step.limit_reached(progress, step.own)
    may_go_on = step.own_key_state is not OwnKeyState.READY and progress.own
    if isinstance(refusal, CONSENT_REFUSALS) and may_go_on:
        return next_step.credits_refused(progress)
    return None


class Wording:
    """
    Words the end of a request.

    Args:
        plan: What it went by.
        catalogue: Knows faster models.
        attempts: Every attempt made.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        plan: Plan,
        catalogue: Catalogue,
        *,
        attempts: tuple[AttemptRecord, ...],
        now: float,
    ) -> None:
        self._plan = plan
        self._catalogue = catalogue
        self._attempts = attempts
        self._now = now

    def refused(self, refusal: errors.LedgerRefusalError, progress: Progress) -> ServiceError:
        """
        Word a final refusal; shared keys that cannot serve are the service's lack.
        """
        lacking = _lacks_shared_keys(self._plan) or bool(self._plan.shared)
        if isinstance(refusal, errors.CreditsNotPossibleError) and lacking:
            return self.ended(next_step.without_shared_key(progress), None)
        refusal.attempts = self._attempts
        return refusal

    def ended(self, end: End, refusal: errors.LedgerRefusalError | None) -> ServiceError:
        """
        Word an end after which nothing more is tried.

        Args:
            end: What it came to.
            refusal: Why credits did not pay instead, where they were asked.
        """
        lacking = isinstance(refusal, errors.CreditsNotPossibleError)
        on_credits = end.failure is None and end.funding is Funding.CREDITS
        faulty = end.failure is not None and next_step.is_request_fault(end.failure)
        unopened = _excludes(self._plan, ExclusionReason.KEY_UNAVAILABLE)
        if unopened and (lacking or on_credits) and not faulty:
            return shared_keys_unavailable(self._attempts)
        return failure_error(
            end,
            attempts=self._attempts,
            refusal=refusal,
            catalogue=self._catalogue,
            now=self._now,
        )


def _lacks_shared_keys(plan: Plan) -> bool:
    return _excludes(plan, ExclusionReason.NO_SHARED_KEY, ExclusionReason.KEY_UNAVAILABLE)


def _excludes(plan: Plan, *reasons: ExclusionReason) -> bool:
    return any(e.reason in reasons for e in plan.exclusions)
