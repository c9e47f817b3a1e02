# SPDX-License-Identifier: Apache-2.0
"""Changing, switching, choosing and deleting keys (K5-K7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.keys import Key
from services.keyvault.errors import EtagMismatchError, KeyDisabledError
from services.keyvault.usecases.idempotency import Caller, Fingerprinter, Once
from services.keyvault.usecases.ports import AccountChange, KeyStore, Prober
from services.keyvault.usecases.read_keys import ReadKeys

T = TypeVar("T")

_MODEL_FIELDS = frozenset({"default_model", "allowed_models"})


class ChangeKeys:
    """
    Changes stored keys; each change reaches the routers by the feed.

    Args:
        store: Where keys are.
        reader: Reads them.
        prober: Knows models.
        fingerprinter: Recognises repeated requests.
    """

    def __init__(
        self,
        *,
        store: KeyStore,
        reader: ReadKeys,
        prober: Prober,
        fingerprinter: Fingerprinter,
    ) -> None:
        self._store = store
        self._reader = reader
        self._prober = prober
        self._fingerprinter = fingerprinter

    async def update(
        self, caller: Caller, account: str, key_id: str, *, etag: str, values: Mapping[str, Any]
    ) -> Key:
        """
        Change fields of a key.

        Args:
            caller: Who asks.
            account: Account id.
            key_id: Key id.
            etag: The etag it must have; "" for any.
            values: New values by name of KeyFields.

        Raises:
            ServiceError: As UpdateKey of the contract says.
        """
        once = self._fingerprinter.once(caller, "UpdateKey", Key, name=key_id, etag=etag, **values)
        recorded = await once.recorded_before(self._store, account)
        if recorded is not None:
            return recorded
        before = await self._reader.key(account, key_id)
        fields = replace(before.fields, **values)
        fields.check()
        if _MODEL_FIELDS & values.keys() and (fields.default_model or fields.allowed_models):
            await self._prober.check(
                before.provider,
                default_model=fields.default_model,
                allowed_models=fields.allowed_models,
            )

        async def work(change: AccountChange, key: Key) -> Key:
            _check_etag(key, etag)
            changed = replace(key.fields, **values)
            # Others may have changed the fields that were not named.
            changed.check()
            if changed == key.fields:
                return key
            return await self._store_change(
                change,
                caller,
                replace(key, fields=changed),
                AuditAction.UPDATE,
                {"fields": ",".join(sorted(values))},
            )

        return await self._on_key(account, key_id, once, work)

    async def activate(self, caller: Caller, account: str, key_id: str) -> Key:
        """
        Make a key its provider's active key.

        Raises:
            ServiceError: As ActivateKey of the contract says.
        """

        async def work(change: AccountChange, key: Key) -> Key:
            if not key.enabled:
                raise KeyDisabledError(account, key_id)
            if key.active:
                return key
            for other in await change.keys():
                if other.active and other.provider == key.provider:
                    await change.update_key(_touched(replace(other, active=False), change))
            return await self._store_change(
                change, caller, replace(key, active=True), AuditAction.ACTIVATE
            )

        once = self._fingerprinter.once(caller, "ActivateKey", Key, name=key_id)
        return await self._on_key(account, key_id, once, work)

    async def enable(self, caller: Caller, account: str, key_id: str) -> Key:
        """
        Switch a key on.

        Raises:
            ServiceError: As EnableKey of the contract says.
        """
        return await self._switch(caller, account, key_id, enabled=True)

    async def disable(self, caller: Caller, account: str, key_id: str) -> Key:
        """
        Switch a key off; nothing is lost.

        Raises:
            ServiceError: As DisableKey of the contract says.
        """
        return await self._switch(caller, account, key_id, enabled=False)

    async def delete(self, caller: Caller, account: str, key_id: str, *, etag: str) -> None:
        """
        Destroy a key with its secrets; the audit trail stays.

        Raises:
            ServiceError: As DeleteKey of the contract says.
        """

        async def work(change: AccountChange, key: Key) -> bool:
            _check_etag(key, etag)
            await change.delete_key(key)
            settings = change.settings
            left = {other.provider for other in await change.keys()}
            if settings.active_provider == key.provider and key.provider not in left:
                await change.put_settings(
                    replace(settings, active_provider="", revision=settings.revision + 1)
                )
            await change.add_audit(_entry(caller, key, AuditAction.DELETE, {}))
            change.announce()
            return True

        once = self._fingerprinter.once(caller, "DeleteKey", bool, name=key_id, etag=etag)
        await self._on_key(account, key_id, once, work)

    async def _switch(self, caller: Caller, account: str, key_id: str, *, enabled: bool) -> Key:
        action = AuditAction.ENABLE if enabled else AuditAction.DISABLE

        async def work(change: AccountChange, key: Key) -> Key:
            if key.enabled == enabled:
                return key
            return await self._store_change(change, caller, replace(key, enabled=enabled), action)

        operation = "EnableKey" if enabled else "DisableKey"
        once = self._fingerprinter.once(caller, operation, Key, name=key_id)
        return await self._on_key(account, key_id, once, work)

    async def _on_key(
        self,
        account: str,
        key_id: str,
        once: Once[T],
        work: Callable[[AccountChange, Key], Awaitable[T]],
    ) -> T:
        async def unit(change: AccountChange) -> T:
            recorded = await once.recorded(change)
            if recorded is not None:
                return recorded
            return await once.record(change, await work(change, await change.key(key_id)))

        return await self._store.change(account, unit)

    async def _store_change(
        self,
        change: AccountChange,
        caller: Caller,
        key: Key,
        action: AuditAction,
        details: Mapping[str, str] | None = None,
    ) -> Key:
        key = _touched(key, change)
        await change.update_key(key)
        await change.add_audit(_entry(caller, key, action, details or {}))
        change.announce()
        return key


def _touched(key: Key, change: AccountChange) -> Key:
    return replace(key, revision=key.revision + 1, update_time=change.time)


def _check_etag(key: Key, etag: str) -> None:
    if etag and etag != key.etag:
        raise EtagMismatchError(key.name)


def _entry(caller: Caller, key: Key, action: AuditAction, details: Mapping[str, str]) -> AuditEntry:
    return AuditEntry(
        account=key.account,
        actor=caller.identity,
        action=action,
        key_id=key.key_id,
        version=key.version,
        request_id=caller.request_id,
        details=details,
    )
