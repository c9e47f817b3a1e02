# SPDX-License-Identifier: Apache-2.0
"""
Bounds the bytes of media that one process holds at a time.

Whoever holds some waits until all of it is free, in the order of asking; so nobody waits while
holding a part, and nobody is overtaken for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.shared.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RETRY_SECONDS = 1.0


class ByteBudget:
    """
    So many bytes.

    Args:
        bytes_max: How many.
    """

    def __init__(self, bytes_max: int) -> None:
        self._max = bytes_max
        self._free = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """
        Hold bytes, after a wait if need be; more than there are is as good as all.
        """
        size = min(size, self._max)
        await self._take(size)
        try:
            yield
        finally:
            self._give(size)

    @asynccontextmanager
    async def hold_now(self, size: int) -> AsyncIterator[None]:
        """
        Hold bytes that are here already.

        Raises:
            OverloadedError: There are not so many left.
        """
        if size > self._free or self._waiting:
            raise OverloadedError(
                "too many bytes of media are in flight already; try again shortly",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._free -= size
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(size)
            else:
                self._waiting = deque(one for one in self._waiting if one[1] is not turn)
                self._wake()
            raise

    def _give(self, size: int) -> None:
        self._free += size
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
