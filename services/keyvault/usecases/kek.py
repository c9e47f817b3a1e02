# SPDX-License-Identifier: Apache-2.0
"""Where the key-encryption key stands (K12)."""

from __future__ import annotations

from dataclasses import dataclass

from services.keyvault.errors import KekUnavailableError
from services.keyvault.usecases.ports import KekState, KeyEncryption, KeyStore


@dataclass(frozen=True, slots=True)
class KekReport:
    """
    Where the key-encryption key stands.

    Args:
        name: Its name.
        state: Its versions; None if it cannot be used now.
        reason: Why not, as a sentence; "" if it can.
        records: Version and number of records wrapped by it, ascending.
    """

    name: str
    state: KekState | None
    reason: str
    records: tuple[tuple[int, int], ...]


class KekOperations:
    """
    Looks after the key-encryption key.

    Args:
        kek: The key-encryption key.
        store: Where records are.
    """

    def __init__(self, *, kek: KeyEncryption, store: KeyStore) -> None:
        self._kek = kek
        self._store = store

    async def status(self) -> KekReport:
        """Return where it stands; a key-encryption key that is away is part of the answer."""
        counts = await self._store.count_records()
        records = tuple(
            sorted(
                (version, count)
                for (name, version), count in counts.items()
                if name == self._kek.name
            )
        )
        try:
            state, reason = await self._kek.status(), ""
        except KekUnavailableError as fault:
            state, reason = None, fault.sentence
        return KekReport(self._kek.name, state, reason, records)
