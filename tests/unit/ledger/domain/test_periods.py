# SPDX-License-Identifier: Apache-2.0
"""Monthly periods: calendar months from any first day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.domain.periods import number_at, start_of

FIRSTS = st.datetimes(timezones=st.just(UTC)).filter(lambda time: 2000 <= time.year < 2050)


@pytest.mark.requirement("L2")
class TestPeriods:
    @pytest.mark.parametrize(
        ("number", "begin"),
        [(0, (2027, 10, 31)), (1, (2027, 11, 30)), (4, (2028, 2, 29)), (5, (2028, 3, 31))],
    )
    def test_a_short_month_begins_on_its_last_day_and_the_next_on_the_first_ones(
        self, number: int, begin: tuple[int, int, int]
    ) -> None:
        first = datetime(2027, 10, 31, 7, tzinfo=UTC)
        assert start_of(first, number) == datetime(*begin, 7, tzinfo=UTC)

    @given(FIRSTS, st.integers(0, 600))
    def test_each_begins_where_the_one_before_ends(self, first: datetime, number: int) -> None:
        begin = start_of(first, number)
        assert number_at(first, begin) == number
        assert number_at(first, begin - timedelta(microseconds=1)) == number - 1
        assert start_of(first, number + 1) - begin <= timedelta(days=31)
