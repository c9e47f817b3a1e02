# SPDX-License-Identifier: Apache-2.0
"""
Wrapping every stored data key by the current version of the key-encryption key (K12).

Rules:
1. Records that are current are skipped; the plaintext of no data key is seen.
2. A wrapped key is exchanged only where the old one still stands, so the run is safe beside live
   writes and may be repeated or resumed. A record that was written or deleted by others meanwhile
   is neither done here nor failed: whoever wrote it did so by the current version.
3. A few batches are under way at once, so that neither the key-encryption key nor the database
   waits for the other; progress is told in the order of records, so that a run can be resumed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.names import PLATFORM
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import (
    AccountChange,
    KeyEncryption,
    KeyStore,
    RecordName,
    RecordStore,
    WrappedRecord,
)
from services.keyvault.usecases.runs import Pace, RunProgress
from services.keyvault.usecases.service_keys import ServiceKeys
from services.shared.clock import Clock

BATCH_MAX = 250
BATCHES_IN_FLIGHT_MAX = 6


@dataclass(frozen=True, slots=True)
class _Done:
    records: int
    exchanged: int
    failed: int
    last: RecordName


class RewrapKeys:
    """
    Rewraps all records.

    Args:
        kek: The key-encryption key.
        store: Where the audit trail is.
        records: Where records are.
        service_keys: Keyvault's own keys.
        clock: Time.
    """

    def __init__(
        self,
        *,
        kek: KeyEncryption,
        store: KeyStore,
        records: RecordStore,
        service_keys: ServiceKeys,
        clock: Clock,
    ) -> None:
        self._kek = kek
        self._store = store
        self._records = records
        self._service_keys = service_keys
        self._clock = clock

    async def __call__(
        self, caller: Caller, *, after: RecordName | None, records_per_second_max: int
    ) -> AsyncIterator[RunProgress]:
        """
        Rewrap, telling how far it came.

        Args:
            caller: Who asks.
            after: Where an earlier run ended; None to begin at the first record.
            records_per_second_max: How fast to go.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        state, counts = await asyncio.gather(self._kek.status(), self._records.count())
        current = state.current_version
        audited = self._audit(caller, version=current, resumed=after is not None)
        remaining = sum(
            count
            for (name, version), count in counts.items()
            if name == self._kek.name and version < current
        )
        pace = Pace(self._clock, records_per_second_max=records_per_second_max)
        done = failed = 0
        # Both are over before the first batches are, and stand in nobody's way.
        beside = asyncio.gather(self._service_keys.rewrap(below=current), audited)
        try:
            async for batch in self._batches(after, current=current):
                after = batch.last
                done, failed = done + batch.exchanged, failed + batch.failed
                remaining = max(0, remaining - batch.records)
                yield RunProgress(done, remaining, failed, after)
                await pace.keep(batch.records)
            (own_done, own_failed), _ = await beside
        finally:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
        yield RunProgress(done + own_done, 0, failed + own_failed, after)

    async def _batches(self, after: RecordName | None, *, current: int) -> AsyncIterator[_Done]:
        """Do batch after batch, a few at once; give each in the order of records."""
        under_way: deque[asyncio.Task[_Done]] = deque()
        more = True
        try:
            while more or under_way:
                if more and len(under_way) < BATCHES_IN_FLIGHT_MAX:
                    batch = await self._records.outdated(
                        self._kek.name, below=current, after=after, limit=BATCH_MAX
                    )
                    more = len(batch) == BATCH_MAX
                    if batch:
                        after = batch[-1].name
                        under_way.append(asyncio.create_task(self._rewrap(batch, current)))
                else:
                    yield await under_way[0]
                    _ = under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _rewrap(self, batch: list[WrappedRecord], current: int) -> _Done:
        rewrapped = await self._kek.rewrap_many([(item.data_key, item.context()) for item in batch])
        wrapped = [
            (item, data_key)
            for item, data_key in zip(batch, rewrapped, strict=True)
            # A version below the current one would leave the record outdated.
            if data_key is not None and data_key.kek_version >= current
        ]
        exchanged = await self._records.exchange_data_keys(wrapped)
        return _Done(len(batch), exchanged, len(batch) - len(wrapped), batch[-1].name)

    async def _audit(self, caller: Caller, *, version: int, resumed: bool) -> None:
        entry = AuditEntry(
            account=PLATFORM,
            actor=caller.identity,
            action=AuditAction.REWRAP,
            details={
                "kek": self._kek.name,
                "version": str(version),
                "resumed": str(resumed).lower(),
            },
        )

        async def work(change: AccountChange) -> None:
            await change.add_audit(entry)

        await self._store.change(PLATFORM, work)
