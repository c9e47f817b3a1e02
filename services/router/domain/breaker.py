# SPDX-License-Identifier: Apache-2.0
"""
A circuit breaker for one provider, host and model: a state machine without I/O.

Closed, it counts; so many failures in short time open it. Open, it lets nothing pass until its time
is up, longer with each opening in a row. Then it is half open: one trial at a time. A trial that
succeeds begins the ramp, which lets a growing share pass, and after it the breaker is closed.

1. Old events fade: counts halve every `HALF_LIFE_SECONDS`.
2. One account's own keys cannot open it alone, whatever they meet: their owner may have chosen what
   fails, and others would suffer.

https://sre.google/sre-book/addressing-cascading-failures/ ; slow ramp after Envoy's slow start.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

HALF_LIFE_SECONDS = 15.0
FAILURES_TO_OPEN = 5
FAILURES_TO_REOPEN = 2
FAILURE_SHARE_TO_OPEN = 0.5
OPEN_SECONDS_BASE = 5.0
OPEN_SECONDS_MAX = 60.0
RAMP_SECONDS = 30.0
RAMP_SHARE_MIN = 0.1
FADED = 0.5
"""With fewer failures left than this, who met them is forgotten."""
SHARED_KEY = ""
"""Witness of a failure on a shared key; it counts by itself."""


class Phase(StrEnum):
    """
    What a breaker does.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    RAMPING = "ramping"


@dataclass(frozen=True, slots=True)
class Succeeded:
    """
    A call was served.
    """


@dataclass(frozen=True, slots=True)
class Failed:
    """
    A call met an outage: a server error, an overload, the network, silence.
    """

    witness: str
    """The account whose own key met it, or `SHARED_KEY`."""


Event = Succeeded | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """
    Where a breaker stands; times are monotonic seconds.
    """

    opened: bool = False
    """Whether it was opened and no trial has succeeded since."""
    since: float = 0.0
    """When it opened, or when its ramp began."""
    until: float = 0.0
    """When trials begin, or when its ramp ends."""
    openings: int = 0
    """How often in a row it opened."""
    successes: float = 0.0
    failures: float = 0.0
    counted_at: float = 0.0
    witnesses: frozenset[str] = frozenset()
    """Who met the failures; two at most."""


def phase(state: Breaker, now: float) -> Phase:
    """
    Tell what a breaker does now.
    """
    if state.opened:
        return Phase.OPEN if now < state.until else Phase.HALF_OPEN
    return Phase.RAMPING if now < state.until else Phase.CLOSED


def share(state: Breaker, now: float) -> float:
    """
    Give the share of calls that may pass, 0 to 1; all of the one trial where it is half open.
    """
    match phase(state, now):
        case Phase.OPEN:
            return 0.0
        case Phase.RAMPING:
            done = (now - state.since) / (state.until - state.since)
            return RAMP_SHARE_MIN + (1.0 - RAMP_SHARE_MIN) * done
        case _:
            return 1.0


def decide(
    now: float, state: Breaker, event: Event, *, failures_to_open: int = FAILURES_TO_OPEN
) -> Breaker:
    """
    Take the end of a call in.
    """
    match phase(state, now), event:
        case Phase.OPEN, _:
            return state  # A call that began before: its end tells nothing new.
        case Phase.HALF_OPEN, Succeeded():
            return Breaker(
                since=now, until=now + RAMP_SECONDS, openings=state.openings, counted_at=now
            )
        case Phase.HALF_OPEN, _:
            return _open(state, now)
    counted = _count(state, now, event)
    ramping = phase(counted, now) is Phase.RAMPING
    if _is_broken(counted, FAILURES_TO_REOPEN if ramping else failures_to_open):
        return _open(counted, now)
    if counted.openings and phase(counted, now) is Phase.CLOSED:
        return dataclasses.replace(counted, openings=0)
    return counted


def told(state: Breaker, *, until: float, now: float) -> Breaker:
    """
    Take in that another process found the same outage; trials begin when it says, each its own.
    """
    if state.opened and state.until >= until:
        return state
    return Breaker(opened=True, since=now, until=until, openings=state.openings + 1, counted_at=now)


def _count(state: Breaker, now: float, event: Event) -> Breaker:
    fade = 0.5 ** ((now - state.counted_at) / HALF_LIFE_SECONDS)
    successes, failures = state.successes * fade, state.failures * fade
    witnesses = state.witnesses if failures >= FADED else frozenset()
    match event:
        case Succeeded():
            successes += 1.0
        case Failed(witness):
            failures += 1.0
            if not _is_credible(witnesses):
                witnesses |= {witness}
    return dataclasses.replace(
        state, successes=successes, failures=failures, counted_at=now, witnesses=witnesses
    )


def _is_broken(state: Breaker, needed: int) -> bool:
    # Fading makes of five failures in a row a little less than five.
    enough = round(state.failures, 1) >= needed
    total = state.successes + state.failures
    return (
        enough and _is_credible(state.witnesses) and state.failures >= FAILURE_SHARE_TO_OPEN * total
    )


def _is_credible(witnesses: frozenset[str]) -> bool:
    return SHARED_KEY in witnesses or len(witnesses) > 1


def _open(state: Breaker, now: float) -> Breaker:
    seconds = min(OPEN_SECONDS_MAX, OPEN_SECONDS_BASE * 2**state.openings)
    return Breaker(
        opened=True,
        since=now,
        until=now + seconds,
        # Past the longest pause a further count would only grow the number.
        openings=state.openings + (seconds < OPEN_SECONDS_MAX),
        counted_at=now,
    )
