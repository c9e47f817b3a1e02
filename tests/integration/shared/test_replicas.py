# SPDX-License-Identifier: Apache-2.0
"""Three replicas behind one name, over mutual TLS: calls are spread, replicas come and go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from services.shared.certificates import Certificates
from services.shared.channel import open_channel
from services.shared.server import RunningServer
from tests.support.dns import NameServer, name_server
from tests.support.tls import REPLICAS_NAME, Issuer, method, read, sample_service

CONNECTION_SECONDS = 1.0
LOADERS = 8
CALLS_ENOUGH = 300
EVENTUALLY_SECONDS = 20.0
ADDRESSES = {"a": "127.0.0.11", "b": "127.0.0.12", "c": "127.0.0.13", "d": "127.0.0.14"}


class Load:
    """
    Calls without a pause, counted by who answered; what failed is kept.

    Args:
        channel: To all replicas.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self._call = method(channel)
        self._stopped = False

    async def until(self, reached: Callable[[Counter[str]], bool]) -> Counter[str]:
        """Count anew until it is reached."""
        self.answered.clear()
        async with asyncio.timeout(EVENTUALLY_SECONDS):
            while not reached(self.answered):
                await asyncio.sleep(0.02)
        return Counter(self.answered)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make the calls meanwhile."""
        loaders = [asyncio.create_task(self._loop()) for _ in range(LOADERS)]
        try:
            yield
        finally:
            self._stopped = True
            await asyncio.gather(*loaders)

    async def _loop(self) -> None:
        while not self._stopped:
            try:
                answer = await self._call(StringValue(), timeout=5)
            except grpc.aio.AioRpcError as fault:
                self.failed.append(f"{fault.code().name}: {fault.details()}")
            else:
                self.answered[answer.value] += 1


class Replicas:
    """
    Replicas that come and go, and the name they are reached by.

    Args:
        stack: Stops what is left.
        names: The name server.
        server: Their certificate.
    """

    def __init__(self, stack: AsyncExitStack, names: NameServer, server: Certificates) -> None:
        self._stack = stack
        self._names = names
        self._server = server
        self.port = 0
        self._stacks: dict[str, AsyncExitStack] = {}

    async def add(self, name: str) -> RunningServer:
        """Start one, then let callers find it."""
        own = self._stacks[name] = await self._stack.enter_async_context(AsyncExitStack())
        running = await own.enter_async_context(
            sample_service(
                self._server,
                listen=f"{ADDRESSES[name]}:{self.port}",
                name=name,
                connection_seconds=CONNECTION_SECONDS,
            )
        )
        self.port = running.port
        self._names.addresses.append(ADDRESSES[name])
        return running

    async def remove(self, name: str) -> None:
        """Let callers forget one, then stop it as Kubernetes does."""
        self._names.addresses.remove(ADDRESSES[name])
        await self._stacks.pop(name).aclose()


@pytest.mark.requirement("O5", "O7", "O8")
async def test_replicas_come_and_go_under_load_without_a_failed_call(tmp_path: Path) -> None:
    issuer = Issuer()
    server = read(issuer.issue(tmp_path / "server", "ledger"))
    own = read(issuer.issue(tmp_path / "router", "router"))
    async with AsyncExitStack() as stack:
        names, at = await stack.enter_async_context(name_server([]))
        replicas = Replicas(stack, names, server)
        for name in ("a", "b", "c"):
            await replicas.add(name)
        target = f"dns://{at}/{REPLICAS_NAME}:{replicas.port}"
        channel = await stack.enter_async_context(open_channel(target, own))
        load = Load(channel)
        async with load.running():
            three = await load.until(lambda seen: seen.total() > CALLS_ENOUGH and len(seen) == 3)
            share = three.total() / len(three)
            assert all(share / 2 < count < share * 2 for count in three.values())

            await replicas.add("d")
            await load.until(lambda seen: seen["d"] > CALLS_ENOUGH / 4)

            await replicas.remove("a")
            left = await load.until(lambda seen: seen.total() > CALLS_ENOUGH and len(seen) == 3)
            assert set(left) == {"b", "c", "d"}
        assert load.failed == []
