# SPDX-License-Identifier: Apache-2.0
"""
The change feed, read for all routers at once.

Rules:
1. A question is answered by a read of the primary that *began* after the question came. Questions
   that come while a read runs share the next one.
2. What was read is kept as a short tail, from which each router's answer is cut.
3. Another lineage, a position ahead of the head, or one older than the tail means: forget all.
4. Once a stop is asked for, every router's stream ends: it asks another replica within its lease.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from services.keyvault.usecases.background import start_detached
from services.keyvault.usecases.ports import FeedPosition, KeyStore

TAIL_MAX = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Changes:
    """
    An answer.

    Args:
        position: Where the feed stood.
        accounts: Changed since the cursor, each once, in order.
        resync: True: everything held must be forgotten.
    """

    position: FeedPosition
    accounts: tuple[str, ...] = ()
    resync: bool = False


class ChangeFeed:
    """
    Reads the feed.

    Args:
        store: Where it is.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._position: FeedPosition | None = None
        self._floor = 0
        self._tail: deque[tuple[int, str]] = deque()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def question(self, questions: AsyncIterator[T]) -> T | None:
        """
        Return a stream's next question; None once it has no more, or the stream is to end.

        Args:
            questions: The stream's.
        """
        if self._closed:
            return None
        asked = asyncio.ensure_future(anext(questions, None))
        self._waiting.add(asked)
        try:
            await asyncio.wait([asked])
        finally:
            self._waiting.discard(asked)
            asked.cancel()
        return None if asked.cancelled() else asked.result()

    async def changes_since(self, cursor: FeedPosition | None) -> Changes:
        """
        Return every change up to a read begun after this call.

        Args:
            cursor: Where the caller stands; None for the present.

        Raises:
            StoreUnavailableError: If the primary cannot be read.
        """
        if self._next is None:
            self._next = start_detached(self._read_after(self._running))
        # Shared: one router that goes away must not end the others' read.
        await asyncio.shield(self._next)
        return self._cut(cursor)

    async def close(self) -> None:
        """End every stream, and await the reads under way."""
        self._closed = True
        for asked in self._waiting:
            asked.cancel()
        reads = [task for task in (self._running, self._next) if task is not None]
        await asyncio.gather(*reads, return_exceptions=True)

    async def _read_after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait([running])
        # Questions that come from here on came after this read began.
        self._running, self._next = self._next, None
        known = self._position
        page = await self._store.read_feed(known.sequence if known else 0, TAIL_MAX)
        same = known is not None and known.lineage == page.position.lineage
        if not same or (known is not None and known.sequence > page.position.sequence):
            # Numbers of another lineage mean nothing here; what follows is this one's.
            self._tail.clear()
            self._floor = page.position.sequence if known is not None else page.floor
            if known is None:
                self._tail.extend(page.changes)
        else:
            if page.floor > (known.sequence if known else 0):
                self._tail.clear()
                self._floor = page.floor
            self._tail.extend(page.changes)
        while len(self._tail) > TAIL_MAX:
            self._floor = self._tail.popleft()[0]
        self._position = page.position

    def _cut(self, cursor: FeedPosition | None) -> Changes:
        position = self._position
        if position is None:
            message = "the feed was cut before it was read"
            raise RuntimeError(message)
        if cursor is None:
            return Changes(position)
        if cursor.lineage != position.lineage or not (
            self._floor <= cursor.sequence <= position.sequence
        ):
            return Changes(position, resync=True)
        changed: dict[str, None] = {}
        for sequence, account in reversed(self._tail):
            if sequence <= cursor.sequence:
                break
            changed[account] = None
        return Changes(position, accounts=tuple(changed))
