# SPDX-License-Identifier: Apache-2.0
"""
Revocations, and the signed pages in which they are kept apart from the database.

A page says of one database that it is whole from one number of the change feed to another, so that
pages which join leave nothing out. It is signed by an HMAC-SHA256 (RFC 2104) under a key of
keyvault's own, which is in the backup too, wrapped by the key-encryption key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.keyvault.errors import RestoreFault, RestoreRefusedError
from services.shared.fingerprint import canonical
from services.shared.secret import Secret

PAGE_MAX = 500
"""Revocations after which a page ends; those of one number are never parted."""

_PURPOSE = b"ownkey/keyvault/revocations"
_FORMAT_VERSION = b"1"


class RevocationKind(StrEnum):
    """What was done to a key."""

    DELETED = "DELETED"
    REPLACED = "REPLACED"
    DISABLED = "DISABLED"


@dataclass(frozen=True, slots=True)
class Revocation:
    """
    A revocation.

    Args:
        account: Account id.
        key_id: Key id.
        kind: What was done.
        version: The last version that it is about.
        sequence: Its number in the change feed.
    """

    account: str
    key_id: str
    kind: RevocationKind
    version: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Page:
    """
    The revocations between two numbers.

    Args:
        database: Which database they are of.
        after: The page begins after this number.
        through: It is whole up to this number.
        read_time: When it was read, on the database's clock.
        revocations: In the order of their numbers.
    """

    database: str
    after: int
    through: int
    read_time: datetime
    revocations: Sequence[Revocation]

    def mac(self, key: Secret) -> bytes:
        """Return its signature, 32 bytes."""
        parts = [
            _PURPOSE,
            _FORMAT_VERSION,
            self.database.encode(),
            str(self.after).encode(),
            str(self.through).encode(),
            self.read_time.isoformat().encode(),
        ]
        for one in self.revocations:
            number, version = str(one.sequence).encode(), str(one.version).encode()
            parts += [one.account.encode(), one.key_id.encode(), one.kind.encode(), version, number]
        return hmac.new(key.reveal_bytes(), canonical(parts), hashlib.sha256).digest()


@dataclass(frozen=True, slots=True)
class RestoreState:
    """
    Where a restore stands.

    Args:
        serving: Whether the database may serve.
        database: What it is now.
        accepted_database: What it was when it was accepted last.
        accept_time: When that was.
        accepted_by: By whom.
        through: Number of the last change known, or replayed.
        replayed: Whether a page that reaches past the backup was replayed.
    """

    serving: bool
    database: str
    accepted_database: str
    accept_time: datetime
    accepted_by: str
    through: int
    replayed: bool

    def check_page(self, page: Page, mac: bytes, key: Secret) -> None:
        """
        Refuse a page that must not be replayed here.

        Raises:
            RestoreRefusedError: Saying why.
        """
        if not hmac.compare_digest(mac, page.mac(key)):
            raise RestoreRefusedError(RestoreFault.NOT_GENUINE)
        if self.serving:
            raise RestoreRefusedError(RestoreFault.NOT_RESTORED)
        if page.database != self.accepted_database:
            raise RestoreRefusedError(RestoreFault.OTHER_DATABASE)
        if page.after > self.through:
            raise RestoreRefusedError(RestoreFault.PAGES_MISSING)

    def check_acceptance(self, replayed_through: int | None) -> None:
        """
        Refuse an acceptance after a replay that came to another number.

        Raises:
            RestoreRefusedError: It did.
        """
        if replayed_through is None:
            return
        if not self.replayed or replayed_through != self.through:
            raise RestoreRefusedError(RestoreFault.NOT_REPLAYED)
