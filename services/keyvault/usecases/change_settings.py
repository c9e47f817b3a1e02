# SPDX-License-Identifier: Apache-2.0
"""Changing an account's settings (K5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.keys import Settings
from services.keyvault.errors import EtagMismatchError, ProviderWithoutKeyError
from services.keyvault.usecases.idempotency import Caller, Fingerprinter
from services.keyvault.usecases.ports import AccountChange, KeyStore
from services.keyvault.usecases.read_keys import effective


class ChangeSettings:
    """
    Changes settings.

    Args:
        store: Where they are.
        fingerprinter: Recognises repeated requests.
    """

    def __init__(self, *, store: KeyStore, fingerprinter: Fingerprinter) -> None:
        self._store = store
        self._fingerprinter = fingerprinter

    async def __call__(
        self, caller: Caller, account: str, *, etag: str, values: Mapping[str, str | bool]
    ) -> Settings:
        """
        Change settings.

        Args:
            caller: Who asks.
            account: Account id.
            etag: The etag they must have; "" for any.
            values: New values by name of Settings.

        Raises:
            ServiceError: As UpdateSettings of the contract says.
        """
        once = self._fingerprinter.once(caller, "UpdateSettings", Settings, etag=etag, **values)

        async def work(change: AccountChange) -> Settings:
            recorded = await once.recorded(change)
            if recorded is not None:
                return recorded
            before = change.settings
            if etag and etag != before.etag:
                raise EtagMismatchError(before.name)
            keys = await change.keys()
            after = replace(before, **values)  # type: ignore[arg-type]  # checked by the mapping
            provider = after.active_provider
            if provider and provider not in {key.provider for key in keys}:
                raise ProviderWithoutKeyError(account, provider)
            if after != before:
                after = replace(after, revision=before.revision + 1)
                await change.put_settings(after)
                await change.add_audit(
                    AuditEntry(
                        account=account,
                        actor=caller.identity,
                        action=AuditAction.UPDATE_SETTINGS,
                        request_id=caller.request_id,
                        details={name: str(value) for name, value in values.items()},
                    )
                )
                change.announce()
            return await once.record(change, effective(after, keys))

        return await self._store.change(account, work)
