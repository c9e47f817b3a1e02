# SPDX-License-Identifier: Apache-2.0
"""
Coalesces calls into batches: takes what queued while the last batch ran, without waiting.

Bounded in queue, batch size and batches in flight. A batch goes out beside another only where that
is late or many items wait: two small ones cost whoever answers them nearly twice what one does. An
item whose caller has given up is dropped before it is sent; a batch that fails as a whole fails
each of its items.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from services.shared import tracing
from services.shared.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from services.shared.tracing import Trace

BATCH_ITEMS_MAX = 256
BATCHES_IN_FLIGHT_MAX = 2
BESIDE_ITEMS_MIN = 64
"""So many that wait go out beside a batch under way,"""
BESIDE_SECONDS = 0.02
"""and so do fewer once they have waited for so long: what was sent may be stuck at a replica."""
QUEUE_ITEMS_MAX = 8_192
OVERLOAD_RETRY_SECONDS = 0.5

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Item, Result]):
    """An item in the queue, where its result goes, and its place in a trace."""

    item: Item
    future: asyncio.Future[Result]
    trace: Trace | None


class Batcher(Generic[Item, Result]):
    """
    Sends items in batches.

    Args:
        send: Sends one batch; gives one result for each item, in order; raises for the whole batch.
    """

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._send = send
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._late: asyncio.TimerHandle | None = None
        """Set while something waits for a batch under way."""

    async def submit(self, item: Item) -> Result:
        """
        Send one item with whatever else is waiting.

        Raises:
            OverloadedError: The queue is full.
        """
        if len(self._queue) >= QUEUE_ITEMS_MAX:
            message = "too many calls wait for the ledger already; try again shortly"
            raise OverloadedError(message, retry_after_seconds=OVERLOAD_RETRY_SECONDS)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(item, future, tracing.current()))
        self._start()
        return await future

    def _start(self, *, late: bool = False) -> None:
        if not self._queue or len(self._running) >= BATCHES_IN_FLIGHT_MAX:
            return
        if not self._running or late or len(self._queue) >= BESIDE_ITEMS_MIN:
            self._running.add(asyncio.create_task(self._run()))
        elif self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(BESIDE_SECONDS, self._start_late)

    def _start_late(self) -> None:
        self._late = None
        self._start(late=True)

    async def _run(self) -> None:
        try:
            await self._drain()
        finally:
            # In the same step as the last look at the queue: a task that has ended but still
            # counts would keep what queues next from getting one.
            task = asyncio.current_task()
            assert task is not None, "batches run in tasks"
            self._running.discard(task)

    async def _drain(self) -> None:
        while self._queue:
            size = min(len(self._queue), BATCH_ITEMS_MAX)
            taken = [self._queue.popleft() for _ in range(size)]
            if self._late is not None:
                self._late.cancel()
                self._late = None
            self._start()
            batch = [one for one in taken if not one.future.done()]
            if batch:
                await self._send_batch(batch)

    async def _send_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            with tracing.shared("batch", (one.trace for one in batch), items=len(batch)):
                results = await self._send([one.item for one in batch])
        except BaseException as fault:
            for one in batch:
                if not one.future.done():
                    one.future.set_exception(fault)
            if not isinstance(fault, Exception):
                raise
            return
        for one, result in zip(batch, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)
