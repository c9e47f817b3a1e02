# SPDX-License-Identifier: Apache-2.0
"""
A keyvault's process killed at points that chance chooses, while keys are created, replaced, deleted
and rewrapped: what was answered stands, every key opens, and what was cut off can be ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2_grpc
from ownkey.router.v1 import router_service_pb2_grpc

from deploy.local.processes import free_port
from services.shared.channel import open_channel
from tests.support.keyvault import (
    OPENAI_KEY,
    FakeRouter,
    RunningKeyvault,
    new_request_id,
    write_environ,
)

KILLS = 3
WORKERS = 4
SECONDS_MIN, SECONDS_MAX = 0.15, 0.6
"""How long it works before it is killed."""
READY_SECONDS = 30.0
CALL_SECONDS = 20.0
ACCOUNTS_PER_CALL = 64
NEW_KEY = "sk-proj-newnewnewnewnewnewnewnew0123456789ABCD"

Repeat = Callable[[RunningKeyvault], Awaitable[object]]


@dataclass
class Journal:
    """What was asked for and answered."""

    secrets: dict[str, str | None] = field(default_factory=dict)
    """By account: the secret that its key has by the last answer; None where it has no key."""
    cut_off: dict[str, tuple[str | None, Repeat]] = field(default_factory=dict)
    """By account: the secret that a change without an answer leads to, and the same call again."""

    async def do(
        self, vaulted: RunningKeyvault, account: str, secret: str | None, call: Repeat
    ) -> None:
        """Make a change and note its answer."""
        self.secrets.setdefault(account, None)
        self.cut_off[account] = (secret, call)
        await call(vaulted)
        self.secrets[account] = self.cut_off.pop(account)[0]


@asynccontextmanager
async def process(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A keyvault's process, killed at the end if it was not before."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.keyvault", "serve"),
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.kill()
        await program.wait()


def creating(account: str) -> Repeat:
    request_id = new_request_id()
    return lambda vaulted: vaulted.create(account=account, key_id="main", request_id=request_id)


def replacing(account: str) -> Repeat:
    request = service_pb2.ReplaceKeyRequest(
        name=f"accounts/{account}/keys/main", secret=NEW_KEY, request_id=new_request_id()
    )
    return lambda vaulted: vaulted.stub.ReplaceKey(request, timeout=CALL_SECONDS)


def deleting(account: str) -> Repeat:
    request = service_pb2.DeleteKeyRequest(
        name=f"accounts/{account}/keys/main", request_id=new_request_id()
    )
    return lambda vaulted: vaulted.stub.DeleteKey(request, timeout=CALL_SECONDS)


async def change_keys(vaulted: RunningKeyvault, journal: Journal, *, prefix: str) -> None:
    """Create, replace and delete keys until the process is gone."""
    number = 0
    while True:
        number += 1
        account = f"{prefix}-{number}"
        await journal.do(vaulted, account, OPENAI_KEY, creating(account))
        if number % 3:
            await journal.do(vaulted, account, NEW_KEY, replacing(account))
        if number % 3 == 1:
            await journal.do(vaulted, account, None, deleting(account))


async def rotate_and_rewrap(vaulted: RunningKeyvault) -> None:
    """Rotate and rewrap until the process is gone."""
    while True:
        request = service_pb2.RotateKekRequest(request_id=new_request_id())
        await vaulted.stub.RotateKek(request, metadata=vaulted.as_operator)
        await rewrap(vaulted)


async def rewrap(vaulted: RunningKeyvault) -> None:
    request = service_pb2.RewrapKeysRequest(records_per_second_max=100_000)
    async for _ in vaulted.stub.RewrapKeys(request, metadata=vaulted.as_operator):
        pass


async def secrets(vaulted: RunningKeyvault, accounts: list[str]) -> dict[str, str | None]:
    """Return each account's secret: "" for a key that does not open, None for no key."""
    found: dict[str, str | None] = {}
    for first in range(0, len(accounts), ACCOUNTS_PER_CALL):
        names = accounts[first : first + ACCOUNTS_PER_CALL]
        answer = await vaulted.resolve(*names)
        for name, account in zip(names, answer.accounts, strict=True):
            found[name] = account.keys[0].secret if account.keys else None
    return found


async def check(vaulted: RunningKeyvault, journal: Journal) -> None:
    """Hold what is stored against the journal, then end what was cut off."""
    found = await secrets(vaulted, list(journal.secrets))
    for account, secret in journal.secrets.items():
        allowed = {secret, *(after for after, _ in [journal.cut_off.get(account, (secret, None))])}
        assert found[account] in allowed, account
    for account, (after, again) in journal.cut_off.items():
        await again(vaulted)
        journal.secrets[account] = after
    journal.cut_off.clear()
    await rewrap(vaulted)
    assert await secrets(vaulted, list(journal.secrets)) == journal.secrets


@pytest.mark.requirement("K7", "K9", "K12", "O5")
@pytest.mark.parametrize("seed", [1])
async def test_whenever_it_is_killed_what_was_answered_stands_and_every_key_opens(
    tmp_path: Path, keyvault_dsn: str, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same points in every run
    peer = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    router = FakeRouter()
    router_service_pb2_grpc.add_RouterServiceServicer_to_server(router, peer)
    router_port = peer.add_insecure_port("127.0.0.1:0")
    await peer.start()
    journal = Journal()
    try:
        for kill in range(KILLS + 1):
            address = f"127.0.0.1:{free_port()}"
            environ = write_environ(tmp_path, keyvault_dsn, router_port=router_port, LISTEN=address)
            async with process(environ) as program, open_channel(address) as channel:
                async with asyncio.timeout(READY_SECONDS):
                    await channel.channel_ready()
                stub = keyvault_service_pb2_grpc.KeyvaultServiceStub(channel)
                vaulted = RunningKeyvault(stub, router, keyvault_dsn, environ, address)
                await check(vaulted, journal)
                if kill == KILLS:
                    break
                working = [
                    asyncio.create_task(
                        change_keys(vaulted, journal, prefix=f"account-{kill}-{worker}")
                    )
                    for worker in range(WORKERS)
                ]
                working.append(asyncio.create_task(rotate_and_rewrap(vaulted)))
                await asyncio.sleep(chance.uniform(SECONDS_MIN, SECONDS_MAX))
                program.kill()
                ends = await asyncio.gather(*working, return_exceptions=True)
                assert {type(end) for end in ends} == {grpc.aio.AioRpcError}
    finally:
        await peer.stop(None)
    assert len(journal.secrets) > KILLS * WORKERS
