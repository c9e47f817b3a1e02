# SPDX-License-Identifier: Apache-2.0
"""Columns as they travel to PostgreSQL, and captures as they are written into a row."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from services.ledger.adapters.records import capture_json, capture_of
from services.ledger.adapters.statements import plain_array, text_array
from services.ledger.domain.requests import Capture, UsageBasis
from services.ledger.domain.usage import UsageUnits


@pytest.mark.requirement("L12")
class TestArrays:
    def test_numbers_times_and_what_is_missing(self) -> None:
        assert plain_array([1, None, -3]) == "{1,NULL,-3}"
        assert plain_array([date(2026, 11, 21), True]) == "{2026-11-21,True}"
        assert plain_array([datetime(2026, 11, 21, 9, 30, tzinfo=UTC)]) == (
            "{2026-11-21 09:30:00+00:00}"
        )
        assert plain_array([]) == "{}"

    @pytest.mark.parametrize(
        ("values", "written"),
        [
            (["a", "b"], '{"a","b"}'),
            (["null", "NULL", ""], '{"null","NULL",""}'),
            (['say "hi"', "b"], r'{"say \"hi\"","b"}'),
            (['","'], r'{"\",\""}'),
            (["back\\slash"], r'{"back\\slash"}'),
            (["{1,2}"], '{"{1,2}"}'),
        ],
    )
    def test_no_text_ends_its_element(self, values: list[str], written: str) -> None:
        assert text_array(values) == written


@pytest.mark.requirement("L12")
class TestCaptures:
    @pytest.mark.parametrize("cost", [None, 0, 1_234_567])
    @pytest.mark.parametrize("delivered", [True, False])
    def test_a_capture_reads_back_as_it_was_written(
        self, cost: int | None, *, delivered: bool
    ) -> None:
        units = UsageUnits(input_token_count=812, media_milliseconds=9)
        for capture in (
            Capture(cost, units, UsageBasis.EXACT, delivered),
            Capture(cost, UsageUnits(), UsageBasis.ESTIMATED, delivered),
        ):
            assert capture_of(capture_json(capture)) == capture

    def test_no_capture_is_written_as_none(self) -> None:
        assert capture_json(None) is None
        assert capture_of(None) is None
