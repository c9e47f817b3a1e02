# SPDX-License-Identifier: Apache-2.0
"""
Forget what is older than the retention: requests with their attempts and refusals, and the answers
of operations. Entries, grants, usage and budgets stay: they are the account's books.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

FORGOTTEN_PER_PASS_MAX = 1000

log = get_logger()


@dataclass(frozen=True, slots=True)
class Expired:
    """
    What is past the retention of one account.

    Args:
        account_id: The account.
        request_ids: Requests that have ended, nothing of them younger; answers of operations are
            found by their age.
    """

    account_id: str
    request_ids: tuple[str, ...]


class RetentionStore(Protocol):
    """Finds and forgets what is past the retention. Failures are StoreUnavailableErrors."""

    async def expired(self, limit: int) -> Sequence[Expired]:
        """Return what is past the retention, at most `limit` requests and as many accounts more."""
        ...

    async def forget(self, expired: Expired) -> int:
        """Forget it under the account's lock, as far as it is still so; return the rows removed."""
        ...


class Retention:
    """
    Forgets, again and again. Several may run at once, in any number of processes.

    Args:
        store: Finds and forgets.
        clock: Time between two passes.
        interval_seconds: That time; a pass that found as much as it may is followed at once.
    """

    def __init__(self, *, store: RetentionStore, clock: Clock, interval_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._interval = interval_seconds

    async def run(self) -> None:
        """Forget until cancelled."""
        while True:
            removed = 0
            try:
                removed = await self.forget()
            except ServiceError as fault:
                log.warning("retention_failed", error=fault.message)
            except Exception:
                # The root of a task: without it tables would grow for good.
                log.exception("retention_failed_unexpectedly")
            if removed < FORGOTTEN_PER_PASS_MAX:
                await self._clock.sleep(self._interval)

    async def forget(self) -> int:
        """Make one pass and return how many rows it removed."""
        removed = 0
        for expired in await self._store.expired(FORGOTTEN_PER_PASS_MAX):
            removed += await self._store.forget(expired)
            # A long backlog leaves room for calls between two accounts.
            await asyncio.sleep(0)
        if removed:
            log.info("old_rows_forgotten", count=removed)
        return removed
