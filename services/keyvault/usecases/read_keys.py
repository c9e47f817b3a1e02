# SPDX-License-Identifier: Apache-2.0
"""Reading keys, settings and the audit trail; never a secret."""

from __future__ import annotations

from dataclasses import replace

from services.keyvault.domain.audit import AuditEvent
from services.keyvault.domain.keys import Key, Settings
from services.keyvault.errors import KeyNotFoundError
from services.keyvault.usecases.ports import AuditLog, KeyStore, Snapshot
from services.shared.paging import PageTokens


class ReadKeys:
    """
    Reads what people may see.

    Args:
        store: Where keys are.
        audit: The audit trail.
        tokens: Makes page tokens.
    """

    def __init__(self, *, store: KeyStore, audit: AuditLog, tokens: PageTokens) -> None:
        self._store = store
        self._audit = audit
        self._tokens = tokens

    async def key(self, account: str, key_id: str) -> Key:
        """
        Return a key.

        Raises:
            KeyNotFoundError: If the account stores no such key.
        """
        for key in await self.keys(account):
            if key.key_id == key_id:
                return key
        raise KeyNotFoundError(account, key_id)

    async def keys(self, account: str) -> list[Key]:
        """Return an account's keys in order, at most 100."""
        return list((await self._snapshot(account)).accounts[0].keys)

    async def settings(self, account: str) -> Settings:
        """Return an account's settings."""
        found = (await self._snapshot(account)).accounts[0]
        return effective(found.settings, list(found.keys))

    async def page_of_keys(
        self, account: str, *, provider: str, size: int, token: str
    ) -> tuple[list[Key], str]:
        """
        Return a page of keys and the token of the next.

        Raises:
            InvalidArgumentError: If the token is another query's.
        """
        query = f"keys/{account}/{provider}"
        cursor = self._tokens.decode(query, token)
        keys = [key for key in await self.keys(account) if provider in {"", key.provider}]
        rest = [key for key in keys if not cursor or _place(key) > cursor]
        page = rest[:size]
        following = self._tokens.encode(query, _place(page[-1])) if len(rest) > size else ""
        return page, following

    async def page_of_audit(
        self, account: str, *, size: int, token: str
    ) -> tuple[list[AuditEvent], str]:
        """
        Return a page of the audit trail, newest first, and the token of the next.

        Raises:
            InvalidArgumentError: If the token is another query's.
        """
        query = f"audit/{account}"
        cursor = self._tokens.decode(query, token)
        events = await self._audit.page(
            account, before=int(cursor) if cursor else None, limit=size + 1
        )
        page = events[:size]
        following = self._tokens.encode(query, str(page[-1].number)) if len(events) > size else ""
        return page, following

    async def _snapshot(self, account: str) -> Snapshot:
        return await self._store.snapshot([account], secrets=False)


def effective(settings: Settings, keys: list[Key]) -> Settings:
    """Return settings with the provider that serves: the chosen one, else the oldest key's."""
    if settings.active_provider or not keys:
        return settings
    oldest = min(keys, key=lambda key: (key.create_time, key.key_id))
    return replace(settings, active_provider=oldest.provider)


def _place(key: Key) -> str:
    """Sorts as the list does: by order, age, id."""
    return (
        f"{key.fields.order:07d}/{key.create_time.isoformat(timespec='microseconds')}/{key.key_id}"
    )
