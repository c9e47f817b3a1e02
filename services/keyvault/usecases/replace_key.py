# SPDX-License-Identifier: Apache-2.0
"""Giving a key a new secret (K7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.credentials import clean_secret, hint_of
from services.keyvault.domain.health import of_new_version
from services.keyvault.errors import EtagMismatchError
from services.keyvault.usecases.create_key import FIRST_GENERATION, TestedKey
from services.keyvault.usecases.idempotency import Caller, Fingerprinter
from services.keyvault.usecases.live_tests import audit_details, probe_before_storing
from services.keyvault.usecases.ports import AccountChange, KeyStore, Prober, binding_of
from services.keyvault.usecases.read_keys import ReadKeys
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.errors import InvalidArgumentError
from services.shared.secret import Secret

OVERLAP_MAX = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class NewSecret:
    """
    A new secret for a key.

    Args:
        account: Account id.
        key_id: Key id.
        pasted: The secret as pasted.
        store_unverified: Whether to store it although the provider could not be asked.
        overlap: How long the old secret may go on; None destroys it at once.
    """

    account: str
    key_id: str
    pasted: Secret
    store_unverified: bool
    overlap: timedelta | None = None


class ReplaceKey:
    """
    Replaces secrets.

    Without an overlap the old one is destroyed in the same transaction. With one it stays beside
    the new one until the end; a replacement within an overlap ends that overlap, so there are never
    more than two.

    Args:
        store: Where keys are.
        reader: Reads them.
        prober: Makes live tests.
        box: Encrypts.
        fingerprinter: Recognises repeated requests.
    """

    def __init__(
        self,
        *,
        store: KeyStore,
        reader: ReadKeys,
        prober: Prober,
        box: SecretBox,
        fingerprinter: Fingerprinter,
    ) -> None:
        self._store = store
        self._reader = reader
        self._prober = prober
        self._box = box
        self._fingerprinter = fingerprinter

    async def __call__(self, caller: Caller, new: NewSecret) -> TestedKey:
        """
        Replace a key's secret.

        Raises:
            ServiceError: As ReplaceKey of the contract says; then the old secret stands.
        """
        if new.overlap is not None and not timedelta(0) < new.overlap <= OVERLAP_MAX:
            advice = f"must be from 1 to {OVERLAP_MAX // timedelta(seconds=1)}, or unset"
            raise InvalidArgumentError.of("overlap_seconds", advice)
        before = await self._reader.key(new.account, new.key_id)
        secret = Secret(clean_secret(new.pasted.reveal(), before.provider))
        once = self._fingerprinter.once(
            caller,
            "ReplaceKey",
            TestedKey,
            name=new.key_id,
            secret=secret,
            store_unverified=new.store_unverified,
            overlap=new.overlap // timedelta(seconds=1) if new.overlap else 0,
        )
        recorded = await once.recorded_before(self._store, new.account)
        if recorded is not None:
            return recorded
        draft = replace(before, version=before.version + 1, hint=hint_of(secret.reveal()))
        record = await self._box.close(secret, binding_of(draft, generation=FIRST_GENERATION))
        test = await probe_before_storing(
            self._prober,
            before.provider,
            secret,
            fields=before.fields,
            store_unverified=new.store_unverified,
            now=before.read_time,
        )

        async def work(change: AccountChange) -> TestedKey:
            recorded = await once.recorded(change)
            if recorded is not None:
                return recorded
            current = await change.key(new.key_id)
            if current.version != before.version:
                # The record is bound to a version that someone else took meanwhile.
                raise EtagMismatchError(current.name)
            key = replace(
                current,
                version=draft.version,
                hint=draft.hint,
                revision=current.revision + 1,
                update_time=change.time,
                read_time=change.time,
                health=of_new_version(test, now=change.time),
                overlap_until=change.time + new.overlap if new.overlap else None,
            )
            destroyed = await change.replace_secret(key, record)
            about = AuditEntry(
                account=key.account,
                actor=caller.identity,
                action=AuditAction.REPLACE,
                key_id=key.key_id,
                version=key.version,
                request_id=caller.request_id,
                details=audit_details(test),
            )
            await change.add_audit(about)
            for version in destroyed:
                await change.add_audit(
                    replace(about, action=AuditAction.DESTROY_VERSION, version=version, details={})
                )
            change.announce()
            return await once.record(change, TestedKey(key, test))

        return await self._store.change(new.account, work)
