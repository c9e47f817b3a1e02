# SPDX-License-Identifier: Apache-2.0
"""
Keyvault cut off from its database at each exchange of an operation, before or after its effect:
what is committed always opens, and the same request sent again brings the operation to its end.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from tests.support.clock import RestingClock
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    running_keyvault,
)
from tests.support.postgres_proxy import Cut, Exchange, PostgresProxy

pytestmark = pytest.mark.requirement("K7", "K9", "K12")

NEW_KEY = "sk-proj-newnewnewnewnewnewnewnew0123456789ABCD"
EXCHANGES_MAX = 200
"""More than any operation here needs."""


@dataclass
class Crashing:
    """
    A keyvault behind a proxy.

    Args:
        vaulted: The keyvault.
        proxy: Between it and its database.
    """

    vaulted: RunningKeyvault
    proxy: PostgresProxy

    async def cut_at(self, number: int, cut: Cut, work: Callable[[], Awaitable[object]]) -> bool:
        """Do some work whose n-th exchange is the connection's last; tell whether there is one."""
        numbers = itertools.count(1)
        reached = False

        def decide(_: Exchange) -> Cut | None:
            nonlocal reached
            if next(numbers) != number:
                return None
            reached = True
            return cut

        self.proxy.decide = decide
        try:
            await work()
        except grpc.aio.AioRpcError as fault:
            if fault.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        finally:
            self.proxy.decide = lambda _: None
        return reached

    async def secrets(self, account: str) -> list[str]:
        """Return an account's secrets; a key that does not open has none."""
        [found] = (await self.vaulted.resolve(account)).accounts
        return [item.secret for item in found.keys]


@pytest.fixture
async def crashing(tmp_path: Path, keyvault_dsn: str) -> AsyncIterator[Crashing]:
    """A keyvault whose own work in the background has come to rest."""
    async with (
        PostgresProxy(keyvault_dsn).serving() as proxy,
        running_keyvault(tmp_path, proxy.dsn, clock=RestingClock()) as vaulted,
    ):
        yield Crashing(vaulted, proxy)


Work = Callable[[], Awaitable[object]]


async def creating(vaulted: RunningKeyvault, account: str) -> Work:
    request_id = new_request_id()
    return lambda: vaulted.create(account=account, key_id="main", request_id=request_id)


async def replacing(vaulted: RunningKeyvault, account: str) -> Work:
    await vaulted.create(account=account, key_id="main")
    request = service_pb2.ReplaceKeyRequest(
        name=f"accounts/{account}/keys/main", secret=NEW_KEY, request_id=new_request_id()
    )
    return lambda: vaulted.stub.ReplaceKey(request)


async def deleting(vaulted: RunningKeyvault, account: str) -> Work:
    await vaulted.create(account=account, key_id="main")
    request = service_pb2.DeleteKeyRequest(
        name=f"accounts/{account}/keys/main", request_id=new_request_id()
    )
    return lambda: vaulted.stub.DeleteKey(request)


async def rewrapping(vaulted: RunningKeyvault, account: str) -> Work:
    await vaulted.create(account=account, key_id="main")
    await vaulted.stub.RotateKek(
        service_pb2.RotateKekRequest(request_id=new_request_id()), metadata=vaulted.as_operator
    )

    async def work() -> None:
        request = service_pb2.RewrapKeysRequest(records_per_second_max=100_000)
        async for _ in vaulted.stub.RewrapKeys(request, metadata=vaulted.as_operator):
            pass

    return work


async def reencrypting(vaulted: RunningKeyvault, account: str) -> Work:
    await vaulted.create(account=account, key_id="main")

    async def work() -> None:
        request = service_pb2.ReencryptKeysRequest(
            account=f"accounts/{account}", records_per_second_max=100_000
        )
        async for _ in vaulted.stub.ReencryptKeys(request, metadata=vaulted.as_operator):
            pass

    return work


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
@pytest.mark.parametrize(
    ("begin", "before", "after"),
    [
        (creating, [], [OPENAI_KEY]),
        (replacing, [OPENAI_KEY], [NEW_KEY]),
        (deleting, [OPENAI_KEY], []),
        (rewrapping, [OPENAI_KEY], [OPENAI_KEY]),
        (reencrypting, [OPENAI_KEY], [OPENAI_KEY]),
    ],
)
async def test_wherever_it_is_cut_off_what_is_committed_opens_and_a_repeat_ends_it(
    crashing: Crashing,
    begin: Callable[[RunningKeyvault, str], Awaitable[Work]],
    before: list[str],
    after: list[str],
    cut: Cut,
) -> None:
    for number in range(1, EXCHANGES_MAX):
        account = f"account-{number}"
        work = await begin(crashing.vaulted, account)
        reached = await crashing.cut_at(number, cut, work)
        assert await crashing.secrets(account) in (before, after)

        await work()
        assert await crashing.secrets(account) == after
        if not reached:
            break
    assert number > 3
    assert not reached


@pytest.mark.requirement("K13")
@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_no_secret_leaves_whose_release_is_not_in_the_trail(
    crashing: Crashing, cut: Cut
) -> None:
    vaulted = crashing.vaulted
    await vaulted.create(key_id="main")
    answered = 0

    async def resolving() -> None:
        nonlocal answered
        await vaulted.resolve()
        answered += 1

    reached, number = True, 0
    while reached and number < EXCHANGES_MAX:
        number += 1
        reached = await crashing.cut_at(number, cut, resolving)
        async with database(crashing.proxy.server_dsn) as connection:
            released = await connection.fetchval(
                "SELECT count(*) FROM audit_events WHERE action = 'RELEASE'"
            )
        assert answered <= released
    assert answered == 1
