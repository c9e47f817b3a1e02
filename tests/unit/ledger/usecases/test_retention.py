# SPDX-License-Identifier: Apache-2.0
"""Forgetting goes on whatever happens, waits between passes, and hurries while much is left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.ledger.usecases.retention import FORGOTTEN_PER_PASS_MAX, Expired, Retention
from services.shared.errors import StoreUnavailableError


class Enough(BaseException):
    """Ends a task that would go on forever."""


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
    """Fails twice, then has one full pass and one that is not."""

    def __init__(self) -> None:
        self.faults: list[Exception] = [StoreUnavailableError("away"), ValueError("a bug")]
        self.rows = [FORGOTTEN_PER_PASS_MAX, 3]

    async def expired(self, limit: int) -> Sequence[Expired]:
        """Fail, until nothing is left to fail with."""
        assert limit == FORGOTTEN_PER_PASS_MAX
        if self.faults:
            raise self.faults.pop(0)
        return [Expired("demo", ("one",))]

    async def forget(self, expired: Expired) -> int:
        """Remove some rows."""
        assert expired.account_id == "demo"
        return self.rows.pop(0)


@pytest.mark.requirement("L11")
async def test_it_survives_faults_and_follows_a_full_pass_at_once() -> None:
    store, clock = FailingStore(), CountingClock(3)
    retention = Retention(store=store, clock=clock, interval_seconds=5.0)  # type: ignore[arg-type]
    with pytest.raises(Enough):
        await retention.run()
    assert clock.waits == [5.0, 5.0, 5.0]
    assert store.rows == []
