# SPDX-License-Identifier: Apache-2.0
"""The sweeper goes on whatever happens, and waits between two sweeps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.ledger.usecases.ports import LapsedRun, UnitRefusedError
from services.ledger.usecases.sweep import Sweeper
from services.shared.errors import StoreUnavailableError


class Enough(BaseException):
    """Ends a sweeper that would go on forever."""


class CountingClock:
    """Counts the waits and ends the test after a few."""

    def __init__(self, waits_max: int) -> None:
        self.waits: list[float] = []
        self._waits_max = waits_max

    async def sleep(self, seconds: float) -> None:
        """Count."""
        self.waits.append(seconds)
        if len(self.waits) == self._waits_max:
            raise Enough
        await asyncio.sleep(0)


class FailingStore:
    """Fails in a different way at each sweep."""

    def __init__(self) -> None:
        self.faults: list[Exception] = [StoreUnavailableError("away"), ValueError("a bug")]
        self.settled: list[str] = []

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Fail, until nothing is left to fail with."""
        if self.faults:
            raise self.faults.pop(0)
        return [LapsedRun("demo", name) for name in ("one", "poison", "two")]

    async def change(self, wanted: Any, work: Any) -> bool:
        """Settle, but for the poisoned one."""
        (one,) = wanted
        if one.request_id == "poison":
            raise UnitRefusedError
        self.settled.append(one.request_id)
        return True


@pytest.mark.requirement("L3", "L13")
class TestSweeper:
    async def test_it_survives_faults_and_a_run_that_cannot_be_settled(self) -> None:
        store, clock = FailingStore(), CountingClock(3)
        sweeper = Sweeper(store=store, clock=clock, interval_seconds=5.0)  # type: ignore[arg-type]
        with pytest.raises(Enough):
            await sweeper.run()
        assert store.settled == ["one", "two"]
        assert clock.waits == [5.0, 5.0, 5.0]
