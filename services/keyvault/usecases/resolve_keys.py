# SPDX-License-Identifier: Apache-2.0
"""
Handing secrets to the router: from one snapshot, and recorded before they leave (K13, K15).

A record that does not open costs its own key and no other: that key comes without a secret,
REJECTED with the reason if it is damaged, or with the cause for which the key-encryption key could
not be used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.envelope import Binding
from services.keyvault.domain.health import WHOLE_KEY, Health, HealthState
from services.keyvault.domain.keys import Key, Settings
from services.keyvault.errors import KekCause, KekUnavailableError, RecordRefusedError
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import (
    AccountSnapshot,
    FeedPosition,
    Snapshot,
    StoredSecret,
)
from services.keyvault.usecases.read_keys import effective
from services.keyvault.usecases.releases import Releases
from services.keyvault.usecases.shared_reads import SharedReads
from services.keyvault.usecases.stored_secrets import Opened, SecretBox
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
        unavailable: Why the secret of an enabled key cannot be opened now, by key id.
    """

    settings: Settings
    keys: Sequence[Key]
    secrets: Mapping[tuple[str, int], Secret]
    unavailable: Mapping[str, KekCause]


class ResolveKeys:
    """
    Resolves accounts.

    Args:
        reads: Reads accounts.
        box: Opens secrets.
        releases: Records that they leave.
    """

    def __init__(self, *, reads: SharedReads, box: SecretBox, releases: Releases) -> None:
        self._reads = reads
        self._box = box
        self._releases = releases

    async def __call__(
        self, caller: Caller, accounts: Sequence[str]
    ) -> tuple[list[ResolvedAccount], FeedPosition]:
        """
        Return accounts in order, and the feed's position at the moment they were read.

        Raises:
            StoreUnavailableError: If the release could not be recorded.
            OverloadedError: If too much waits already.
        """
        snapshot, opened = await self._opened(accounts)
        if any(isinstance(result, RecordRefusedError) for result in opened.values()):
            # Since it was read, a record may have been wrapped anew, and the version that wrapped
            # it retired: what is damaged is so the second time, too.
            snapshot, opened = await self._opened(accounts)
        released = [whose for whose, result in opened.items() if isinstance(result, Secret)]
        await self._releases.record([_release(caller, binding) for binding in released])
        resolved = [_resolved(found, opened) for found in snapshot.accounts]
        return resolved, snapshot.position

    async def _opened(self, accounts: Sequence[str]) -> tuple[Snapshot, dict[Binding, Opened]]:
        snapshot = await self._reads.snapshot(accounts)
        stored = [item for found in snapshot.accounts for item in _to_release(found)]
        results = await self._box.open_each(stored)
        bindings = [item.binding for item in stored]
        return snapshot, dict(zip(bindings, results, strict=True))


def _to_release(found: AccountSnapshot) -> Iterator[StoredSecret]:
    for key in found.keys:
        if key.enabled:
            current, previous = found.secrets.get(key.key_id), found.previous.get(key.key_id)
            yield from (item for item in (current, previous) if item is not None)


def _resolved(found: AccountSnapshot, opened: Mapping[Binding, Opened]) -> ResolvedAccount:
    results = {
        (item.binding.key_id, item.binding.version): opened[item.binding]
        for item in _to_release(found)
    }
    unavailable = {
        key.key_id: result.cause
        for key in found.keys
        if isinstance(result := results.get((key.key_id, key.version)), KekUnavailableError)
    }
    secrets = {whose: result for whose, result in results.items() if isinstance(result, Secret)}
    keys = [
        _damaged(key)
        if key.enabled
        and not key.client_held
        and (key.key_id, key.version) not in secrets
        and key.key_id not in unavailable
        else key
        for key in found.keys
    ]
    return ResolvedAccount(effective(found.settings, keys), keys, secrets, unavailable)


def _damaged(key: Key) -> Key:
    health = Health(WHOLE_KEY, HealthState.REJECTED, DAMAGED_CAUSE, since=key.read_time)
    return replace(key, health=(health,))


def _release(caller: Caller, binding: Binding) -> AuditEntry:
    return AuditEntry(
        account=binding.account,
        actor=caller.identity,
        action=AuditAction.RELEASE,
        key_id=binding.key_id,
        version=binding.version,
        details={"purpose": "resolve"},
    )
