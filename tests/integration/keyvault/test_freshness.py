# SPDX-License-Identifier: Apache-2.0
"""
How soon routers learn that a key was withdrawn: several of them, on several keyvaults, with clocks
apart, one keyvault cut off from its database, and writers that commit in another order than they
began.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from services.router.adapters.keyvault_client import GrpcKeys
from services.shared.channel import open_channel
from services.shared.clock import SystemClock
from services.shared.errors import PeerUnavailableError
from services.shared.identity import ROUTER
from services.shared.secret import Secret
from tests.integration.keyvault.test_router_side import MAIN, Watch
from tests.support.keyvault import TOKENS, RunningKeyvault, database, running_keyvault
from tests.support.postgres_proxy import Cut, PostgresProxy

pytestmark = pytest.mark.requirement("K15")

ACCOUNT = "accounts/demo"
PROMISED_SECONDS = 1.0
WATCHED_SECONDS = 2.0
"""How long after the withdrawal the routers go on trying."""
APART = timedelta(hours=1)
ROUTERS = 4

ANNOUNCE = """
WITH head AS (UPDATE change_head SET sequence = sequence + 1 RETURNING sequence)
INSERT INTO changes (sequence, account_id) SELECT sequence, 'first' FROM head
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


class ApartClock(SystemClock):
    """
    The machine's clock, set and started at another time.

    Args:
        by: How far from the machine's.
    """

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        """Return the wall clock's time."""
        return super().now() + self._by

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return super().monotonic() + self._by.total_seconds()


class Using:
    """
    A router that begins one request after the other on a key.

    Args:
        keys: What it knows of keyvault.
    """

    def __init__(self, keys: GrpcKeys) -> None:
        self.begun: list[float] = []
        self.refused = 0
        self._keys = keys

    async def work(self) -> None:
        """Begin requests until cancelled."""
        while True:
            try:
                held = await self._keys.held(ACCOUNT)
            except PeerUnavailableError:
                self.refused += 1
            else:
                [key] = held.keys.keys
                asked = time.monotonic()
                if key.enabled and held.may_use(key):
                    assert held.secret(key).reveal()
                    self.begun.append(asked)
            await asyncio.sleep(0.01)

    async def begins(self, count: int = 10) -> None:
        """Return when it has begun so many requests."""
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def using(vaulted: RunningKeyvault, clock: SystemClock) -> AsyncIterator[Using]:
    """A router at work on a keyvault."""
    address = vaulted.address
    async with open_channel(address) as channel:
        keys = GrpcKeys(channel, token=Secret(TOKENS[ROUTER]), clock=clock)
        await keys.open()
        router = Using(keys)
        working = asyncio.create_task(router.work())
        try:
            yield router
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await keys.close()


async def test_no_router_begins_on_a_withdrawn_key_a_second_later_whatever_is_cut_or_apart(
    tmp_path: Path, keyvault_dsn: str
) -> None:
    """The keyring is one file: both keyvaults are one service to their callers."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        proxy = await enter(PostgresProxy(keyvault_dsn).serving())
        well = await enter(running_keyvault(tmp_path, keyvault_dsn, clock=ApartClock(-APART)))
        cut = await enter(running_keyvault(tmp_path, proxy.dsn, clock=ApartClock(APART)))
        await well.create(key_id="main")
        routers = {
            "well": await enter(using(well, SystemClock())),
            "ahead": await enter(using(well, ApartClock(APART))),
            "behind": await enter(using(well, ApartClock(-APART))),
            "cut off": await enter(using(cut, SystemClock())),
        }
        for router in routers.values():
            await router.begins()

        proxy.decide = lambda _: Cut.BEFORE
        await well.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        since = time.monotonic()
        await asyncio.sleep(WATCHED_SECONDS)

        last = {name: max(router.begun) - since for name, router in routers.items()}
        assert {name for name, after in last.items() if after > PROMISED_SECONDS} == set(), last
        # It failed closed: nobody could vouch for the key, nor for its absence.
        assert routers["cut off"].refused
        assert not routers["well"].refused

        begun = len(routers["cut off"].begun)
        proxy.decide = lambda _: None
        await well.stub.EnableKey(service_pb2.EnableKeyRequest(name=MAIN))
        await routers["cut off"].begins(begun + 1)


@pytest.mark.requirement("O7")
async def test_routers_of_a_keyvault_that_is_stopped_watch_another_one_within_the_second(
    tmp_path: Path, keyvault_dsn: str
) -> None:
    """Each router picks one of the two to watch: some watch the one that is stopped."""
    async with AsyncExitStack() as stack:
        stays = await stack.enter_async_context(running_keyvault(tmp_path, keyvault_dsn))
        await stays.create(key_id="main")
        async with running_keyvault(tmp_path, keyvault_dsn, DRAIN_SECONDS="600") as leaves:
            both = replace(stays, address=f"ipv4:{stays.address},{leaves.address}")
            routers = [
                await stack.enter_async_context(using(both, SystemClock())) for _ in range(ROUTERS)
            ]
            for router in routers:
                await router.begins()

        await stays.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        since = time.monotonic()
        await asyncio.sleep(WATCHED_SECONDS)

        assert max(router.begun[-1] for router in routers) - since <= PROMISED_SECONDS
        assert [router.refused for router in routers] == [0] * ROUTERS


@pytest.mark.parametrize(
    ("end", "told"),
    [("commit", {"accounts/first", "accounts/demo"}), ("rollback", {"accounts/demo"})],
)
async def test_a_writer_that_took_its_number_first_holds_later_ones_back_until_it_ends(
    vaulted: RunningKeyvault, end: str, told: set[str]
) -> None:
    await vaulted.create(key_id="main")
    watch = Watch(vaulted)
    await watch.ask()
    async with database(vaulted.dsn) as connection, database(vaulted.dsn) as observer:
        first = connection.transaction()
        await first.start()
        await connection.execute(ANNOUNCE)
        second = asyncio.ensure_future(
            vaulted.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        )
        async with asyncio.timeout(5):
            while not await observer.fetchval(WAITING):
                await asyncio.sleep(0.01)
        # A question is answered meanwhile, and no place past the unfinished change is given out.
        during = await watch.ask()
        assert list(during.changed_accounts) == []
        assert not second.done()

        await getattr(first, end)()
        await second
        after = await watch.ask()
    assert set(after.changed_accounts) == told
    assert after.position.sequence == during.position.sequence + len(told)
    assert list((await watch.ask()).changed_accounts) == []
