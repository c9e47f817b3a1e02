# SPDX-License-Identifier: Apache-2.0
"""The sweeper: settles runs whose lease has run out, each at its last checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.ledger.domain.files import AccountFile
from services.ledger.usecases.ports import LapsedRun, LedgerStore, UnitRefusedError, Wanted
from services.ledger.usecases.settle import lapse, lapsed
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

RUNS_PER_SWEEP_MAX = 500

log = get_logger()


class Sweeper:
    """
    Settles lapsed runs, again and again.

    Several may run at once, in any number of processes: each run is settled under its account's
    lock, and looked at again there.

    Args:
        store: Keeps the ledger.
        clock: Time between two sweeps.
        interval_seconds: That time.
    """

    def __init__(self, *, store: LedgerStore, clock: Clock, interval_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._interval = interval_seconds

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except ServiceError as fault:
                log.warning("sweep_failed", error=fault.message)
            except Exception:
                # The root of a task: without it holds would stay open for good.
                log.exception("sweep_failed_unexpectedly")
            await self._clock.sleep(self._interval)

    async def sweep(self) -> int:
        """Settle the runs whose lease has run out and return how many there were."""
        settled = 0
        for found in await self._store.lapsed_runs(RUNS_PER_SWEEP_MAX):
            try:
                settled += await self._settle(found)
            except UnitRefusedError:
                log.exception("lapsed_run_not_settled", request_id=found.request_id)
            # A long backlog leaves room for calls between two runs.
            await asyncio.sleep(0)
        if settled:
            log.info("lapsed_runs_settled", count=settled)
        return settled

    async def _settle(self, found: LapsedRun) -> bool:
        def unit(files: Mapping[str, AccountFile]) -> bool:
            file = files.get(found.account_id)
            request = file.requests.get(found.request_id) if file else None
            if file is None or request is None or not lapsed(file, request):
                return False
            file.book.retire_due()
            lapse(file, request)
            return True

        return await self._store.change(
            [Wanted(found.account_id, request_id=found.request_id)], unit
        )
