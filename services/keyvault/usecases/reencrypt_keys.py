# SPDX-License-Identifier: Apache-2.0
"""Encrypting stored secrets anew, each under a fresh data key (K12)."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.envelope import Record
from services.keyvault.domain.names import PLATFORM
from services.keyvault.errors import KekUnavailableError
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import (
    AccountChange,
    KeyStore,
    RecordName,
    RecordStore,
    StoredSecret,
)
from services.keyvault.usecases.runs import Pace, RunProgress
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.clock import Clock
from services.shared.logging import get_logger
from services.shared.secret import Secret

BATCH_MAX = 50

log = get_logger()


class ReencryptKeys:
    """
    Walks through all records and encrypts each anew.

    Rules:
    1. A record's generation rises with it, so that a row from before, put back, is refused.
    2. The new record is opened and compared before it is stored, and stored only where the old one
       still stands. What cannot be done stays as it was.

    Args:
        store: Where the audit trail of accounts is.
        records: Where records are.
        box: Opens and closes them.
        clock: Time.
    """

    def __init__(
        self, *, store: KeyStore, records: RecordStore, box: SecretBox, clock: Clock
    ) -> None:
        self._store = store
        self._records = records
        self._box = box
        self._clock = clock

    async def __call__(
        self,
        caller: Caller,
        *,
        after: RecordName | None,
        account: str,
        records_per_second_max: int,
    ) -> AsyncIterator[RunProgress]:
        """
        Encrypt every record anew, telling how far it came.

        Args:
            caller: Who asks.
            after: Where an earlier run ended; None to begin at the first record.
            account: Only this account; "" for all.
            records_per_second_max: How fast to go.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        await self._audit(caller, account or PLATFORM, resumed=after is not None)
        remaining = await self._records.count_after(after, account=account)
        done = failed = 0
        pace = Pace(self._clock, records_per_second_max=records_per_second_max)
        while batch := await self._records.after(after, account=account, limit=BATCH_MAX):
            closed = await self._close_anew(batch)
            exchanged = await self._records.exchange_records(closed) if closed else 0
            last = batch[-1].binding
            after = RecordName(last.account, last.key_id, last.version)
            done, failed = done + exchanged, failed + len(batch) - exchanged
            remaining = max(0, remaining - len(batch))
            yield RunProgress(done, remaining, failed, after)
            await pace.keep(len(batch))
        yield RunProgress(done, 0, failed, after)

    async def _close_anew(self, batch: list[StoredSecret]) -> list[tuple[StoredSecret, Record]]:
        """Return the records that opened, each with its proven successor."""
        sound = await self._opened(batch)
        fresh = await asyncio.gather(*(self._successor(item, secret) for item, secret in sound))
        proofs = {proof.binding: secret for proof, secret in await self._opened(fresh)}
        proven = []
        for (item, secret), successor in zip(sound, fresh, strict=True):
            proof = proofs.get(successor.binding)
            if proof is not None and _equal(secret, proof):
                proven.append((item, successor.record))
            else:
                log.error("reencryption_not_proven", account=item.binding.account)
        return proven

    async def _opened(self, stored: Sequence[StoredSecret]) -> list[tuple[StoredSecret, Secret]]:
        """Return those that open; a key-encryption key that is away ends the run."""
        opened = []
        for item, result in zip(stored, await self._box.open_each(stored), strict=True):
            if isinstance(result, KekUnavailableError):
                raise result
            if isinstance(result, Secret):
                opened.append((item, result))
        return opened

    async def _successor(self, item: StoredSecret, secret: Secret) -> StoredSecret:
        binding = replace(item.binding, generation=item.binding.generation + 1)
        return StoredSecret(binding, await self._box.close(secret, binding))

    async def _audit(self, caller: Caller, account: str, *, resumed: bool) -> None:
        entry = AuditEntry(
            account=account,
            actor=caller.identity,
            action=AuditAction.REENCRYPT,
            details={"resumed": str(resumed).lower()},
        )

        async def work(change: AccountChange) -> None:
            await change.add_audit(entry)

        await self._store.change(account, work)


def _equal(first: Secret, second: Secret) -> bool:
    return hmac.compare_digest(first.reveal_bytes(), second.reveal_bytes())
