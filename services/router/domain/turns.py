# SPDX-License-Identifier: Apache-2.0
"""
Whose turn it is: which candidate of a side may be tried next, and after how long a wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.progress import Standing

if TYPE_CHECKING:
    from services.router.domain.progress import Progress, Runner

KEYS_MAX = 16
"""Keys tried, or found at their limit, whoever pays."""
SHARED_KEYS_MIN = 4
"""So many of them are left to shared keys as long as credits may pay."""
MAYBE_BILLED_MAX = 2
"""Calls on one funding that may have been billed without an answer: the first and one repeat."""
SHORT_WAIT_SECONDS_MAX = 2.0
WAITS_MAX = 10
"""Waits for cooling keys. Each lasts twice as long as the one before, if its hint is not longer:
together more than the ten minutes that a request may take, so the deadline comes first."""
WAIT_SECONDS_BASE = 0.6
ATTEMPT_SECONDS_MIN = 0.5
"""With less than this left before the deadline nothing more is tried."""


def first_fresh(runners: tuple[Runner, ...], progress: Progress, now: float) -> Runner | None:
    """
    Give the first of a side that nothing stands in the way of.
    """
    if _is_closed(runners, progress):
        return None
    may_begin = progress.keys < _keys_max(runners, progress)
    for runner in runners:
        begun = runner.failure is not None
        fresh = runner.standing is Standing.FRESH and (begun or may_begin)
        if fresh and fits(runner, progress, now):
            return runner
    return None


def soonest(runners: tuple[Runner, ...], progress: Progress, now: float) -> Runner | None:
    """
    Give the one of a side that cools and is ready soonest, in time for an attempt.
    """
    if progress.waits >= WAITS_MAX or _is_closed(runners, progress):
        return None
    cooling = [
        runner
        for runner in runners
        if runner.standing is Standing.COOLING and fits(runner, progress, now)
    ]
    return min(cooling, key=lambda runner: runner.ready_at or 0.0, default=None)


def wait(runner: Runner, progress: Progress, now: float) -> float:
    """
    Tell how long a candidate is waited for, from now on.
    """
    hinted = max(0.0, (runner.ready_at or 0.0) - now)
    if runner.standing is not Standing.COOLING or not progress.waits:
        return hinted
    # A provider whose hints do not hold is asked ever less often, but still before the deadline.
    room = progress.deadline - ATTEMPT_SECONDS_MIN - now
    return max(hinted, min(room, WAIT_SECONDS_BASE * 2.0**progress.waits))


def is_short(runner: Runner, progress: Progress, now: float) -> bool:
    """
    Tell whether a candidate is ready so soon that it is waited for before anything else.
    """
    return wait(runner, progress, now) <= SHORT_WAIT_SECONDS_MAX


def fits(runner: Runner, progress: Progress, now: float) -> bool:
    """
    Tell whether a candidate is ready in time for an attempt.
    """
    if runner.ready_at is None:
        return False
    return max(now, runner.ready_at) + ATTEMPT_SECONDS_MIN <= progress.deadline


def _is_closed(runners: tuple[Runner, ...], progress: Progress) -> bool:
    """
    Tell whether a side has used up its calls that may have been billed.
    """
    if runners is progress.own:
        return progress.own_closed
    return progress.on_credits and progress.maybe_billed >= MAYBE_BILLED_MAX


def _keys_max(runners: tuple[Runner, ...], progress: Progress) -> int:
    fallback = progress.credits_possible and not progress.credits_refused
    return KEYS_MAX - SHARED_KEYS_MIN * (runners is progress.own and fallback)
