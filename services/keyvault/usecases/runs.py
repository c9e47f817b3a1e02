# SPDX-License-Identifier: Apache-2.0
"""What runs over all records share: how far they have come, and how fast they may go."""

from __future__ import annotations

from dataclasses import dataclass

from services.keyvault.usecases.ports import RecordName
from services.shared.clock import Clock


@dataclass(frozen=True, slots=True)
class RunProgress:
    """
    How far a run has come.

    Args:
        done: Records done in this run.
        remaining: Records left, counted when it began, less those dealt with since.
        failed: Records that could not be done; see each run for those changed by others meanwhile.
        last: The last record dealt with; None if there was none.
    """

    done: int
    remaining: int
    failed: int
    last: RecordName | None


class Pace:
    """
    Keeps a run from going faster than it may.

    Args:
        clock: Time.
        records_per_second_max: How fast to go.
    """

    def __init__(self, clock: Clock, *, records_per_second_max: int) -> None:
        self._clock = clock
        self._rate = records_per_second_max
        self._began = clock.monotonic()
        self._records = 0

    async def keep(self, records: int) -> None:
        """Wait until so many further records are due."""
        self._records += records
        due = self._began + self._records / self._rate
        wait = due - self._clock.monotonic()
        if wait > 0:
            await self._clock.sleep(wait)
