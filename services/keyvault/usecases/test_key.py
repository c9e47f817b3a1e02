# SPDX-License-Identifier: Apache-2.0
"""Live tests of keys: asked for by people (K4), or to confirm a report (K14)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.health import LiveTest, after_test
from services.keyvault.domain.keys import Key
from services.keyvault.domain.sealed_keys import ProvenRequest
from services.keyvault.errors import KeyNotFoundError, WrongResidenceError
from services.keyvault.usecases.background import start_detached
from services.keyvault.usecases.create_key import TestedKey
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.live_tests import audit_details
from services.keyvault.usecases.ports import AccountChange, AccountSnapshot, KeyStore, Prober
from services.keyvault.usecases.releases import Releases
from services.keyvault.usecases.sealed_secrets import SealedSecrets, Submitted
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.errors import ServiceError
from services.shared.logging import get_logger
from services.shared.secret import Secret

CONFIRMATIONS_MAX = 64

log = get_logger()


class TestKey:
    """
    Tests keys and sets their health by what was found.

    Args:
        store: Where keys are.
        prober: Makes live tests.
        box: Opens stored secrets.
        sealed: Takes sealed ones.
        releases: Records that a secret goes to the router for the test.
    """

    __test__ = False

    def __init__(
        self,
        *,
        store: KeyStore,
        prober: Prober,
        box: SecretBox,
        sealed: SealedSecrets,
        releases: Releases,
    ) -> None:
        self._store = store
        self._prober = prober
        self._box = box
        self._sealed = sealed
        self._releases = releases

    async def __call__(self, caller: Caller, account: str, key_id: str) -> TestedKey:
        """
        Test a stored key.

        Raises:
            ServiceError: As TestKey of the contract says.
        """
        tested, found = await self._read(account, key_id)
        if tested.client_held:
            raise WrongResidenceError(account, key_id, client_held=True)
        secret = await self._box.open(found.secret_of(tested))
        about = _release(caller, tested)
        await self._releases.record([about])
        return await self._test(tested, secret, about)

    async def sealed(
        self, caller: Caller, account: str, key_id: str, submitted: Submitted
    ) -> TestedKey:
        """
        Test a client-held key.

        Raises:
            ServiceError: As TestKey of the contract says.
        """
        tested, _ = await self._read(account, key_id)
        received = await self._sealed.receive_for(tested, caller.request_id, submitted)
        about = _release(caller, tested)
        request = ProvenRequest(account, tested.provider, caller.request_id)
        await self._sealed.spend(request, received.proof, about)
        return await self._test(tested, received.secret, about)

    async def _read(self, account: str, key_id: str) -> tuple[Key, AccountSnapshot]:
        [found] = (await self._store.snapshot([account], secrets=True)).accounts
        for key in found.keys:
            if key.key_id == key_id:
                return key, found
        raise KeyNotFoundError(account, key_id)

    async def _test(self, tested: Key, secret: Secret, about: AuditEntry) -> TestedKey:
        test = await self._prober.probe(
            tested.provider,
            secret,
            default_model=tested.fields.default_model,
            allowed_models=tested.fields.allowed_models,
        )

        async def work(change: AccountChange) -> Key:
            key = await change.key(tested.key_id)
            await change.add_audit(
                replace(about, action=AuditAction.TEST, details=audit_details(test))
            )
            if key.version != tested.version:
                return key
            return await _settle(change, key, test)

        return TestedKey(await self._store.change(tested.account, work), test)


class Confirmations:
    """
    Confirms reports by live tests, in the background and a bounded number at once.

    Args:
        test_key: Makes the tests.
    """

    def __init__(self, test_key: TestKey) -> None:
        self._test_key = test_key
        self._running: set[asyncio.Task[None]] = set()

    @property
    def has_room(self) -> bool:
        """Whether another one can be started."""
        return len(self._running) < CONFIRMATIONS_MAX

    def start(self, caller: Caller, account: str, key_id: str) -> None:
        """Begin to confirm a report."""
        task = start_detached(self._confirm(caller, account, key_id))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Await those under way."""
        await asyncio.gather(*self._running)

    async def _confirm(self, caller: Caller, account: str, key_id: str) -> None:
        try:
            tested = await self._test_key(caller, account, key_id)
        except ServiceError as fault:
            # The key stays as it is; the next report asks again.
            log.warning(
                "confirmation_failed",
                account=account,
                key_id=key_id,
                error=type(fault).__name__,
            )
        else:
            log.info(
                "confirmed",
                account=account,
                key_id=key_id,
                version=tested.key.version,
                result=tested.test.result.value,
            )


def _release(caller: Caller, key: Key) -> AuditEntry:
    return AuditEntry(
        account=key.account,
        actor=caller.identity,
        action=AuditAction.RELEASE,
        key_id=key.key_id,
        version=key.version,
        request_id=caller.request_id,
        details={"purpose": "test"},
    )


async def _settle(change: AccountChange, key: Key, test: LiveTest) -> Key:
    decision = after_test(key.health, test, now=change.time)
    if not decision.changed:
        return key
    changed = replace(key, health=decision.entries)
    await change.put_health(changed)
    change.announce()
    return changed
