# SPDX-License-Identifier: Apache-2.0
"""A limit in a minute, leased out in slices: no minute holds more, wherever it begins."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.keyvault.domain.allotments import (
    MINUTE,
    SLOT,
    SLOTS,
    Window,
    ends_in,
    free_in,
    in_use,
    lease,
    slot_of,
)

pytestmark = pytest.mark.requirement("R10", "K16")


TICK = timedelta(milliseconds=1)


@given(
    most=st.integers(1, 50),
    asks=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 30)), max_size=40),
)
def test_no_minute_holds_more_wherever_it_begins(most: int, asks: list[tuple[int, int]]) -> None:
    """Each ask comes so many milliseconds after the one before, each request when it hurts most."""
    window, now, slices = Window(), timedelta(), []
    for pause, wanted in asks:
        now += pause * TICK
        window, granted = lease(window, slot=slot_of(now), wanted=wanted, most=most)
        assert 0 <= granted <= wanted
        if granted:
            slices.append((now, now + ends_in(window.slot, now=now) - TICK, granted))
    for _, start, _ in slices:
        end = start + MINUTE
        assert sum(n for first, last, n in slices if first < end and start <= last) <= most


def test_what_is_used_up_says_when_something_can_be_leased_again() -> None:
    now = timedelta(seconds=1_002)
    full, granted = lease(Window(), slot=slot_of(now), wanted=3, most=3)
    assert granted == 3
    later = now + 2 * SLOT
    empty, granted = lease(full, slot=slot_of(later), wanted=1, most=3)
    assert granted == 0
    wait = free_in(empty, now=later, most=3)
    assert wait == SLOTS * SLOT - timedelta(seconds=2) - 2 * SLOT
    _, granted = lease(empty, slot=slot_of(later + wait - TICK), wanted=1, most=3)
    assert granted == 0
    _, granted = lease(empty, slot=slot_of(later + wait), wanted=9, most=3)
    assert granted == 3


def test_used_up_evenly_it_gives_twelve_of_thirteen() -> None:
    window, total = Window(), 0
    for slot in range(10 * SLOTS):
        window, granted = lease(window, slot=slot, wanted=10, most=130)
        total += granted
    assert total == 10 * 130
    assert SLOTS * SLOT == MINUTE * 13 / 12


def test_a_clock_that_is_set_back_leases_nothing_anew() -> None:
    window, _ = lease(Window(), slot=100, wanted=5, most=5)
    window, granted = lease(window, slot=7, wanted=5, most=5)
    assert (window.slot, granted) == (100, 0)


def test_a_lower_limit_counts_at_once() -> None:
    window, _ = lease(Window(), slot=1, wanted=5, most=5)
    window, granted = lease(window, slot=1, wanted=5, most=2)
    assert granted == 0
    assert in_use(window, slot=1) == 5
    assert free_in(window, now=SLOT, most=2) == SLOTS * SLOT
