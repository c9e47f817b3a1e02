# SPDX-License-Identifier: Apache-2.0
"""Between the messages of `restoring.proto` and the use case."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from ownkey.keyvault.v1 import restoring_pb2

from services.keyvault.domain.names import KEY
from services.keyvault.domain.revocations import Page, RestoreState, Revocation, RevocationKind
from services.shared.errors import InvalidArgumentError

NAME_CHARACTERS_MAX = 100
REVOCATIONS_MAX = 1_000
NUMBER_MAX = 2**62
_PREFIX = "REVOCATION_KIND_"


def exported_so_far(request: Any) -> tuple[int, str]:
    """
    Read after which number, and of which database, an export goes on.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    after, database = request.after_sequence, request.database
    if not 0 <= after <= NUMBER_MAX:
        raise InvalidArgumentError.of("after_sequence", "must be 0 or the number of a page")
    if bool(after) != bool(database):
        advice = "must be that of the page which after_sequence is of, and empty without it"
        raise InvalidArgumentError.of("database", advice)
    return after, database


def page(request: Any) -> tuple[Page, bytes]:
    """
    Read a page and its signature.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    message = request.page
    if not message.mac or not message.HasField("read_time"):
        raise InvalidArgumentError.of("page", "must be a page as it was exported")
    if len(message.revocations) > REVOCATIONS_MAX:
        advice = f"must hold at most {REVOCATIONS_MAX} revocations"
        raise InvalidArgumentError.of("page.revocations", advice)
    if not 0 <= message.after_sequence <= message.through_sequence <= NUMBER_MAX:
        advice = "must be from 0 to through_sequence"
        raise InvalidArgumentError.of("page.after_sequence", advice)
    read = Page(
        database=message.database,
        after=message.after_sequence,
        through=message.through_sequence,
        read_time=message.read_time.ToDatetime(UTC),
        revocations=[
            _revocation(one, f"page.revocations[{number}]")
            for number, one in enumerate(message.revocations)
        ],
    )
    return read, message.mac


def accepted(request: Any) -> tuple[int | None, str]:
    """
    Read what is accepted, and by whom.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    name: str = request.accepted_by.strip()
    if len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        advice = f"must be at most {NAME_CHARACTERS_MAX} printable characters"
        raise InvalidArgumentError.of("accepted_by", advice)
    if request.HasField("replayed_through_sequence"):
        return request.replayed_through_sequence, name
    if not name:
        advice = "must be the name of the person who accepts, where nothing was replayed"
        raise InvalidArgumentError.of("accepted_by", advice)
    return None, name


def page_message(written: Page, mac: bytes) -> restoring_pb2.RevocationsPage:
    """Write a page."""
    message = restoring_pb2.RevocationsPage(
        database=written.database,
        after_sequence=written.after,
        through_sequence=written.through,
        mac=mac,
        revocations=[
            restoring_pb2.Revocation(
                key=KEY.format(account=one.account, key=one.key_id),
                kind=restoring_pb2.RevocationKind.Value(f"{_PREFIX}{one.kind}"),
                version=one.version,
                sequence=one.sequence,
            )
            for one in written.revocations
        ],
    )
    message.read_time.FromDatetime(written.read_time)
    return message


def status_message(state: RestoreState) -> restoring_pb2.RestoreStatus:
    """Write where a restore stands."""
    message = restoring_pb2.RestoreStatus(
        serving=state.serving,
        database=state.database,
        accepted_database=state.accepted_database,
        accepted_by=state.accepted_by,
        through_sequence=state.through,
        replayed=state.replayed,
    )
    message.accept_time.FromDatetime(state.accept_time)
    return message


def _revocation(message: Any, place: str) -> Revocation:
    ids = KEY.parse(message.key, f"{place}.key")
    if message.kind not in restoring_pb2.RevocationKind.values() or not message.kind:
        raise InvalidArgumentError.of(f"{place}.kind", "must be a kind as it was exported")
    if not (1 <= message.version <= NUMBER_MAX and 1 <= message.sequence <= NUMBER_MAX):
        raise InvalidArgumentError.of(f"{place}.version", "must be at least 1, as its sequence")
    kind = restoring_pb2.RevocationKind.Name(message.kind).removeprefix(_PREFIX)
    return Revocation(
        ids["account"], ids["key"], RevocationKind(kind), message.version, message.sequence
    )
