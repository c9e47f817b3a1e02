# SPDX-License-Identifier: Apache-2.0
"""
A real Vault, sealed or away: secrets that are open live on until the cache's age limit, nothing new
is stored, and everything works again by itself.

Vault is started from the test's own thread: what a thread has started is stopped when that thread
ends (PR_SET_PDEATHSIG of prctl(2)).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator

import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import kek_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import account_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from deploy.local.vault import LocalVault
from services.shared.identity import call_metadata
from services.shared.ids import new_id
from services.shared.secret import Secret
from tests.e2e.support import (
    OWN_KEY,
    StoredKey,
    add_key,
    balance,
    clients_of,
    create_key,
    disable_key,
    eventually,
    generate,
    list_keys,
    new_account,
    new_secret,
    recorded_requests,
    running_suite,
)
from tests.e2e.witness import refused, whole

pytestmark = [pytest.mark.timeout(180), pytest.mark.requirement("K9")]

CACHE_SECONDS = 6
BACK_SECONDS_MAX = 30.0
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
KEK_UNAVAILABLE = (UNAVAILABLE, "KEK_UNAVAILABLE")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite on a real Vault, whose keyvault forgets what it has unwrapped soon."""
    settings = {"keyvault": {"CACHE_SECONDS": str(CACHE_SECONDS), "CACHE_GRACE_SECONDS": "1"}}
    folder = tmp_path_factory.mktemp("vault-outages") / "state"
    with running_suite(folder, kek="vault", environ=settings) as running:
        yield running


class Outage:
    """
    A way for Vault to be of no use.

    Args:
        name: `sealed` or `away`.
        vault: The server.
    """

    def __init__(self, name: str, vault: LocalVault) -> None:
        self.cause = {"sealed": "SEALED", "away": "UNREACHABLE"}[name]
        self._sealed = name == "sealed"
        self._vault = vault

    def begin(self) -> None:
        """Seals or stops it."""
        if self._sealed:
            self._vault.seal()
        else:
            self._vault.stop()

    def end(self) -> None:
        """Unseals or starts it; nobody tells keyvault."""
        if self._sealed:
            self._vault.unseal()
        else:
            self._vault.start()


@pytest.fixture(params=["sealed", "away"])
def outage(request: pytest.FixtureRequest, suite: Suite) -> Outage:
    """Either way."""
    assert suite.vault is not None
    return Outage(request.param, suite.vault)


async def resolved(suite: Suite, clients: Clients, account: str) -> resolution_pb2.ResolvedKey:
    """What the router gets from keyvault: the account's one key, opened or not."""
    answer = await clients.keyvault.ResolveKeys(
        resolution_pb2.ResolveKeysRequest(accounts=[account]),
        metadata=call_metadata(Secret(suite.state.token("router"))),
        timeout=10,
    )
    (found,) = answer.accounts[0].keys
    return found


async def writes(clients: Clients, account: str, key: StoredKey) -> list[Awaitable[object]]:
    """Every call that stores or opens a secret anew."""
    return [
        create_key(clients, account, new_secret()),
        create_key(clients, account, new_secret(), store_unverified=True),
        clients.keyvault.ReplaceKey(
            kv.ReplaceKeyRequest(name=key.name, secret=new_secret(), request_id=new_id())
        ),
    ]


class TestVaultOutage:
    @pytest.mark.requirement("K1", "K4", "K7", "R9", "R11")
    async def test_reads_live_on_for_a_while_writes_stop_and_all_comes_back(
        self, suite: Suite, outage: Outage
    ) -> None:
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
            key = await add_key(clients, account)
            opened = time.monotonic()
            # The shared keys are open too from here on: a request may need them.
            assert (await generate(clients, account)).receipt.payer == OWN_KEY
            outage.begin()
            try:
                await self._reads_live_on(suite, clients, account, key, opened + CACHE_SECONDS)
                await self._writes_stop(clients, account, key, outage)
                await self._told(clients, available=False)
                await self._nothing_is_read_as_no_key(suite, clients, account, key, outage)
            finally:
                outage.end()
            await self._back(suite, clients, account, key)

    @staticmethod
    async def _reads_live_on(
        suite: Suite, clients: Clients, account: str, key: StoredKey, until: float
    ) -> None:
        """What was opened serves for as long as the age limit lets it for sure."""
        found = await resolved(suite, clients, account)
        assert found.secret == key.secret or time.monotonic() >= until
        try:
            answer = await generate(clients, account)
        except grpc.aio.AioRpcError:
            assert time.monotonic() >= until
        else:
            assert answer.receipt.payer == OWN_KEY
        assert [found.name for found in await list_keys(clients, account)] == [key.name]

    @staticmethod
    async def _writes_stop(clients: Clients, account: str, key: StoredKey, outage: Outage) -> None:
        before = await whole(clients, account)
        for call in await writes(clients, account, key):
            status = await refused(call)
            assert (status.code, status.reason) == KEK_UNAVAILABLE
            assert status.metadata["cause"] == outage.cause
            assert status.retry_after_seconds
        assert before.differences(await whole(clients, account)) == []

    @staticmethod
    async def _told(clients: Clients, *, available: bool) -> None:
        answer = await clients.keyvault.GetKekStatus(
            kv.GetKekStatusRequest(), metadata=clients.operator, timeout=10
        )
        status: kek_pb2.KekStatus = answer.status
        assert status.available is available
        assert bool(status.reason) is not available

    @staticmethod
    async def _nothing_is_read_as_no_key(
        suite: Suite, clients: Clients, account: str, key: StoredKey, outage: Outage
    ) -> None:
        """Past the age limit a secret is not opened, and the request not paid by credits."""

        async def forgotten() -> bool:
            return (await resolved(suite, clients, account)).secret != key.secret

        await eventually(forgotten, seconds=CACHE_SECONDS + BACK_SECONDS_MAX)
        found = await resolved(suite, clients, account)
        assert (found.secret, found.unavailable_cause) == ("", outage.cause)
        # A change makes the router forget its copy, and it cannot get another.
        await clients.keyvault.UpdateSettings(
            kv.UpdateSettingsRequest(
                settings={"name": f"{account}/settings", "use_backups": True},
                update_mask={"paths": ["use_backups"]},
            )
        )
        before = await balance(clients, account)

        async def refuses() -> bool:
            try:
                await generate(clients, account)
            except grpc.aio.AioRpcError:
                return True
            return False

        await eventually(refuses)
        sent = len(await recorded_requests(clients, key.secret))
        status = await refused(generate(clients, account))
        assert (status.code, status.reason) == (UNAVAILABLE, "OWN_KEYS_UNKNOWN")
        assert status.retry_after_seconds
        assert len(await recorded_requests(clients, key.secret)) == sent
        after = await balance(clients, account)
        assert after.posted_nano_credits == before.posted_nano_credits
        assert after.reserved_nano_credits == 0

    async def _back(self, suite: Suite, clients: Clients, account: str, key: StoredKey) -> None:
        async def opens() -> bool:
            return (await resolved(suite, clients, account)).secret == key.secret

        async def stores() -> bool:
            try:
                await create_key(clients, await new_account(clients), new_secret())
            except grpc.aio.AioRpcError as failure:
                if failure.code() is not UNAVAILABLE:
                    raise
                return False
            return True

        await eventually(opens, seconds=BACK_SECONDS_MAX)
        await eventually(stores, seconds=BACK_SECONDS_MAX)
        answer = await generate(clients, account)
        assert answer.receipt.payer == OWN_KEY
        await self._told(clients, available=True)

    @pytest.mark.requirement("K6", "K7", "K15")
    async def test_a_key_can_be_withdrawn_all_the_same(self, suite: Suite, outage: Outage) -> None:
        """Revocation needs no key-encryption key and wins over every cache."""
        async with clients_of(suite) as clients:
            account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
            key = await add_key(clients, account)
            other = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
            deleted = await add_key(clients, other)
            for name in (account, other):
                assert (await generate(clients, name)).receipt.payer == OWN_KEY
            outage.begin()
            try:
                await disable_key(clients, key)
                await clients.keyvault.DeleteKey(
                    kv.DeleteKeyRequest(name=deleted.name, request_id=new_id())
                )
                await asyncio.sleep(1)  # What K15 allows.
                for name, secret in ((account, key.secret), (other, deleted.secret)):
                    sent = len(await recorded_requests(clients, secret))
                    status = await refused(generate(clients, name))
                    assert status.reason in {"NO_USABLE_OWN_KEY", "PEER_UNAVAILABLE"}
                    assert len(await recorded_requests(clients, secret)) == sent
            finally:
                outage.end()

            async def says_why() -> bool:
                return (await refused(generate(clients, account))).reason == "NO_USABLE_OWN_KEY"

            await eventually(says_why, seconds=BACK_SECONDS_MAX)
