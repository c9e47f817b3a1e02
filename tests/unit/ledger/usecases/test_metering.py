# SPDX-License-Identifier: Apache-2.0
"""Looking at the database: it goes on whatever happens and warns when something changes."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from services.ledger.usecases.metering import WATCH_SECONDS, Condition, Watch
from services.shared.errors import StoreUnavailableError
from tests.support.clock import ManualClock

ALONE, BACKED = Condition(3, synchronous_standby=False), Condition(5, synchronous_standby=True)


class Reader:
    """Answers what it was given, in turn, then no more; raises what is an exception."""

    def __init__(self, *answers: Condition | Exception) -> None:
        self.answers = list(answers)

    async def read(self) -> Condition:
        """Return or raise the next answer."""
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Shown:
    """Keeps what was shown; nothing else is counted here."""

    def __init__(self) -> None:
        self.conditions: list[Condition] = []

    def condition(self, condition: Condition) -> None:
        """Keep it."""
        self.conditions.append(condition)


@pytest.mark.requirement("O6", "O8")
async def test_it_warns_once_for_each_loss_of_the_standby_and_survives_faults() -> None:
    shown, clock = Shown(), ManualClock()
    away, bug = StoreUnavailableError("away"), ValueError("a bug")
    reader = Reader(ALONE, ALONE, away, bug, BACKED, BACKED, ALONE)
    watch = Watch(reader=reader, meter=shown, clock=clock)  # type: ignore[arg-type]
    with capture_logs() as logs:
        task = asyncio.create_task(watch.run())
        while reader.answers:
            await asyncio.sleep(0)
            clock.advance(WATCH_SECONDS)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert shown.conditions == [ALONE, ALONE, BACKED, BACKED, ALONE]
    assert [line["event"] for line in logs] == [
        "no_synchronous_standby",
        "database_not_looked_at",
        "database_not_looked_at_unexpectedly",
        "synchronous_standby_named",
        "no_synchronous_standby",
    ]
