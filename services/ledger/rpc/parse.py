# SPDX-License-Identifier: Apache-2.0
"""Read fields of requests into the ledger's words, refusing what is malformed, field by field."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.ledger.domain.money import CREDITS_MAX
from services.shared.errors import InvalidArgumentError
from services.shared.ids import parse_uuid
from services.shared.names import ACCOUNT, ID_PATTERN, ResourceName

PLAN = ResourceName("plans/{plan}")
KEY = ResourceName("accounts/{account}/keys/{key}")
AUTHORIZATION = ResourceName("accounts/{account}/authorizations/{authorization}")

TEXT_MAX = 200

_ACCOUNT = re.compile(rf"accounts/({ID_PATTERN})")
_KEY = re.compile(rf"accounts/({ID_PATTERN})/keys/{ID_PATTERN}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CLAIMANT = re.compile(r"[a-z0-9-]{16,64}")
_ATTEMPT = re.compile(
    r"r([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-([0-9]{1,9})-([0-9]{1,2})"
)

E = TypeVar("E", bound=StrEnum)


def account_id(text: str, field: str = "account") -> str:
    """Read the id out of `accounts/{account}`."""
    match = _ACCOUNT.fullmatch(text)
    # The same pattern; what does not follow it is told why.
    return match[1] if match is not None else ACCOUNT.parse(text, field)["account"]


def key_account(text: str, field: str) -> str:
    """Read the account's id out of `accounts/{account}/keys/{key}`."""
    match = _KEY.fullmatch(text)
    return match[1] if match is not None else KEY.parse(text, field)["account"]


def request_id(text: str, field: str = "request_id") -> str:
    """Read a caller's id: nearly all are in their canonical form already."""
    return text if _UUID.fullmatch(text) is not None else parse_uuid(text, field)


def word(words: type[E], enum: Any, number: int, field: str) -> E:
    """
    Read a required enum.

    Args:
        words: The domain's enum; its values are the proto's names without their prefix.
        enum: The proto's enum.
        number: What was sent.
        field: Path of the field.
    """
    found: E | None = by_number(words, enum).get(number)
    if found is None:
        raise InvalidArgumentError.of(field, f"must be one of {', '.join(words)}")
    return found


def optional_word(words: type[E], enum: Any, number: int, field: str) -> E | None:
    """Read an enum that may be unset; None then."""
    if number == 0:
        return None
    return word(words, enum, number, field)


@cache
def by_number(words: type[StrEnum], enum: Any) -> dict[int, Any]:
    """Return the domain's words by the proto's numbers."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    names = {enum.Name(number).removeprefix(prefix): number for number in enum.values()}
    return {names[word.value]: word for word in words if word.value in names}


def bounded(value: int, field: str, *, low: int, high: int) -> int:
    """Hold a number to its range, both ends allowed."""
    if not low <= value <= high:
        raise InvalidArgumentError.of(field, f"must be {low} to {high}")
    return value


def amount(value: int, field: str) -> int:
    """Hold an amount of nano-credits to 1 to CREDITS_MAX."""
    return bounded(value, field, low=1, high=CREDITS_MAX)


def text(value: str, field: str, *, low: int = 0, high: int = TEXT_MAX) -> str:
    """Hold a text to its length, in characters, without control characters."""
    if not low <= len(value) <= high or not value.isprintable():
        raise InvalidArgumentError.of(
            field, f"must be {low} to {high} characters, none of them control characters"
        )
    return value


def claimant(value: str) -> str:
    """Check a claimant."""
    if not _CLAIMANT.fullmatch(value):
        raise InvalidArgumentError.of(
            "claimant", "must be 16 to 64 of a-z, 0-9 and '-', random for each run"
        )
    return value


def attempt_id(value: str, field: str) -> tuple[str, int, int]:
    """Read request id, run and sequence out of an authorization's id."""
    match = _ATTEMPT.fullmatch(value)
    if match is None:
        raise InvalidArgumentError.of(
            field, "does not name an authorization; copy it from an answer of the ledger"
        )
    return match[1], int(match[2]), int(match[3])


def optional_time(message: Message, field: str) -> datetime | None:
    """Read a timestamp that may be unset; None then."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as fault:
        raise InvalidArgumentError.of(field, "must be a time from the year 1 to 9999") from fault


def time_range(message: Message) -> tuple[datetime | None, datetime | None]:
    """Read `start_time` and `end_time`, refusing a range that is reversed or empty."""
    start, end = optional_time(message, "start_time"), optional_time(message, "end_time")
    if start is not None and end is not None and start >= end:
        raise InvalidArgumentError.of("end_time", "must be later than start_time")
    return start, end


def optional_day(value: str, field: str) -> date | None:
    """Read a day, `2026-11-21`; None for an empty one."""
    if not value:
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError as fault:
        raise InvalidArgumentError.of(field, "must be a day such as 2026-11-21") from fault
