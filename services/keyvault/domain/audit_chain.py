# SPDX-License-Identifier: Apache-2.0
"""
Chains of the audit trail, one for each account.

Theory of operation. A link is the HMAC-SHA256 (RFC 2104), under a key that the database never
shows, of an entry's canonical bytes, its place in the account's chain and the link before it. The
chain's end is signed apart, as its *head*: a cut tail leaves a head that the chain does not reach.
A head that was kept elsewhere, in the log or by an operator, also shows a head that was put back.

An entry is chained shortly after it was written; until then it is protected by nothing but the
table's trigger, and what waits is counted.
"""

from __future__ import annotations

import functools
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.shared.fingerprint import canonical
from services.shared.secret import Secret

FORMAT_VERSION = 1
MAC_BYTES = 32
DETAILS_KEPT = 256
GENESIS = bytes(MAC_BYTES)
"""What the first entry of a chain follows."""

_EVENT_PURPOSE = b"ownkey/keyvault/audit-event"
_HEAD_PURPOSE = b"ownkey/keyvault/audit-head"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HEAD_TEXT = re.compile(r"([1-9][0-9]{0,17})\.([1-9][0-9]{0,17})\.([0-9a-f]{64})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class WrittenEvent:
    """
    An entry exactly as it stands in the database, whatever that is.

    Args:
        account: Account id.
        number: Its number over all accounts.
        event_time: When, on the database's clock.
        actor: Identity of the caller.
        action: What was done, as text.
        key_id: The key.
        version: The key's version.
        request_id: The caller's id.
        details: JSON text.
    """

    account: str
    number: int
    event_time: datetime
    actor: str
    action: str
    key_id: str
    version: int
    request_id: str
    details: str

    def parts(self) -> list[bytes]:
        """Return every field's canonical bytes."""
        return [
            self.account.encode(),
            str(self.number).encode(),
            str((self.event_time - _EPOCH) // _MICROSECOND).encode(),
            self.actor.encode(),
            self.action.encode(),
            self.key_id.encode(),
            str(self.version).encode(),
            self.request_id.encode(),
            _canonical_json(self.details),
        ]


@dataclass(frozen=True, slots=True)
class Link:
    """
    An entry's place in its account's chain.

    Args:
        sequence: The place, from 1.
        previous: MAC of the entry before it; `GENESIS` for the first.
        mac: Its own MAC.
    """

    sequence: int
    previous: bytes
    mac: bytes


@dataclass(frozen=True, slots=True)
class ChainedEvent:
    """
    An entry with its stored link.

    Args:
        event: The entry.
        link: The link.
    """

    event: WrittenEvent
    link: Link


@dataclass(frozen=True, slots=True)
class Head:
    """
    The signed end of a chain.

    Args:
        account: Account id.
        sequence: Place of the last entry.
        number: The last entry's number.
        mac: The last entry's MAC.
        signature: Over the others.
    """

    account: str
    sequence: int
    number: int
    mac: bytes
    signature: bytes

    def __str__(self) -> str:
        """Return what is kept elsewhere to compare with later; `parse_head` reads it."""
        return f"{self.sequence}.{self.number}.{self.mac.hex()}.{self.signature.hex()}"

    def is_genuine(self, key: Secret) -> bool:
        """Tell whether it was signed with the key."""
        expected = _head_signature(key, self.account, self.sequence, self.number, self.mac)
        return hmac.compare_digest(self.signature, expected)


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """
    How an account's chain ends by what is stored.

    Args:
        head: The signed head; None if there is none.
        last: The last chained entry's link; None if there is none.
    """

    head: Head | None
    last: Link | None

    def fits(self, key: Secret) -> bool:
        """Tell whether head and last entry agree, so that the chain may be continued."""
        if self.head is None or self.last is None:
            return self.head is None and self.last is None
        return (
            self.head.is_genuine(key)
            and self.head.sequence == self.last.sequence
            and hmac.compare_digest(self.head.mac, self.last.mac)
        )


# Releases, which are most of what there is, say the same few things.
@functools.lru_cache(maxsize=DETAILS_KEPT)
def _canonical_json(text: str) -> bytes:
    return json.dumps(
        json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def parse_head(account: str, text: str) -> Head | None:
    """Read a head that was kept elsewhere; None if the text is none."""
    match = _HEAD_TEXT.fullmatch(text)
    if match is None:
        return None
    sequence, number, mac, signature = match.groups()
    return Head(account, int(sequence), int(number), bytes.fromhex(mac), bytes.fromhex(signature))


def link_event(key: Secret, event: WrittenEvent, *, sequence: int, previous: bytes) -> Link:
    """Return an entry's link at a place, after the entry with the MAC `previous`."""
    parts = [
        _EVENT_PURPOSE,
        str(FORMAT_VERSION).encode(),
        str(sequence).encode(),
        previous,
        *event.parts(),
    ]
    return Link(sequence, previous, _mac(key, parts))


def extend_chain(
    key: Secret, head: Head | None, events: Sequence[WrittenEvent]
) -> tuple[list[Link], Head]:
    """
    Continue an account's chain.

    Args:
        key: The audit key.
        head: The chain's end; None for an account's first entries.
        events: At least one entry, in order.

    Returns:
        A link for each entry, and the new head.
    """
    sequence, previous = (head.sequence, head.mac) if head else (0, GENESIS)
    links = []
    for event in events:
        link = link_event(key, event, sequence=sequence + 1, previous=previous)
        links.append(link)
        sequence, previous = link.sequence, link.mac
    last = events[-1]
    signature = _head_signature(key, last.account, sequence, last.number, previous)
    return links, Head(last.account, sequence, last.number, previous, signature)


@dataclass(frozen=True, slots=True)
class ChainFault:
    """
    The first thing that does not fit.

    Args:
        number: Number of the entry it is about.
        detail: What is wrong, as a sentence for people.
    """

    number: int
    detail: str


class ChainCheck:
    """
    Checks one account's chain, entry by entry.

    Args:
        key: The audit key.
        known: A genuine head that was kept elsewhere, which the chain must still hold.
    """

    def __init__(self, key: Secret, *, known: Head | None) -> None:
        self._key = key
        self._known = known
        self._previous = GENESIS
        self._last_number = 0
        self.checked = 0
        self.fault: ChainFault | None = None

    def add(self, events: Sequence[ChainedEvent]) -> None:
        """Check the next entries in the chain's order; nothing more after the first fault."""
        for item in events:
            if self.fault is None:
                self.fault = self._check(item)

    def finish(self, head: Head | None) -> None:
        """Check the end of the chain against its signed head."""
        if self.fault is None:
            self.fault = self._check_known() or self._check_head(head)

    def _check(self, item: ChainedEvent) -> ChainFault | None:
        number, link = item.event.number, item.link
        expected = self.checked + 1
        if link.sequence != expected:
            detail = (
                f"what stood before it was removed: places {expected} to {link.sequence - 1} of "
                "the chain are gone"
            )
            return ChainFault(number, detail)
        if not hmac.compare_digest(link.previous, self._previous):
            detail = f"it does not follow the entry at place {expected - 1}: entries were moved"
            return ChainFault(number, detail)
        genuine = link_event(self._key, item.event, sequence=expected, previous=self._previous)
        if not hmac.compare_digest(link.mac, genuine.mac):
            return ChainFault(number, f"it was changed after it was written (place {expected})")
        self.checked, self._previous, self._last_number = expected, link.mac, number
        known = self._known
        if known and known.sequence == expected and not hmac.compare_digest(known.mac, link.mac):
            return ChainFault(number, "it is not the entry that the known head was signed over")
        return None

    def _check_known(self) -> ChainFault | None:
        known = self._known
        if known is None or known.sequence <= self.checked:
            return None
        return self._cut_off(known, "the known head")

    def _check_head(self, head: Head | None) -> ChainFault | None:
        if head is None:
            gone = ChainFault(self._last_number, "the signed head after it was removed")
            return gone if self.checked else None
        if not head.is_genuine(self._key):
            return ChainFault(head.number, "the signed head after it was changed")
        if head.sequence > self.checked:
            return self._cut_off(head, "its signed head")
        if head.sequence < self.checked or not hmac.compare_digest(head.mac, self._previous):
            detail = f"it is not the entry that the chain's signed head ends at ({head.number})"
            return ChainFault(self._last_number, detail)
        return None

    def _cut_off(self, head: Head, what: str) -> ChainFault:
        detail = (
            f"it was cut off: the chain ends at place {self.checked}, {what} is at place "
            f"{head.sequence}"
        )
        return ChainFault(head.number, detail)


def _head_signature(key: Secret, account: str, sequence: int, number: int, mac: bytes) -> bytes:
    parts = [
        _HEAD_PURPOSE,
        str(FORMAT_VERSION).encode(),
        account.encode(),
        str(sequence).encode(),
        str(number).encode(),
        mac,
    ]
    return _mac(key, parts)


def _mac(key: Secret, parts: Sequence[bytes]) -> bytes:
    return hmac.digest(key.reveal_bytes(), canonical(parts), "sha256")
