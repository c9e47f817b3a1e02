# SPDX-License-Identifier: Apache-2.0
"""Between the messages of `sharing.proto` and the use case."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from google.protobuf import duration_pb2
from ownkey.keyvault.v1 import sharing_pb2

from services.keyvault.domain.names import ACCOUNT, KEY, PLATFORM
from services.keyvault.usecases.sharing import (
    OUTAGE_MAX,
    OUTAGES_FOUND_MAX,
    WISHES_MAX,
    Allotment,
    Outage,
    Wish,
)
from services.shared.errors import InvalidArgumentError

REQUESTS_PER_MINUTE_MAX = 1_000_000_000
WISHED_MAX = 1_000_000
PART_MAX = 1_000_000
PROVIDER_CHARACTERS_MAX = 63
HOST_CHARACTERS_MAX = 253
MODEL_CHARACTERS_MAX = 200


def shared_key(name: str, field: str) -> str:
    """
    Return the id of a shared key.

    Raises:
        InvalidArgumentError: It is no key of the account `platform`.
    """
    parsed = KEY.parse(name, field)
    if parsed["account"] != PLATFORM:
        raise InvalidArgumentError.of(field, f"must be a key of accounts/{PLATFORM}")
    return parsed["key"]


def limit(request: Any) -> int | None:
    """
    Read a limit; None for none.

    Raises:
        InvalidArgumentError: It is out of range.
    """
    if not request.HasField("requests_per_minute"):
        return None
    value: int = request.requests_per_minute
    if not 1 <= value <= REQUESTS_PER_MINUTE_MAX:
        advice = f"must be 1 to {REQUESTS_PER_MINUTE_MAX}, or unset for no limit"
        raise InvalidArgumentError.of("requests_per_minute", advice)
    return value


def wishes(request: Any) -> list[Wish]:
    """
    Read what a router asks for.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if not 1 <= len(request.wishes) <= WISHES_MAX:
        raise InvalidArgumentError.of("wishes", f"must hold 1 to {WISHES_MAX} wishes")
    read = []
    for number, wish in enumerate(request.wishes):
        if not 1 <= wish.request_count <= WISHED_MAX:
            field = f"wishes[{number}].request_count"
            raise InvalidArgumentError.of(field, f"must be 1 to {WISHED_MAX}")
        read.append(_wish(wish, f"wishes[{number}]"))
    if len({(wish.key_id, wish.customer) for wish in read}) != len(read):
        raise InvalidArgumentError.of("wishes", "must name each key and account once")
    return read


def _wish(wish: Any, place: str) -> Wish:
    key_id = shared_key(wish.key, f"{place}.key")
    if not wish.account:
        return Wish(key_id, wish.request_count)
    if not 1 <= wish.part_per_million <= PART_MAX:
        raise InvalidArgumentError.of(f"{place}.part_per_million", f"must be 1 to {PART_MAX}")
    customer = ACCOUNT.parse(wish.account, f"{place}.account")["account"]
    return Wish(key_id, wish.request_count, customer, wish.part_per_million)


def allotments_message(allotments: Sequence[Allotment]) -> sharing_pb2.LeaseAllotmentsResponse:
    """Write slices."""
    return sharing_pb2.LeaseAllotmentsResponse(
        allotments=[
            sharing_pb2.Allotment(
                key=KEY.format(account=PLATFORM, key=slice_.wish.key_id),
                unlimited=slice_.requests_per_minute is None,
                request_count=slice_.requests,
                requests_per_minute=slice_.requests_per_minute or 0,
                remaining_millis=slice_.remaining // timedelta(milliseconds=1),
                free_in_millis=slice_.free_in // timedelta(milliseconds=1),
            )
            for slice_ in allotments
        ]
    )


def outages(request: Any) -> list[Outage]:
    """
    Read outages.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if len(request.found) > OUTAGES_FOUND_MAX:
        raise InvalidArgumentError.of("found", f"must hold at most {OUTAGES_FOUND_MAX} outages")
    read = []
    for number, found in enumerate(request.found):
        for field, text, most in (
            ("provider", found.provider, PROVIDER_CHARACTERS_MAX),
            ("host", found.host, HOST_CHARACTERS_MAX),
            ("model", found.model, MODEL_CHARACTERS_MAX),
        ):
            if not 1 <= len(text) <= most:
                advice = f"must be 1 to {most} characters"
                raise InvalidArgumentError.of(f"found[{number}].{field}", advice)
        remaining = found.remaining.ToTimedelta()
        if not timedelta() < remaining <= OUTAGE_MAX:
            advice = f"must be more than zero and at most {OUTAGE_MAX.total_seconds():.0f} s"
            raise InvalidArgumentError.of(f"found[{number}].remaining", advice)
        read.append(Outage(found.provider, found.host, found.model, remaining))
    return read


def outages_message(found: Sequence[Outage]) -> sharing_pb2.ExchangeOutagesResponse:
    """Write outages."""
    response = sharing_pb2.ExchangeOutagesResponse()
    for outage in found:
        remaining = duration_pb2.Duration()
        remaining.FromTimedelta(outage.remaining)
        response.outages.add(
            provider=outage.provider, host=outage.host, model=outage.model, remaining=remaining
        )
    return response
