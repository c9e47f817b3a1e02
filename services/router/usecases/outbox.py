# SPDX-License-Identifier: Apache-2.0
"""
Hands events from a running request to its reader.

Bounded: what the reader has not taken yet is merged, and the writer waits once the backlog is full.
A reader that leaves does not stop the writer: events are dropped from then on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from services.router.domain.media import MediaChunk
from services.router.domain.text import ReasoningDelta, TextDelta, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BACKLOG_BYTES_MAX = 256 * 1024
BACKLOG_EVENTS_MAX = 1_024

E = TypeVar("E")


class Outbox(Generic[E]):
    """
    The events of one request, in order.

    Args:
        whole: Whether the reader wants them only once all are there; a full backlog wakes it too.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._events: deque[E] = deque()
        self._bytes = 0
        self._closed = False
        self._error: BaseException | None = None
        self._left = False
        self._reader: asyncio.Future[None] | None = None
        """Set while the reader waits."""
        self._writable = asyncio.Event()
        self._writable.set()

    async def put(self, event: E) -> None:
        """
        Hand an event over; waits while the reader is behind.
        """
        if not self._writable.is_set():
            await self._writable.wait()
        if self._left or self._closed:
            return
        merged = _merge(self._events[-1], event) if self._events else None
        if merged is None:
            self._events.append(event)
        else:
            self._events[-1] = cast("E", merged)
        self._bytes += _size(event)
        full = self._bytes >= BACKLOG_BYTES_MAX or len(self._events) >= BACKLOG_EVENTS_MAX
        if full:
            self._writable.clear()
        if full or not self._whole:
            self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """
        End the events; the reader gets the error after the last one. The first end stands.
        """
        if self._closed:
            return
        self._closed, self._error = True, error
        self._wake()
        self._writable.set()

    def leave(self) -> None:
        """
        Say that nobody reads any more.
        """
        self._left = True
        self._events.clear()
        self._writable.set()

    async def __aiter__(self) -> AsyncIterator[E]:
        while True:
            while self._events:
                event = self._events.popleft()
                self._bytes -= _size(event)
                if not self._writable.is_set():
                    self._writable.set()
                yield event
            if self._closed:
                break
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _merge(last: object, event: object) -> object | None:
    match last, event:
        case TextDelta(), TextDelta():
            return TextDelta(last.text + event.text)
        case ReasoningDelta(), ReasoningDelta():
            return ReasoningDelta(last.text + event.text, last.signature + event.signature)
        case ToolCallDelta(), ToolCallDelta() if last.index == event.index and not event.id:
            return ToolCallDelta(
                last.index,
                last.id,
                last.name + event.name,
                last.arguments + event.arguments,
                last.signature + event.signature,
            )
        case _:
            return None


def _size(event: object) -> int:
    match event:
        case TextDelta():
            return len(event.text)
        case ReasoningDelta():
            return len(event.text) + len(event.signature)
        case ToolCallDelta():
            return len(event.arguments) + len(event.signature)
        case MediaChunk():
            return len(event.data)
        case _:
            return 0
