# SPDX-License-Identifier: Apache-2.0
"""A clock that tests move by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from services.shared.clock import SystemClock, Timer

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """
    Stands still until `advance`; a sleeper wakes when its time has come.

    Args:
        start: The wall clock's time at the beginning.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._timers: list[ManualTimer] = []

    def now(self) -> datetime:
        """Return the wall clock's time."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Return the seconds advanced so far."""
        return self._elapsed

    @property
    def sleepers(self) -> int:
        """Count who waits for the clock."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        event = asyncio.Event()
        self._sleepers.append((self._elapsed + seconds, event))
        await event.wait()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once the clock was advanced that far."""
        timer = ManualTimer(self._elapsed + seconds, callback)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Move the clock, wake whoever is due and call whom it was promised."""
        self._elapsed += seconds
        due_timers = [timer for timer in self._timers if timer.due <= self._elapsed]
        self._timers = [timer for timer in self._timers if timer.due > self._elapsed]
        for timer in due_timers:
            timer.ring()
        for due, event in self._sleepers:
            if due <= self._elapsed:
                event.set()
        self._sleepers = [(due, event) for due, event in self._sleepers if not event.is_set()]


class ManualTimer:
    """A call that is due when a manual clock says so."""

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self._callback: Callable[[], None] | None = callback

    def ring(self) -> None:
        """Make the call, unless it was cancelled."""
        if self._callback is not None:
            self._callback()

    def cancel(self) -> None:
        """Drop it."""
        self._callback = None


class RestingClock(SystemClock):
    """The machine's clock, on which what runs in the background runs once and then rests."""

    async def sleep(self, seconds: float) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Never call back."""
        return ManualTimer(seconds, callback)
