# SPDX-License-Identifier: Apache-2.0
"""
Handing secrets to the router: from one snapshot, and recorded before they leave (K13, K15).

A record that does not open costs its own key and no other: that key comes without a secret,
REJECTED with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.health import WHOLE_KEY, Health, HealthState
from services.keyvault.domain.keys import Key, Settings
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import AccountSnapshot, FeedPosition, KeyStore, StoredSecret
from services.keyvault.usecases.read_keys import effective
from services.keyvault.usecases.releases import Releases
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.secret import Secret

DAMAGED_CAUSE = "its stored secret is damaged or not its own, and was not opened"


@dataclass(frozen=True, slots=True)
class ResolvedAccount:
    """
    An account as the router may know it.

    Args:
        settings: Active provider and use of backups.
        keys: Every key, disabled ones included, in order.
        secrets: Of enabled keys, by key id and version: the current one's, and while an overlap
            lasts that of the one before.
    """

    settings: Settings
    keys: Sequence[Key]
    secrets: Mapping[tuple[str, int], Secret]


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
            StoreUnavailableError: If the release could not be recorded.
        """
        snapshot = await self._store.snapshot(accounts, secrets=True)
        stored = [item for found in snapshot.accounts for item in _to_release(found)]
        opened = await self._box.open_each(stored)
        released = [
            (item, secret)
            for item, secret in zip(stored, opened, strict=True)
            if secret is not None
        ]
        await self._releases.record([_release(caller, item) for item, _ in released])
        secrets: dict[str, dict[tuple[str, int], Secret]] = {name: {} for name in accounts}
        for item, secret in released:
            whose = item.binding
            secrets[whose.account][whose.key_id, whose.version] = secret
        resolved = [
            _resolved(found, secrets[name])
            for name, found in zip(accounts, snapshot.accounts, strict=True)
        ]
        return resolved, snapshot.position


def _to_release(found: AccountSnapshot) -> Iterator[StoredSecret]:
    for key in found.keys:
        if key.enabled:
            current, previous = found.secrets.get(key.key_id), found.previous.get(key.key_id)
            yield from (item for item in (current, previous) if item is not None)


def _resolved(found: AccountSnapshot, secrets: Mapping[tuple[str, int], Secret]) -> ResolvedAccount:
    keys = [
        key if not key.enabled or (key.key_id, key.version) in secrets else _damaged(key)
        for key in found.keys
    ]
    return ResolvedAccount(effective(found.settings, keys), keys, secrets)


def _damaged(key: Key) -> Key:
    health = Health(WHOLE_KEY, HealthState.REJECTED, DAMAGED_CAUSE, since=key.read_time)
    return replace(key, health=(health,))


def _release(caller: Caller, item: StoredSecret) -> AuditEntry:
    return AuditEntry(
        account=item.binding.account,
        actor=caller.identity,
        action=AuditAction.RELEASE,
        key_id=item.binding.key_id,
        version=item.binding.version,
        details={"purpose": "resolve"},
    )
