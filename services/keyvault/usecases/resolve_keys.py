# SPDX-License-Identifier: Apache-2.0
"""Handing secrets to the router: from one snapshot, and recorded before they leave (K13, K15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.keys import Key, Settings
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import AccountSnapshot, FeedPosition, KeyStore, StoredSecret
from services.keyvault.usecases.read_keys import effective
from services.keyvault.usecases.releases import Releases
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.secret import Secret


@dataclass(frozen=True, slots=True)
class ResolvedAccount:
    """
    An account as the router may know it.

    Args:
        settings: Active provider and use of backups.
        keys: Every key, disabled ones included, in order.
        secrets: Of enabled keys, by key id.
    """

    settings: Settings
    keys: Sequence[Key]
    secrets: Mapping[str, Secret]


class ResolveKeys:
    """
    Resolves accounts.

    Args:
        store: Where keys are.
        box: Opens secrets.
        releases: Records that they leave.
    """

    def __init__(self, *, store: KeyStore, box: SecretBox, releases: Releases) -> None:
        self._store = store
        self._box = box
        self._releases = releases

    async def __call__(
        self, caller: Caller, accounts: Sequence[str]
    ) -> tuple[list[ResolvedAccount], FeedPosition]:
        """
        Return accounts in order, and the feed's position at the moment they were read.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
            RecordRefusedError: If a record is damaged or not its own.
            StoreUnavailableError: If the release could not be recorded.
        """
        snapshot = await self._store.snapshot(accounts, secrets=True)
        stored = [item for found in snapshot.accounts for item in _to_release(found)]
        opened = await self._box.open(stored)
        await self._releases.record([_release(caller, item) for item in stored])
        secrets: dict[tuple[str, str], Secret] = {
            (item.binding.account, item.binding.key_id): secret
            for item, secret in zip(stored, opened, strict=True)
        }
        resolved = [
            ResolvedAccount(
                settings=effective(found.settings, list(found.keys)),
                keys=found.keys,
                secrets={
                    key.key_id: secrets[key.account, key.key_id]
                    for key in found.keys
                    if (key.account, key.key_id) in secrets
                },
            )
            for found in snapshot.accounts
        ]
        return resolved, snapshot.position


def _to_release(found: AccountSnapshot) -> list[StoredSecret]:
    return [found.secret_of(key) for key in found.keys if key.enabled]


def _release(caller: Caller, item: StoredSecret) -> AuditEntry:
    return AuditEntry(
        account=item.binding.account,
        actor=caller.identity,
        action=AuditAction.RELEASE,
        key_id=item.binding.key_id,
        version=item.binding.version,
        details={"purpose": "resolve"},
    )
