# SPDX-License-Identifier: Apache-2.0
"""Giving a key a new secret (K7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.credentials import hint_of
from services.keyvault.domain.health import of_new_version
from services.keyvault.domain.keys import Key
from services.keyvault.domain.sealed_keys import ProvenRequest
from services.keyvault.errors import EtagMismatchError, SealedKeyFault, SealedKeyRefusedError
from services.keyvault.usecases.create_key import TestedKey, close_version
from services.keyvault.usecases.idempotency import Caller, Fingerprinter
from services.keyvault.usecases.live_tests import audit_details, probe_before_storing
from services.keyvault.usecases.ports import AccountChange, KeyStore, Prober
from services.keyvault.usecases.read_keys import ReadKeys
from services.keyvault.usecases.sealed_secrets import Received, SealedSecrets, Submitted
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.errors import InvalidArgumentError

OVERLAP_MAX = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class NewSecret:
    """
    A new secret for a key.

    Args:
        account: Account id.
        key_id: Key id.
        submitted: The secret, in clear or sealed.
        store_unverified: Whether to store it although the provider could not be asked.
        overlap: How long the old secret may go on; None destroys it at once.
    """

    account: str
    key_id: str
    submitted: Submitted
    store_unverified: bool
    overlap: timedelta | None = None


class ReplaceKey:
    """
    Replaces secrets.

    Without an overlap the old one is destroyed in the same transaction. With one it stays beside
    the new one until the end; a replacement within an overlap ends that overlap, so there are never
    more than two. The new secret lives where the old one did.

    Args:
        store: Where keys are.
        reader: Reads them.
        prober: Makes live tests.
        box: Encrypts.
        sealed: Takes sealed secrets.
        fingerprinter: Recognises repeated requests.
    """

    def __init__(
        self,
        *,
        store: KeyStore,
        reader: ReadKeys,
        prober: Prober,
        box: SecretBox,
        sealed: SealedSecrets,
        fingerprinter: Fingerprinter,
    ) -> None:
        self._store = store
        self._reader = reader
        self._prober = prober
        self._box = box
        self._sealed = sealed
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
        received = await self._receive(caller, before, new)
        secret = received.secret
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
        draft = self._draft(before, received)
        about = AuditEntry(
            account=draft.account,
            actor=caller.identity,
            action=AuditAction.REPLACE,
            key_id=draft.key_id,
            version=draft.version,
            request_id=caller.request_id,
        )
        record = await close_version(self._box, draft, secret)
        await self._sealed.spend(
            ProvenRequest(before.account, before.provider, caller.request_id),
            received.proof,
            replace(about, action=AuditAction.RELEASE, details={"purpose": "test"}),
        )
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
                secret_mac=draft.secret_mac,
                revision=current.revision + 1,
                update_time=change.time,
                read_time=change.time,
                health=of_new_version(test, now=change.time),
                overlap_until=change.time + new.overlap if new.overlap else None,
            )
            destroyed = await change.replace_secret(key, record)
            await change.add_audit(replace(about, details=audit_details(test)))
            for version in destroyed:
                await change.add_audit(
                    replace(about, action=AuditAction.DESTROY_VERSION, version=version)
                )
            change.announce()
            return await once.record(change, TestedKey(key, test))

        return await self._store.change(new.account, work)

    async def _receive(self, caller: Caller, before: Key, new: NewSecret) -> Received:
        if before.client_held:
            if new.submitted.sealed is None:
                raise SealedKeyRefusedError(SealedKeyFault.MISSING)
            if new.overlap is not None:
                advice = "must be unset for a client-held key: the browser has the old one still"
                raise InvalidArgumentError.of("overlap_seconds", advice)
        request = ProvenRequest(before.account, before.provider, caller.request_id)
        return await self._sealed.receive(request, new.submitted)

    def _draft(self, before: Key, received: Received) -> Key:
        mac = self._sealed.mac(before.account, before.provider, received)
        return replace(
            before,
            version=before.version + 1,
            hint=hint_of(received.secret.reveal()),
            secret_mac=mac if before.client_held else None,
        )
