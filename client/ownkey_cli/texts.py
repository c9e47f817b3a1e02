# SPDX-License-Identifier: Apache-2.0
"""
Values as people read and write them: amounts, times, enum words, text of others.

Amounts are whole numbers of nano-credits or nano-USD and stay exact: no digit is rounded away.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

NANO_DIGITS = 9
NANO = 10**NANO_DIGITS
BRIEF_LENGTH_MAX = 12
NONE = "–"
"""Stands where there is no value."""
_KEPT_CONTROLS = {"\n", "\t"}
_LOOKS = {"Cc", "Cf", "Zl", "Zp"}
"""Unicode categories of characters that steer a terminal or turn text around."""
_KEPT_FORMATS = {"\u200c", "\u200d"}
"""Joiners, which scripts and emoji need."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def in_credits(nano_credits: int) -> str:
    """`1,234.5 credits`."""
    return f"{credits_number(nano_credits)} credit{'' if abs(nano_credits) == NANO else 's'}"


def credits_number(nano_credits: int) -> str:
    """`1,234.5`, where a heading says that these are credits."""
    return _decimal(nano_credits)


def in_usd(nano_usd: int, *, places_min: int = 2) -> str:
    """`$0.0000123`."""
    sign = "-" if nano_usd < 0 else ""
    return f"{sign}${_decimal(abs(nano_usd), places_min=places_min)}"


def usd_per_million(nano_usd_per_million_tokens: int) -> str:
    """`$0.15/M`: a price for a million tokens."""
    return f"{in_usd(nano_usd_per_million_tokens)}/M"


def in_percent(parts_per_million: int) -> str:
    """`5 %`, from parts per million."""
    return f"{(Decimal(parts_per_million) / 10_000).normalize():f} %"


def _decimal(nano: int, *, places_min: int = 0) -> str:
    whole, part = divmod(abs(nano), NANO)
    places = f"{part:0{NANO_DIGITS}d}".rstrip("0").ljust(places_min, "0")
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole:,}.{places}" if places else f"{sign}{whole:,}"


def parse_credits(text: str) -> int:
    """
    Nano-credits of a decimal number of credits such as `1,000` or `-0.5`.

    Raises:
        ValueError: It is no number, or has more than nine digits after the point.
    """
    return _parse_nano(text, "credits")


def parse_usd(text: str) -> int:
    """
    Nano-USD of a decimal number of US dollars such as `20` or `$0.50`.

    Raises:
        ValueError: It is no number, or has more than nine digits after the point.
    """
    return _parse_nano(text.removeprefix("$"), "US dollars")


def _parse_nano(text: str, unit: str) -> int:
    try:
        amount = Decimal(text.replace(",", "").replace("_", ""))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        message = f"must be a number of {unit}, for example 1000 or 0.25"
        raise ValueError(message)
    nano = amount.scaleb(NANO_DIGITS)
    if nano != nano.to_integral_value():
        message = f"has more than nine digits after the point; {unit} are counted in billionths"
        raise ValueError(message)
    return int(nano)


def parse_time(text: str) -> Timestamp:
    """
    A time such as `2026-11-21` (midnight, UTC) or `2026-11-21T07:30:00Z`; UTC if it names no zone.

    Raises:
        ValueError: It is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a time such as 2026-11-21 or 2026-11-21T07:30:00Z") from None
    stamp = Timestamp()
    stamp.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return stamp


def parse_day(text: str) -> str:
    """
    A UTC day such as `2026-11-21`.

    Raises:
        ValueError: It is none.
    """
    if not _DAY.fullmatch(text):
        raise ValueError("must be a day such as 2026-11-21")
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        raise ValueError("must be a day of the calendar, such as 2026-11-21") from None


def time_text(message: Any, name: str) -> str:
    """The message's time of that name, UTC to the second; NONE if it is unset."""
    if not message.HasField(name):
        return NONE
    moment: datetime = getattr(message, name).ToDatetime(tzinfo=UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def seconds_text(seconds: float) -> str:
    """`3 s`, `1.5 s`, `2 min 5 s`."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def word(enum: Any, value: int) -> str:
    """
    The word for an enum's value, as options spell it: `own-key-only` for
    BILLING_MODE_OWN_KEY_ONLY. NONE for the unspecified value, the number for one that a newer
    service sent.
    """
    found = enum.DESCRIPTOR.values_by_number.get(value)
    if value == 0:
        return NONE
    if found is None:
        return str(value)
    unspecified: str = enum.DESCRIPTOR.values_by_number[0].name
    name: str = found.name
    return name.removeprefix(unspecified.removesuffix("UNSPECIFIED")).lower().replace("_", "-")


def short(name: str) -> str:
    """The last id of a resource name; NONE for none."""
    return name.rpartition("/")[2] or NONE


def brief(name: str) -> str:
    """The last id of a resource name, a long one cut to its beginning."""
    last = short(name)
    return last if len(last) <= BRIEF_LENGTH_MAX else f"{last[: BRIEF_LENGTH_MAX - 1]}…"


def clean(text: str) -> str:
    """
    Text of others for a terminal: what would steer it or turn text around is shown as U+FFFD.

    A label or a model's answer may hold escape sequences.
    """
    return "".join(
        "\ufffd"
        if unicodedata.category(letter) in _LOOKS
        and letter not in _KEPT_CONTROLS
        and letter not in _KEPT_FORMATS
        else letter
        for letter in text
    )
