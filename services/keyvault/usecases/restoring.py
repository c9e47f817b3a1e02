# SPDX-License-Identifier: Apache-2.0
"""
Backups that revive no revoked key (O11).

The database notices by itself that it was restored (see the migration that makes `this_database`).
Until it is accepted, the store releases and changes nothing; what is here ends that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from services.keyvault.domain.revocations import Page, RestoreState
from services.keyvault.errors import RestoreFault, RestoreRefusedError
from services.keyvault.usecases.idempotency import Caller
from services.shared.secret import Secret


class RestoreStore(Protocol):
    """Revocations, and which database may serve."""

    async def state(self) -> RestoreState:
        """Return where it stands."""
        ...

    async def page(self, after: int) -> Page:
        """Return the revocations after a number, `PAGE_MAX` or a few more."""
        ...

    async def replay(self, page: Page, mac: bytes, *, key: Secret, actor: str) -> int:
        """Check a page and revoke what it says; return how many live keys that were."""
        ...

    async def accept(self, *, replayed_through: int | None, name: str, actor: str) -> None:
        """Let the database serve, unless it does."""
        ...


class Restoring:
    """
    The use cases.

    Args:
        store: Keeps revocations.
        key: Signs pages, 32 bytes.
    """

    def __init__(self, store: RestoreStore, *, key: Secret) -> None:
        self._store = store
        self._key = key

    async def state(self) -> RestoreState:
        """Return where a restore stands."""
        return await self._store.state()

    async def export(self, *, after: int, database: str) -> AsyncIterator[tuple[Page, bytes]]:
        """
        Yield what was revoked after a number, in signed pages, to the present.

        Raises:
            RestoreRefusedError: If the number is another database's.
        """
        state = await self._store.state()
        if after and (database != state.accepted_database or after > state.through):
            raise RestoreRefusedError(RestoreFault.OTHER_DATABASE)
        while True:
            page = await self._store.page(after)
            yield page, page.mac(self._key)
            after = page.through
            if after >= state.through:
                return

    async def replay(self, caller: Caller, page: Page, mac: bytes) -> tuple[int, RestoreState]:
        """
        Revoke again what a page says.

        Raises:
            RestoreRefusedError: If the page does not fit.
        """
        actor = caller.identity
        revoked = await self._store.replay(page, mac, key=self._key, actor=actor)
        return revoked, await self._store.state()

    async def accept(
        self, caller: Caller, *, replayed_through: int | None, name: str
    ) -> RestoreState:
        """
        Let the database serve.

        Args:
            caller: Who asks.
            replayed_through: The number that the replay came to; None to accept by name.
            name: Of the person who accepts.

        Raises:
            RestoreRefusedError: If the replay came to another number.
        """
        await self._store.accept(
            replayed_through=replayed_through, name=name, actor=caller.identity
        )
        return await self._store.state()
