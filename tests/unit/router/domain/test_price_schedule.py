# SPDX-License-Identifier: Apache-2.0
"""Prices that change with the day and the hour."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.price_schedule import Condition, Daily, FromDay, PriceSchedule
from tests.support.routing import price

OLD, NEW, PEAK = price(1, "old"), price(2, "new"), price(3, "peak")
AUTUMN = FromDay(date(2026, 9, 10))
MORNING = Daily(time(1, tzinfo=UTC), time(4, tzinfo=UTC), working_days_only=True)
NIGHT = Daily(time(22, tzinfo=UTC), time(2, tzinfo=UTC))
SCHEDULE = PriceSchedule(OLD, ((AUTUMN, NEW), (MORNING, PEAK)))


def utc(*parts: int) -> datetime:
    """Give a moment."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.requirement("R5", "R6")
@pytest.mark.parametrize(
    ("moment", "name"),
    [
        (utc(2026, 9, 9, 23, 59, 59), "old"),
        (utc(2026, 9, 10), "new"),
        (utc(2026, 11, 20, 0, 59, 59), "new"),
        (utc(2026, 11, 20, 1), "peak"),
        (utc(2026, 11, 20, 3, 59, 59), "peak"),
        (utc(2026, 11, 20, 4), "new"),
        (utc(2026, 11, 21, 2), "new"),
    ],
)
def test_the_last_row_that_holds_counts(moment: datetime, name: str) -> None:
    """From a day on, within working hours of a Friday, not on the Saturday after it."""
    assert SCHEDULE.at(moment).price_id == name


@pytest.mark.requirement("R6")
@pytest.mark.parametrize(("hour", "holds"), [(21, False), (22, True), (1, True), (2, False)])
def test_a_window_may_pass_midnight(hour: int, *, holds: bool) -> None:
    assert NIGHT.holds(utc(2026, 11, 20, hour)) is holds


@pytest.mark.requirement("R6")
@given(
    row=st.sampled_from([AUTUMN, MORNING, NIGHT]),
    moment=st.datetimes(datetime(2026, 8, 1), datetime(2026, 12, 1)),  # noqa: DTZ001 - made aware
    later=st.integers(0, 10**15),
)
def test_nothing_changes_before_the_next_change(
    row: Condition, moment: datetime, later: int
) -> None:
    """So a price that was worked out may be kept until then."""
    moment = moment.replace(tzinfo=UTC)
    change = row.next_change(moment)
    assert change is None or change > moment
    microseconds = ((change or moment + timedelta(days=400)) - moment) // timedelta(microseconds=1)
    between = moment + timedelta(microseconds=later % microseconds)
    assert row.holds(between) is row.holds(moment)
