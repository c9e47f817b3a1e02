# SPDX-License-Identifier: Apache-2.0
"""
In which order candidates of one funding are tried: by preference, then by what breakers say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.request import Sort

if TYPE_CHECKING:
    from services.router.domain.plan import Candidate
    from services.router.domain.request import Preferences


def preference_rank(candidate: Candidate, preferences: Preferences) -> tuple[int, float]:
    """
    Rank a provider by the order, or where there is none by what to sort by; what is not known comes
    last. The sort is stable.
    """
    provider = candidate.offer.provider
    if preferences.order:
        order = preferences.order
        return (order.index(provider) if provider in order else len(order), 0)
    value: float | None
    match preferences.sort:
        case Sort.PRICE:
            value = candidate.worst_case_nano_usd
        case Sort.LATENCY:
            value = candidate.speed.first_content_seconds
        case Sort.THROUGHPUT:
            rate = candidate.speed.tokens_per_second
            value = None if rate is None else -rate
        case Sort.CATALOGUE:
            return (0, 0)
    return (1, 0) if value is None else (0, value)


def own_behind_breakers(
    candidates: tuple[Candidate, ...],
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """
    Put own keys whose breaker closes the way behind the others; gives the notes that say so.

    None is left out: what other accounts met must not make this one pay with credits.
    """
    closed = tuple(c for c in candidates if c.gate.closes)
    passing = tuple(c for c in candidates if not c.gate.closes)
    if not closed:
        return candidates, ()
    failing = ", ".join(sorted({c.offer.provider for c in closed}))
    if not passing:
        return candidates, (f"{failing} has been failing lately; own keys there are tried anyway",)
    return passing + closed, (f"own keys at {failing} come last: it has been failing lately",)


def shared_behind_breakers(
    candidates: tuple[Candidate, ...],
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...], tuple[str, ...]]:
    """
    Leave out shared keys whose breaker closes the way, but never all; gives those kept, those left
    out, and the notes.

    Where every way is closed, the one that opens soonest is the least bad, and is tried.
    """
    passing = tuple(c for c in candidates if not c.gate.closes)
    if passing or not candidates:
        return passing, tuple(c for c in candidates if c.gate.closes), ()
    best = min(candidates, key=lambda c: c.gate.until).offer.provider
    kept = tuple(c for c in candidates if c.offer.provider == best)
    left_out = tuple(c for c in candidates if c.offer.provider != best)
    note = f"every provider has been failing lately; {best} is tried as the least bad"
    return kept, left_out, (note,)
