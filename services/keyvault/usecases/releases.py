# SPDX-License-Identifier: Apache-2.0
"""
Durable records of releases, in batches.

A release is in the audit trail, committed, before the secret leaves. Calls that come while a batch
is being written go into the next, which begins a moment after the last one did: one call alone
waits for nobody, a burst costs few commits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from services.keyvault.domain.audit import AuditEntry
from services.keyvault.usecases.background import Interval, start_detached
from services.keyvault.usecases.ports import AuditLog
from services.shared.errors import OverloadedError

# Entries after which a batch takes no further call.
BATCH_MAX = 1_000
QUEUE_MAX = 10_000
OVERLOADED_RETRY_SECONDS = 0.5
# Between the beginnings of two batches, at least.
INTERVAL_SECONDS = 0.004


class Releases:
    """
    Writes releases to the audit trail.

    Args:
        audit: The audit trail.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._interval = Interval(INTERVAL_SECONDS)
        self._queue: deque[tuple[Sequence[AuditEntry], asyncio.Future[None]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """
        Return when the entries are durable.

        Raises:
            StoreUnavailableError: If they could not be written; nothing may be released then.
            OverloadedError: If too many wait already.
        """
        if not entries:
            return
        if len(self._queue) >= QUEUE_MAX:
            message = f"{QUEUE_MAX} releases wait to be recorded already; try again shortly"
            raise OverloadedError(message, retry_after_seconds=OVERLOADED_RETRY_SECONDS)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((entries, done))
        if self._writer is None or self._writer.done():
            self._writer = start_detached(self._write())
        await done

    async def close(self) -> None:
        """Await what is being written."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        while self._queue:
            await self._interval.wait()
            batch: list[AuditEntry] = []
            waiting: list[asyncio.Future[None]] = []
            while self._queue and len(batch) < BATCH_MAX:
                entries, done = self._queue.popleft()
                # Whoever went away gets no secret, so there is no release to record.
                if not done.done():
                    batch.extend(entries)
                    waiting.append(done)
            if not batch:
                continue
            fault: Exception | None = None
            try:
                await self._audit.add(batch)
            except Exception as caught:  # noqa: BLE001 - a task's root: those who wait raise it
                fault = caught
            for done in waiting:
                if done.done():
                    continue
                if fault is None:
                    done.set_result(None)
                else:
                    done.set_exception(fault)
