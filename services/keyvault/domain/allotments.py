# SPDX-License-Identifier: Apache-2.0
"""
How a limit of requests in a minute is leased out in slices, so that no minute holds more.

Time is cut into slots. A slice is leased in one slot and ends with it, so what it lets begin lies
in that slot. Any minute, wherever it begins, touches at most `SLOTS` slots; what they lease out
together never passes the limit. So the provider's own minute never sees more, whenever it begins.
The price is the part of the last slot that a minute does not reach: a limit that is used up evenly
gives 12 requests of 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

MINUTE = timedelta(minutes=1)
SLOT = timedelta(seconds=5)
SLOTS = MINUTE // SLOT + 1
"""Slots that a minute touches where it does not begin with one."""
UNLIMITED_REQUESTS = 6_000
"""Requests of a minute of which a customer's part is counted where the key itself has no limit."""


@dataclass(frozen=True, slots=True)
class Window:
    """
    What was leased lately.

    Args:
        slot: Number of the newest slot.
        leased: Requests leased in each of the last `SLOTS` slots, the newest first.
    """

    slot: int = 0
    leased: tuple[int, ...] = (0,) * SLOTS


def slot_of(now: timedelta) -> int:
    """
    Number the slot of a moment.

    Args:
        now: Since the epoch, by the one clock that counts.
    """
    return now // SLOT


def lease(window: Window, *, slot: int, wanted: int, most: int) -> tuple[Window, int]:
    """
    Lease a slice; gives the window after it and how many requests it holds.

    Args:
        window: What was leased so far.
        slot: Of now. One before the window's counts as the window's: a clock that was set back, or
            a lease that waited for another, never leases a slot anew.
        wanted: How many at most.
        most: How many requests a minute may hold.
    """
    moved = _at(window, slot)
    granted = min(wanted, max(0, most - sum(moved.leased)))
    newest, *older = moved.leased
    return Window(moved.slot, (newest + granted, *older)), granted


def in_use(window: Window, *, slot: int) -> int:
    """
    Count what was leased in the last minute.
    """
    return sum(_at(window, slot).leased)


def ends_in(slot: int, *, now: timedelta) -> timedelta:
    """
    Tell how long a slot still lasts.
    """
    return (slot + 1) * SLOT - now


def free_in(window: Window, *, now: timedelta, most: int) -> timedelta:
    """
    Tell after how long something can be leased of what is used up.
    """
    slot = window.slot
    while in_use(window, slot=slot) >= most:
        slot += 1
    return slot * SLOT - now


def _at(window: Window, slot: int) -> Window:
    passed = min(SLOTS, max(0, slot - window.slot))
    leased = ((0,) * passed + window.leased)[:SLOTS]
    return Window(max(slot, window.slot), leased)
