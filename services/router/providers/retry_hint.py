# SPDX-License-Identifier: Apache-2.0
"""
How long a provider asks to wait, read from every form in which providers say it.

Pure: the current time is an argument. Headers win over the body, an explicit wait over a
window's reset. Text is only searched for a number; it is never kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["RETRY_HINT_SECONDS_MAX", "duration_seconds", "retry_after_seconds", "until"]

RETRY_HINT_SECONDS_MAX = 31 * 24 * 3600.0
"""Longer hints (a monthly budget's reset) are cut here, so that a nonsense value does no harm."""

_MILLISECOND_HEADERS = ("retry-after-ms", "x-ms-retry-after-ms")
"""https://learn.microsoft.com/en-us/azure/foundry/openai/how-to/quota and the official SDKs."""

_WINDOW_HEADERS = (
    # https://developers.openai.com/docs/guides/rate-limits
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    # https://platform.claude.com/docs/en/api/rate-limits
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
    # https://github.com/vercel/chatbot/issues/588 : Azure's token limits come so.
    ("x-rate-limit-remaining-tokens", "x-rate-limit-reset-tokens"),
    # https://openrouter.ai/docs/use-cases/limits
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
)
"""Pairs of what is left in a window and when the window resets."""

_DURATION_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+")
_DURATION_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_TEXT = re.compile(
    r"(?:try again|retry|resets) (?:in|after) ~?"
    r"(?:(?P<duration>(?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+)\b"
    r"|(?P<number>\d+(?:\.\d+)?) ?(?P<unit>milliseconds?|seconds?|minutes?|hours?|days?)?\b)",
    re.IGNORECASE,
)
"""`Please try again in 174ms` (OpenAI), `Please retry in 48.9s` (Gemini), `retry after 86400
seconds` (Azure), `resets in ~5s` (Replicate)."""
_WORD_UNITS = {"mil": "ms", "sec": "s", "min": "m", "hou": "h", "day": "d"}

_EPOCH_SECONDS_MIN = 1_000_000_000
_EPOCH_MILLISECONDS_MIN = 1_000_000_000_000


def retry_after_seconds(
    headers: Mapping[str, str], *, now: datetime, text: str = "", delay: str = "", reset: str = ""
) -> float | None:
    """
    Give the wait in seconds, 0 or more, or None where there is no hint.

    Args:
        headers: The answer's headers, names in lower case.
        now: An aware time, when the answer arrived.
        text: The error's message.
        delay: A duration from the body, such as Gemini's `retryDelay`.
        reset: A point in time from the body, such as OpenRouter's `resets_at`.
    """
    hints = [_scaled(_number(headers.get(name, "")), 0.001) for name in _MILLISECOND_HEADERS]
    hints.append(_retry_after(headers.get("retry-after", ""), now))
    # Azure has been seen to send `retry-after: 1` with `retry-after-ms: 0`: the longer holds.
    stated = [hint for hint in hints if hint is not None]
    if stated:
        return _bounded(max(stated))
    for hint in (
        duration_seconds(delay),
        _from_text(text),
        _exhausted_window(headers, now),
        until(reset, now),
    ):
        if hint is not None:
            return _bounded(hint)
    return None


def duration_seconds(text: str) -> float | None:
    """
    Read a duration such as `34.4s`, `6ms`, `1m2s`; None where it is none.
    """
    if not _DURATION.fullmatch(text):
        return None
    return sum(
        float(number) * _DURATION_UNIT_SECONDS[unit]
        for number, unit in _DURATION_PIECE.findall(text)
    )


def until(text: str, now: datetime) -> float | None:
    """
    Read a point in time (RFC 3339, or seconds or milliseconds since 1970) as a wait from `now`.
    """
    number = _number(text)
    if number is not None and number >= _EPOCH_SECONDS_MIN:
        seconds = number / 1000 if number >= _EPOCH_MILLISECONDS_MIN else number
        return seconds - now.timestamp()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - now).total_seconds()


def _retry_after(text: str, now: datetime) -> float | None:
    """
    Read `retry-after`: seconds or an HTTP date, RFC 9110 section 10.2.3.
    """
    number = _number(text)
    if number is not None or not text:
        return number
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - now).total_seconds()


def _exhausted_window(headers: Mapping[str, str], now: datetime) -> float | None:
    """
    Give the longest reset among the windows of which nothing is left.
    """
    waits = []
    for remaining_name, reset_name in _WINDOW_HEADERS:
        reset = headers.get(reset_name, "")
        if not reset or (_number(headers.get(remaining_name, "0")) or 0) > 0:
            continue
        wait = duration_seconds(reset)
        if wait is None:
            wait = until(reset, now)
        if wait is None:
            wait = _number(reset)
        if wait is not None:
            waits.append(wait)
    return max(waits, default=None)


def _from_text(text: str) -> float | None:
    found = _TEXT.search(text)
    if found is None:
        return None
    if found["duration"]:
        return duration_seconds(found["duration"].lower())
    unit = _WORD_UNITS[(found["unit"] or "seconds")[:3].lower()]
    return float(found["number"]) * _DURATION_UNIT_SECONDS[unit]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _scaled(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), RETRY_HINT_SECONDS_MAX)
