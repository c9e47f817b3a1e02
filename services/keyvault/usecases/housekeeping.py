# SPDX-License-Identifier: Apache-2.0
"""What must not grow for ever: the change feed's tail, and recorded requests past their time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from services.keyvault.usecases.ports import KeyStore
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

INTERVAL_SECONDS = 600.0
CHANGES_KEPT = 100_000
REQUESTS_KEPT = timedelta(days=400)

log = get_logger()


class Housekeeping:
    """
    Removes what is past its use, now and then.

    Args:
        store: Where it is.
        clock: Time.
    """

    def __init__(self, store: KeyStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._store.forget(changes_kept=CHANGES_KEPT, requests_kept=REQUESTS_KEPT)
            except ServiceError as fault:
                # The next round does it.
                log.warning("housekeeping_failed", error=type(fault).__name__)
            await self._clock.sleep(INTERVAL_SECONDS)
