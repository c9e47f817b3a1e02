# SPDX-License-Identifier: Apache-2.0
"""Looking after the key-encryption key: rotation and retirement (K12)."""

from __future__ import annotations

from dataclasses import dataclass

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.names import PLATFORM
from services.keyvault.errors import KekUnavailableError
from services.keyvault.usecases.idempotency import Caller, Fingerprinter
from services.keyvault.usecases.ports import (
    AccountChange,
    KekState,
    KeyEncryption,
    KeyStore,
    RecordStore,
)
from services.shared.errors import InvalidArgumentError


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
        store: Where requests are recorded.
        records: Where records are.
        fingerprinter: Recognises repeated requests.
    """

    def __init__(
        self,
        *,
        kek: KeyEncryption,
        store: KeyStore,
        records: RecordStore,
        fingerprinter: Fingerprinter,
    ) -> None:
        self._kek = kek
        self._store = store
        self._records = records
        self._fingerprinter = fingerprinter

    async def status(self) -> KekReport:
        """Return where it stands; a key-encryption key that is away is part of the answer."""
        records = await self._counts()
        try:
            return KekReport(self._kek.name, await self._kek.status(), "", records)
        except KekUnavailableError as fault:
            return KekReport(self._kek.name, None, fault.sentence, records)

    async def rotate(self, caller: Caller) -> KekReport:
        """
        Make a new version, which wraps new data keys from now on.

        Raises:
            ServiceError: As RotateKek of the contract says.
        """
        once = self._fingerprinter.once(caller, "RotateKek", KekState)
        if await once.recorded_before(self._store, PLATFORM) is None:
            # If this process ends before it is recorded, a repeat makes one version more: harmless.
            state = await self._kek.rotate()

            async def work(change: AccountChange) -> KekState:
                entry = AuditEntry(
                    account=PLATFORM,
                    actor=caller.identity,
                    action=AuditAction.ROTATE_KEK,
                    request_id=caller.request_id,
                    details={"kek": self._kek.name, "version": str(state.current_version)},
                )
                await change.add_audit(entry)
                return await once.record(change, state)

            await self._store.change(PLATFORM, work)
        return await self.status()

    async def retire(self, caller: Caller, *, lowest: int) -> KekReport:
        """
        Retire the versions below one, if nothing is wrapped by them.

        Raises:
            ServiceError: As RetireKekVersions of the contract says.
        """
        once = self._fingerprinter.once(caller, "RetireKekVersions", KekState, lowest=lowest)
        if await once.recorded_before(self._store, PLATFORM) is None:
            current = (await self._kek.status()).current_version
            if not 1 <= lowest <= current:
                advice = f"must be from 1 to the current version, which is {current}"
                raise InvalidArgumentError.of("lowest_version", advice)
            # First the proof that also holds from now on, then what cannot be undone.
            await self._records.raise_floor(self._kek.name, lowest)
            state = await self._kek.retire(lowest)

            async def work(change: AccountChange) -> KekState:
                entry = AuditEntry(
                    account=PLATFORM,
                    actor=caller.identity,
                    action=AuditAction.RETIRE_KEK,
                    request_id=caller.request_id,
                    details={"kek": self._kek.name, "lowest_version": str(lowest)},
                )
                await change.add_audit(entry)
                return await once.record(change, state)

            await self._store.change(PLATFORM, work)
        return await self.status()

    async def _counts(self) -> tuple[tuple[int, int], ...]:
        counts = await self._records.count()
        own = [(version, n) for (name, version), n in counts.items() if name == self._kek.name]
        return tuple(sorted(own))
