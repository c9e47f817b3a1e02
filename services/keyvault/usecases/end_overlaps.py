# SPDX-License-Identifier: Apache-2.0
"""
Destroying replaced secrets at the end of their overlap (K7).

No reader gets them past that moment whether or not this ran; what runs here ends their existence,
within about a second, and tells the routers by the change feed.
"""

from __future__ import annotations

import asyncio

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.usecases.ports import AccountChange, KeyStore
from services.shared.clock import Clock
from services.shared.errors import OverloadedError, ServiceError
from services.shared.identity import KEYVAULT
from services.shared.logging import get_logger

INTERVAL_SECONDS = 1.0
VERSIONS_MAX = 500

log = get_logger()


class EndOverlaps:
    """
    Ends overlaps in the background.

    Args:
        store: Where keys are.
        clock: Time between two looks; when an overlap ends is the database's to say.
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

    async def __call__(self) -> None:
        """
        End the overlaps whose time is over.

        Raises:
            StoreUnavailableError: If the database is away; the others end in the next round.
        """
        for account in await self._store.accounts_with_expired(VERSIONS_MAX):
            try:
                await self._store.change(account, _destroy)
            except OverloadedError:
                # Its row stays locked by others; it must not keep the other accounts waiting.
                log.warning("overlap_not_ended", account=account)

    async def _run(self) -> None:
        while True:
            try:
                await self()
            except ServiceError as fault:
                # The next round does it.
                log.warning("ending_overlaps_failed", error=type(fault).__name__)
            await self._clock.sleep(INTERVAL_SECONDS)


async def _destroy(change: AccountChange) -> None:
    """Under the account's lock, so of several replicas one finds something to do."""
    for key_id, version in await change.destroy_expired():
        entry = AuditEntry(
            account=change.settings.account,
            actor=KEYVAULT,
            action=AuditAction.DESTROY_VERSION,
            key_id=key_id,
            version=version,
            details={"cause": "end of overlap"},
        )
        await change.add_audit(entry)
        change.announce()
