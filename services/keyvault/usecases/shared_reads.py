# SPDX-License-Identifier: Apache-2.0
"""
Reads of accounts with their records, shared by the calls that come at the same time.

A call is answered by a read that *began* after it came. Calls that come while one runs go into the
next, which begins a moment after the last one did: one call alone waits for nobody, a burst costs
few reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from services.keyvault.usecases.background import Interval, start_detached
from services.keyvault.usecases.ports import AccountSnapshot, KeyStore, Snapshot
from services.shared.errors import OverloadedError

# Accounts after which a read takes no further call.
ACCOUNTS_MAX = 128
READS_AT_ONCE_MAX = 1
QUEUE_MAX = 10_000
OVERLOADED_RETRY_SECONDS = 0.5
# Between the beginnings of two reads, at least: what comes meanwhile shares the second.
INTERVAL_SECONDS = 0.004

_Waiting = tuple[Sequence[str], asyncio.Future[Snapshot]]


class SharedReads:
    """
    Reads accounts.

    Args:
        store: Where they are.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._interval = Interval(INTERVAL_SECONDS)
        self._queue: deque[_Waiting] = deque()
        self._readers: set[asyncio.Task[None]] = set()

    async def snapshot(self, accounts: Sequence[str]) -> Snapshot:
        """
        Read accounts with their records, all at one moment.

        Raises:
            StoreUnavailableError: If the database is away.
            OverloadedError: If too many wait already.
        """
        if len(self._queue) >= QUEUE_MAX:
            message = f"{QUEUE_MAX} reads of keys wait already; try again shortly"
            raise OverloadedError(message, retry_after_seconds=OVERLOADED_RETRY_SECONDS)
        result: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._queue.append((accounts, result))
        if len(self._readers) < READS_AT_ONCE_MAX:
            self._readers.add(start_detached(self._read()))
        return await result

    async def close(self) -> None:
        """Await what is being read."""
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while self._queue:
                await self._interval.wait()
                await self._read_once()
        finally:
            # In the same step as the last look at the queue: a reader that has ended but still
            # counted would keep what queues next from getting one.
            reader = asyncio.current_task()
            assert reader is not None, "readers are tasks"
            self._readers.discard(reader)

    async def _read_once(self) -> None:
        waiting: list[_Waiting] = []
        names: dict[str, None] = {}
        while self._queue and len(names) < ACCOUNTS_MAX:
            accounts, result = self._queue.popleft()
            if not result.done():
                waiting.append((accounts, result))
                names.update(dict.fromkeys(accounts))
        if not waiting:
            return
        try:
            read = await self._store.snapshot(list(names), secrets=True)
        except Exception as fault:  # noqa: BLE001 - a task's root: those who wait raise it
            for _, result in waiting:
                if not result.done():
                    result.set_exception(fault)
            return
        found: dict[str, AccountSnapshot] = dict(zip(names, read.accounts, strict=True))
        for accounts, result in waiting:
            if not result.done():
                result.set_result(Snapshot([found[name] for name in accounts], read.position))
