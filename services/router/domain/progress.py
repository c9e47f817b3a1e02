# SPDX-License-Identifier: Apache-2.0
"""
Where a request stands: what each of its candidates has come to, and what of its budgets is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.router.domain.next_step import Failure
    from services.router.domain.plan import Candidate, OwnKeyState


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
    keys: int = 0
    """Candidates tried, or found at their limit."""
    refreshes: int = 0
    """Of them, tried once more at another version."""
    transient_retries: int = 0
    waits: int = 0
    maybe_billed: int = 0
    """Calls on the funding in use that may have been billed without an answer."""
    own_closed: bool = False
    """Whether that budget is used up for own keys."""
    may_repeat: bool = True
    """Whether a call that may have been billed is made again: images, speech and jobs are not."""
