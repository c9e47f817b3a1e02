# SPDX-License-Identifier: Apache-2.0
"""Work that several callers share, or that goes on after its caller was answered."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interval:
    """
    Keeps what is done again and again from beginning too soon after the last time.

    It waits on the event loop's own time: a few milliseconds that no rule depends on.

    Args:
        seconds: Between two beginnings, at least.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next one may begin: at once if the last was long enough ago."""
        loop = asyncio.get_running_loop()
        if (rest := self._next - loop.time()) > 0:
            await asyncio.sleep(rest)
        self._next = loop.time() + self._seconds


def start_detached(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """
    Begin work in a task that inherits nothing of the call it was begun by.

    Neither that call's deadline nor its place in the log may govern what others wait for.

    Args:
        work: What to do.
    """
    return asyncio.create_task(work, context=contextvars.Context())
