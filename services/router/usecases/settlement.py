# SPDX-License-Identifier: Apache-2.0
"""
Closes attempts at the ledger, in tasks that outlive the caller.

A settlement has its own deadline, never the caller's. Shutdown awaits what is under way; what it
does not reach is settled by the ledger at its last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from services.shared.errors import ServiceError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from services.router.usecases.ports import Claim, Ledger, RequestEnd, Settled, Settlement
    from services.shared.clock import Clock

SETTLE_SECONDS_MAX = 50.0
"""Less than a hold's lease: past it the ledger settles at the last checkpoint."""
ANSWER_WAITS_SECONDS_MAX = 2.0
"""How long an answer waits for its settlement before it goes out marked pending."""
DRAIN_SECONDS_MAX = 25.0

log = get_logger()


class BackgroundWork:
    """
    Tasks that outlive the call that started them.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """
        Start a task and keep hold of it until it ends.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, seconds: float = DRAIN_SECONDS_MAX) -> None:
        """
        Wait until all is done, at most so long; then cancel the rest.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # What ends may start its settlement, so look again until nothing is left.
                while self._tasks:
                    await asyncio.wait(tuple(self._tasks))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Settler:
    """
    Settles attempts.

    Args:
        ledger: Who pays.
        work: Holds the tasks.
        clock: Time.
    """

    def __init__(self, ledger: Ledger, work: BackgroundWork, *, clock: Clock) -> None:
        self._ledger = ledger
        self._work = work
        self._clock = clock

    async def settle(
        self,
        claim: Claim,
        settlement: Settlement,
        end: RequestEnd | None,
        *,
        wait_seconds: float = ANSWER_WAITS_SECONDS_MAX,
    ) -> Settled | None:
        """
        Settle in a task of its own, and wait for it a little: None while it is still under way.
        """
        task = self._work.start(self._settle(claim, settlement, end))
        enough = asyncio.Event()
        task.add_done_callback(lambda _: enough.set())
        seconds = min(wait_seconds, ANSWER_WAITS_SECONDS_MAX)
        patience = self._clock.call_later(seconds, enough.set)
        try:
            await enough.wait()
        finally:
            patience.cancel()
        return task.result() if task.done() else None

    async def _settle(
        self, claim: Claim, settlement: Settlement, end: RequestEnd | None
    ) -> Settled | None:
        try:
            return await self._ledger.settle(
                claim, settlement, end, timeout_seconds=SETTLE_SECONDS_MAX
            )
        except ServiceError as error:
            log.warning(
                "settlement_failed",
                account=claim.account,
                request_id=claim.request_id,
                sequence=settlement.sequence,
                error=type(error).__name__,
            )
            return None
