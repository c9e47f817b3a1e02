# SPDX-License-Identifier: Apache-2.0
"""Storing a key (K1-K3, K9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.credentials import hint_of
from services.keyvault.domain.envelope import Record
from services.keyvault.domain.health import LiveTest, of_new_version
from services.keyvault.domain.keys import (
    KEYS_PER_ACCOUNT_MAX,
    Key,
    KeyFields,
    check_provider,
)
from services.keyvault.domain.sealed_keys import ProvenRequest
from services.keyvault.errors import (
    KeyAlreadyExistsError,
    KeyLimitReachedError,
    SealedKeyFault,
    SealedKeyRefusedError,
)
from services.keyvault.usecases.idempotency import Caller, Fingerprinter, Once
from services.keyvault.usecases.live_tests import audit_details, probe_before_storing
from services.keyvault.usecases.ports import AccountChange, KeyStore, Prober, binding_of
from services.keyvault.usecases.sealed_secrets import Received, SealedSecrets, Submitted
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.clock import Clock
from services.shared.secret import Secret

FIRST_VERSION = 1
FIRST_GENERATION = 1


@dataclass(frozen=True, slots=True)
class TestedKey:
    """
    A key that was stored, and the live test before it.

    Args:
        key: As stored.
        test: What was found.
    """

    __test__ = False

    key: Key
    test: LiveTest


@dataclass(frozen=True, slots=True)
class NewKey:
    """
    A key to be stored.

    Args:
        account: Account id.
        key_id: Chosen id; "" for a random one.
        provider: Provider id.
        fields: What the caller set.
        submitted: The secret, in clear or sealed.
        store_unverified: Whether to store it although the provider could not be asked.
        client_held: Whether the customer's browser is to hold the secret.
    """

    account: str
    key_id: str
    provider: str
    fields: KeyFields
    submitted: Submitted
    store_unverified: bool
    client_held: bool = False


class CreateKey:
    """
    Stores keys.

    Args:
        store: Where keys are.
        prober: Makes live tests.
        box: Encrypts.
        sealed: Takes sealed secrets.
        fingerprinter: Recognises repeated requests.
        clock: Time.
        new_key_id: Makes a random key id.
    """

    def __init__(
        self,
        *,
        store: KeyStore,
        prober: Prober,
        box: SecretBox,
        sealed: SealedSecrets,
        fingerprinter: Fingerprinter,
        clock: Clock,
        new_key_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._prober = prober
        self._box = box
        self._sealed = sealed
        self._fingerprinter = fingerprinter
        self._clock = clock
        self._new_key_id = new_key_id

    async def __call__(self, caller: Caller, new: NewKey) -> TestedKey:
        """
        Store a key.

        Raises:
            ServiceError: As CreateKey of the contract says; then nothing was stored.
        """
        check_provider(new.provider, "key.provider")
        new.fields.check()
        if new.client_held and new.submitted.sealed is None:
            raise SealedKeyRefusedError(SealedKeyFault.MISSING)
        request = ProvenRequest(new.account, new.provider, caller.request_id)
        received = await self._sealed.receive(request, new.submitted)
        secret = received.secret
        once = self._once(caller, new, secret)
        draft = self._draft(new, received)
        entry = AuditEntry(
            account=draft.account,
            actor=caller.identity,
            action=AuditAction.CREATE,
            key_id=draft.key_id,
            version=draft.version,
            request_id=caller.request_id,
        )

        async def prepare(change: AccountChange) -> TestedKey | None:
            recorded = await once.recorded(change)
            if recorded is None:
                await _check_room(change, draft)
            return recorded

        # Before the provider is asked: a key that cannot be stored is not worth a call. Under the
        # lock, or an earlier try of this very request could look like another key of the name.
        recorded = await self._store.change(new.account, prepare)
        if recorded is not None:
            return recorded
        record = await close_version(self._box, draft, secret)
        await self._sealed.spend(
            request,
            received.proof,
            replace(entry, action=AuditAction.RELEASE, details={"purpose": "test"}),
        )
        test = await probe_before_storing(
            self._prober,
            new.provider,
            secret,
            fields=new.fields,
            store_unverified=new.store_unverified,
            now=draft.create_time,
        )

        async def work(change: AccountChange) -> TestedKey:
            recorded = await once.recorded(change)
            if recorded is not None:
                return recorded
            key = await _insert(change, draft, record, test)
            await change.add_audit(
                replace(entry, details={"provider": key.provider, **audit_details(test)})
            )
            change.announce()
            return await once.record(change, TestedKey(key, test))

        return await self._store.change(new.account, work)

    def _once(self, caller: Caller, new: NewKey, secret: Secret) -> Once[TestedKey]:
        return self._fingerprinter.once(
            caller,
            "CreateKey",
            TestedKey,
            key_id=new.key_id,
            provider=new.provider,
            label=new.fields.label,
            default_model=new.fields.default_model,
            allowed_models=new.fields.allowed_models,
            always_use=new.fields.always_use,
            order=new.fields.order,
            monthly_limit_nano_usd=new.fields.monthly_limit_nano_usd,
            secret=secret,
            store_unverified=new.store_unverified,
            client_held=new.client_held,
        )

    def _draft(self, new: NewKey, received: Received) -> Key:
        now = self._clock.now()
        return Key(
            account=new.account,
            key_id=new.key_id or self._new_key_id(),
            provider=new.provider,
            fields=new.fields,
            enabled=True,
            active=False,
            version=FIRST_VERSION,
            hint=hint_of(received.secret.reveal()),
            revision=1,
            create_time=now,
            update_time=now,
            read_time=now,
            secret_mac=(
                self._sealed.mac(new.account, new.provider, received) if new.client_held else None
            ),
        )


async def close_version(box: SecretBox, key: Key, secret: Secret) -> Record | None:
    """Encrypt the secret of a key's new version; None where the customer's browser holds it."""
    if key.client_held:
        return None
    return await box.close(secret, binding_of(key, generation=FIRST_GENERATION))


async def _check_room(change: AccountChange, draft: Key) -> list[Key]:
    """Refuse a name that was given before and a key too many; return the account's keys."""
    keys = await change.keys()
    if any(key.key_id == draft.key_id for key in keys):
        raise KeyAlreadyExistsError(draft.account, draft.key_id, deleted=False)
    if await change.was_deleted(draft.key_id):
        raise KeyAlreadyExistsError(draft.account, draft.key_id, deleted=True)
    if len(keys) >= KEYS_PER_ACCOUNT_MAX:
        raise KeyLimitReachedError(draft.account, KEYS_PER_ACCOUNT_MAX)
    return keys


async def _insert(change: AccountChange, draft: Key, record: Record | None, test: LiveTest) -> Key:
    keys = await _check_room(change, draft)
    key = replace(
        draft,
        # A provider's first key serves at once; so does one that finds the place empty.
        active=not any(other.active for other in keys if other.provider == draft.provider),
        create_time=change.time,
        update_time=change.time,
        read_time=change.time,
        health=of_new_version(test, now=change.time),
    )
    await change.insert_key(key, record)
    settings = change.settings
    if not settings.active_provider:
        await change.put_settings(
            replace(settings, active_provider=key.provider, revision=settings.revision + 1)
        )
    return key
