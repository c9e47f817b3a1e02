# SPDX-License-Identifier: Apache-2.0
"""Retry hints in all their forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.providers.retry_hint import (
    RETRY_HINT_SECONDS_MAX,
    duration_seconds,
    retry_after_seconds,
)
from tests.support.provider_streams import NOW

pytestmark = pytest.mark.requirement("R10")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Tue, 01 Sep 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Tue, 01 Sep 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 01 Sep 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after-ms": "174"}, 0.174),
        ({"x-ms-retry-after-ms": "2500"}, 2.5),
        ({"retry-after": "1", "retry-after-ms": "0"}, 1.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "99999999999"}, RETRY_HINT_SECONDS_MAX),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}, 62.0),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "1m2s"}, None),
        ({"x-ratelimit-reset-tokens": "6ms"}, 0.006),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1788264010000"}, 10.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1788264010"}, 10.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "whenever"}, None),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-09-01T12:00:05Z",
            },
            5.0,
        ),
        ({}, None),
    ],
)
def test_headers_are_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_seconds(headers, now=NOW) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rate limit reached. Please try again in 174ms. Visit https://x", 0.174),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 1.5s", 1.5),
        ("Please retry in 48.939935699s.", 48.939935699),
        ("Please retry after 86400 seconds.", 86400.0),
        ("Try again in 2 minutes", 120.0),
        ("Your rate limit resets in ~5s.", 5.0),
        ("retry after 7", 7.0),
        ("try again later", None),
        ("", None),
    ],
)
def test_text_is_searched_for_a_wait(text: str, expected: float | None) -> None:
    assert retry_after_seconds({}, now=NOW, text=text) == pytest.approx(expected)


def test_a_body_s_delay_and_reset_count_after_the_headers() -> None:
    assert retry_after_seconds({}, now=NOW, delay="34.4s") == pytest.approx(34.4)
    assert retry_after_seconds({}, now=NOW, reset="2026-09-01T12:01:00+00:00") == 60.0
    assert retry_after_seconds({}, now=NOW, reset="2026-09-01T12:01:00") == 60.0
    assert retry_after_seconds({"retry-after": "2"}, now=NOW, delay="34s") == 2.0


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1s ", "-1s"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert duration_seconds(text) is None


@given(st.text(max_size=60), st.text(max_size=40), st.text(max_size=40))
def test_any_text_gives_a_bounded_wait_or_none(header: str, text: str, reset: str) -> None:
    headers = {"retry-after": header, "x-ratelimit-reset": reset, "retry-after-ms": text}
    wait = retry_after_seconds(headers, now=NOW, text=text, delay=header, reset=reset)
    assert wait is None or 0 <= wait <= RETRY_HINT_SECONDS_MAX
