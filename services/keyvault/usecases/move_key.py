# SPDX-License-Identifier: Apache-2.0
"""
Moving a key's secret between the server and the customer's browser (K10).

A move makes a new version that lives elsewhere; the secret, its health and its fields stay. To the
browser, the stored secret goes on for a short overlap: what was begun with it may end, and a caller
who lost the answer may repeat the call and have the key sealed again. Then the server's copy is
destroyed as that of any overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.envelope import Record
from services.keyvault.domain.keys import Key
from services.keyvault.domain.sealed_keys import (
    Proof,
    ProvenRequest,
    SealedSecret,
    check_signature,
)
from services.keyvault.domain.sealing import SealedBlob, SealingSuite
from services.keyvault.errors import (
    EtagMismatchError,
    KeyNotFoundError,
    WrongResidenceError,
)
from services.keyvault.usecases.create_key import FIRST_GENERATION
from services.keyvault.usecases.idempotency import Caller, Fingerprinter, Once
from services.keyvault.usecases.ports import (
    AccountChange,
    AccountSnapshot,
    KeyStore,
    binding_of,
)
from services.keyvault.usecases.sealed_secrets import Received, SealedSecrets, Submitted
from services.keyvault.usecases.stored_secrets import SecretBox

OVERLAP = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ToClient:
    """
    A browser that is to hold a key.

    Args:
        signing_key: Its public signing key.
        suite: The suite to seal with.
        proof: Its proof over the request.
    """

    signing_key: bytes
    suite: SealingSuite
    proof: Proof


class MoveKey:
    """
    Moves keys.

    Args:
        store: Where keys are.
        box: Encrypts and opens.
        sealed: Seals and takes sealed secrets.
        fingerprinter: Recognises repeated requests.
    """

    def __init__(
        self,
        *,
        store: KeyStore,
        box: SecretBox,
        sealed: SealedSecrets,
        fingerprinter: Fingerprinter,
    ) -> None:
        self._store = store
        self._box = box
        self._sealed = sealed
        self._fingerprinter = fingerprinter

    async def to_server(
        self, caller: Caller, account: str, key_id: str, submitted: Submitted
    ) -> Key:
        """
        Store the secret of a client-held key.

        Raises:
            ServiceError: As MoveKey of the contract says; then it lives where it did.
        """
        once = self._fingerprinter.once(caller, "MoveKey", Key, name=key_id, residence="SERVER")
        recorded = await once.recorded_before(self._store, account)
        if recorded is not None:
            return recorded
        before, _ = await self._read(account, key_id)
        received = await self._sealed.receive_for(before, caller.request_id, submitted)
        request = ProvenRequest(before.account, before.provider, caller.request_id)
        entry = replace(_entry(caller, before), action=AuditAction.RELEASE)
        await self._sealed.spend(request, received.proof, entry)
        after = replace(before, version=before.version + 1, secret_mac=None)
        record = await self._box.close(
            received.secret, binding_of(after, generation=FIRST_GENERATION)
        )
        return await self._keep(caller, once, before, after, record=record)

    async def to_client(
        self, caller: Caller, account: str, key_id: str, to: ToClient
    ) -> tuple[Key, SealedBlob | None]:
        """
        Seal the stored secret of a key to a browser.

        Returns:
            The key, and it sealed; None in a repeat that comes after the overlap.

        Raises:
            ServiceError: As MoveKey of the contract says; then it lives where it did.
        """
        once = self._fingerprinter.once(
            caller,
            "MoveKey",
            Key,
            name=key_id,
            residence="CLIENT_HELD",
            signing_key=to.signing_key.hex(),
            suite=to.suite,
        )
        before, found = await self._read(account, key_id)
        recorded = await once.recorded_before(self._store, account)
        if recorded is not None:
            return recorded, await self._sealed_again(caller, to, recorded, found)
        if before.client_held:
            raise WrongResidenceError(before.account, before.key_id, client_held=True)
        request = ProvenRequest(before.account, before.provider, caller.request_id)
        await self._sealed.check_proof(request, to.proof, to.signing_key)
        secret = await self._box.open(found.secret_of(before))
        content = SealedSecret(before.account, before.provider, to.signing_key, secret)
        blob = await self._sealed.seal(to.suite, content)
        entry = replace(_entry(caller, before), action=AuditAction.RELEASE)
        await self._sealed.spend(request, to.proof, entry)
        after = replace(
            before,
            version=before.version + 1,
            secret_mac=self._sealed.mac(before.account, before.provider, Received(secret)),
        )
        return await self._keep(caller, once, before, after, record=None), blob

    async def _sealed_again(
        self, caller: Caller, to: ToClient, recorded: Key, found: AccountSnapshot
    ) -> SealedBlob | None:
        """
        Seal what the overlap still holds, for the browser that the first call was for.

        The request's fingerprint holds its signing key, so a repeat cannot name another's; the
        first call's proof, though spent, still tells that it is that browser's.
        """
        previous = found.previous.get(recorded.key_id)
        if previous is None or previous.binding.version != recorded.version - 1:
            return None
        request = ProvenRequest(recorded.account, recorded.provider, caller.request_id)
        check_signature(request, to.proof, to.signing_key)
        secret = await self._box.open(previous)
        content = SealedSecret(recorded.account, recorded.provider, to.signing_key, secret)
        return await self._sealed.seal(to.suite, content)

    async def _keep(
        self, caller: Caller, once: Once[Key], before: Key, after: Key, *, record: Record | None
    ) -> Key:
        async def work(change: AccountChange) -> Key:
            recorded = await once.recorded(change)
            if recorded is not None:
                return recorded
            current = await change.key(before.key_id)
            if current.version != before.version:
                # The record is bound to a version that someone else took meanwhile.
                raise EtagMismatchError(current.name)
            key = replace(
                current,
                version=after.version,
                secret_mac=after.secret_mac,
                revision=current.revision + 1,
                update_time=change.time,
                read_time=change.time,
                overlap_until=change.time + OVERLAP if after.client_held else None,
            )
            destroyed = await change.replace_secret(key, record)
            await change.add_audit(_entry(caller, key))
            for version in destroyed:
                gone = replace(_entry(caller, key), action=AuditAction.DESTROY_VERSION)
                await change.add_audit(replace(gone, version=version, details={}))
            change.announce()
            return await once.record(change, key)

        return await self._store.change(before.account, work)

    async def _read(self, account: str, key_id: str) -> tuple[Key, AccountSnapshot]:
        [found] = (await self._store.snapshot([account], secrets=True)).accounts
        for key in found.keys:
            if key.key_id == key_id:
                return key, found
        raise KeyNotFoundError(account, key_id)


def _entry(caller: Caller, key: Key) -> AuditEntry:
    return AuditEntry(
        account=key.account,
        actor=caller.identity,
        action=AuditAction.MOVE,
        key_id=key.key_id,
        version=key.version,
        request_id=caller.request_id,
        details={"residence": "CLIENT_HELD" if key.client_held else "SERVER"},
    )
