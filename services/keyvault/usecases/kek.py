# SPDX-License-Identifier: Apache-2.0
"""Looking after the key-encryption key: rotation, rewrapping, retirement (K12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
    RecordName,
    RecordStore,
)
from services.keyvault.usecases.service_keys import ServiceKeys
from services.shared.clock import Clock
from services.shared.errors import InvalidArgumentError

REWRAP_BATCH_MAX = 500


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


@dataclass(frozen=True, slots=True)
class RunProgress:
    """
    How far a run has come.

    Args:
        done: Records done in this run.
        remaining: Records left, counted when it began, less those dealt with since.
        failed: Records that could not be done or were changed by others meanwhile.
        last: The last record dealt with; None if there was none.
    """

    done: int
    remaining: int
    failed: int
    last: RecordName | None


class KekOperations:
    """
    Looks after the key-encryption key.

    Args:
        kek: The key-encryption key.
        store: Where requests are recorded.
        records: Where records are.
        service_keys: Keyvault's own keys.
        fingerprinter: Recognises repeated requests.
        clock: Time.
    """

    def __init__(
        self,
        *,
        kek: KeyEncryption,
        store: KeyStore,
        records: RecordStore,
        service_keys: ServiceKeys,
        fingerprinter: Fingerprinter,
        clock: Clock,
    ) -> None:
        self._kek = kek
        self._store = store
        self._records = records
        self._service_keys = service_keys
        self._fingerprinter = fingerprinter
        self._clock = clock

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

    async def rewrap(
        self, *, after: RecordName | None, records_per_second_max: int
    ) -> AsyncIterator[RunProgress]:
        """
        Wrap every stored data key by the current version, telling how far it came.

        Records that are current are skipped; one that others change meanwhile is left to them, so
        the run is safe beside live writes and may be repeated or resumed.

        Args:
            after: Where an earlier run ended; None to begin at the first record.
            records_per_second_max: How fast to go.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        current = (await self._kek.status()).current_version
        remaining = sum(count for version, count in await self._counts() if version < current)
        done, failed = await self._service_keys.rewrap(below=current)
        remaining = max(0, remaining - done - failed)
        while True:
            batch = await self._records.outdated(
                self._kek.name, below=current, after=after, limit=REWRAP_BATCH_MAX
            )
            if not batch:
                break
            rewrapped = await self._kek.rewrap_many(
                [
                    (item.record.data_key, item.binding.context(item.record.format_version))
                    for item in batch
                ]
            )
            exchanged = await self._records.exchange_data_keys(
                [
                    (item, data_key)
                    for item, data_key in zip(batch, rewrapped, strict=True)
                    # A version below the current one would leave the record outdated.
                    if data_key is not None and data_key.kek_version >= current
                ]
            )
            last = batch[-1].binding
            after = RecordName(last.account, last.key_id, last.version)
            done, failed = done + exchanged, failed + len(batch) - exchanged
            remaining = max(0, remaining - len(batch))
            yield RunProgress(done, remaining, failed, after)
            await self._clock.sleep(len(batch) / records_per_second_max)
        yield RunProgress(done, 0, failed, after)

    async def _counts(self) -> tuple[tuple[int, int], ...]:
        counts = await self._records.count()
        own = [(version, n) for (name, version), n in counts.items() if name == self._kek.name]
        return tuple(sorted(own))
