# SPDX-License-Identifier: Apache-2.0
"""
Telling that a restored database waits to be accepted (O11): nothing is served until it is.

It only tells. What refuses is the store, in each statement that would release or change a key.
"""

from __future__ import annotations

import asyncio

from services.keyvault.usecases.restoring import RestoreStore
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

INTERVAL_SECONDS = 5.0

log = get_logger()


class RestoreWatch:
    """
    Looks now and then whether the database may serve.

    Args:
        store: Knows.
        clock: Time between two looks.
    """

    def __init__(self, store: RestoreStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting = False
        self._task: asyncio.Task[None] | None = None

    def waiting(self) -> bool:
        """Tell whether the database waited to be accepted at the last look."""
        return self._waiting

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __call__(self) -> None:
        """
        Look once, and log what has changed.

        Raises:
            StoreUnavailableError: If the database is away; what was seen last stands.
        """
        waiting = not (await self._store.state()).serving
        if waiting and not self._waiting:
            log.warning(
                "restore_waits",
                advice="this database was restored; nothing is served until `ownkey revocations "
                "replay <file>`, or `ownkey revocations accept --name <name>` where there is none",
            )
        elif self._waiting and not waiting:
            log.info("restore_accepted")
        self._waiting = waiting

    async def _run(self) -> None:
        while True:
            try:
                await self()
            except ServiceError as fault:
                # The next look tells.
                log.warning("restore_not_seen", error=type(fault).__name__)
            await self._clock.sleep(INTERVAL_SECONDS)
