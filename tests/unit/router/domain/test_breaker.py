# SPDX-License-Identifier: Apache-2.0
"""When a breaker opens, tries again, and lets more and more pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.breaker import (
    OPEN_SECONDS_MAX,
    RAMP_SECONDS,
    RAMP_SHARE_MIN,
    SHARED_KEY,
    Breaker,
    Event,
    Failed,
    Phase,
    Succeeded,
    decide,
    phase,
    share,
)

OK, BAD = Succeeded(), Failed(SHARED_KEY)
A, B = Failed("accounts/a"), Failed("accounts/b")


def after(*events: Event, state: Breaker | None = None, now: float = 0.0) -> Breaker:
    """Take events in, all at once."""
    state = state or Breaker()
    for event in events:
        state = decide(now, state, event)
    return state


OPENED = after(*[BAD] * 5)
RAMPING = after(OK, state=OPENED, now=6.0)


@pytest.mark.requirement("R11")
@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], Phase.CLOSED),
        ([BAD] * 4, Phase.CLOSED),
        ([BAD] * 5, Phase.OPEN),
        ([OK] * 6 + [BAD] * 5, Phase.CLOSED),
        ([OK] * 5 + [BAD] * 5, Phase.OPEN),
        ([A] * 50, Phase.CLOSED),
        ([A] * 4 + [B], Phase.OPEN),
        ([A] * 4 + [BAD], Phase.OPEN),
    ],
)
def test_closed(events: list[Event], expected: Phase) -> None:
    """Many failures, half of all calls, and not one account's own keys alone."""
    assert phase(after(*events), 0.0) is expected


@pytest.mark.requirement("R11")
@pytest.mark.parametrize(
    ("state", "now", "event", "expected"),
    [
        (OPENED, 4.0, OK, Phase.OPEN),
        (OPENED, 4.0, BAD, Phase.OPEN),
        (OPENED, 5.0, OK, Phase.RAMPING),
        (OPENED, 5.0, BAD, Phase.OPEN),
        (RAMPING, 7.0, OK, Phase.RAMPING),
        (RAMPING, 7.0, BAD, Phase.RAMPING),
        (RAMPING, 6.0 + RAMP_SECONDS, OK, Phase.CLOSED),
        (RAMPING, 6.0 + RAMP_SECONDS, BAD, Phase.CLOSED),
    ],
)
def test_once_opened(state: Breaker, now: float, event: Event, expected: Phase) -> None:
    assert phase(decide(now, state, event), now) is expected


@pytest.mark.requirement("R11")
def test_failures_far_apart_are_forgotten() -> None:
    state = Breaker()
    for minute in range(20):
        state = decide(60.0 * minute, state, BAD)
    assert phase(state, 1200.0) is Phase.CLOSED


@pytest.mark.requirement("R11")
def test_each_trial_that_fails_doubles_the_pause_up_to_a_bound() -> None:
    state, pauses = OPENED, [OPENED.until - OPENED.since]
    for _ in range(8):
        state = decide(state.until, state, BAD)
        pauses.append(state.until - state.since)
    assert pauses[:5] == [5.0, 10.0, 20.0, 40.0, OPEN_SECONDS_MAX]
    assert set(pauses[4:]) == {OPEN_SECONDS_MAX}


@pytest.mark.requirement("R11")
def test_the_ramp_lets_a_growing_share_pass_and_two_failures_end_it() -> None:
    """Open none, half open the trial, then 10 % to all."""
    assert share(OPENED, 1.0) == 0.0
    assert share(OPENED, 5.0) == 1.0
    assert share(RAMPING, 6.0) == RAMP_SHARE_MIN
    assert share(RAMPING, 6.0 + RAMP_SECONDS / 2) == pytest.approx(0.55)
    assert share(RAMPING, 6.0 + RAMP_SECONDS) == 1.0
    again = after(BAD, BAD, state=RAMPING, now=7.0)
    assert phase(again, 7.0) is Phase.OPEN
    assert again.until - again.since == 10.0


@pytest.mark.requirement("R11")
@given(
    st.lists(st.tuples(st.floats(0, 30), st.sampled_from([OK, A, B, BAD])), max_size=60),
)
def test_whatever_happens_it_tries_again_within_a_minute(
    events: list[tuple[float, Event]],
) -> None:
    state, now = Breaker(), 0.0
    for pause, event in events:
        now += pause
        state = decide(now, state, event)
        assert 0.0 <= share(state, now) <= 1.0
        assert len(state.witnesses) <= 2
    assert share(state, now + OPEN_SECONDS_MAX) == 1.0
