# SPDX-License-Identifier: Apache-2.0
"""An image's health command tells, by its exit code, whether the process beside it serves."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

Health = tuple[health.aio.HealthServicer, str]


@pytest.fixture
async def listener() -> AsyncIterator[Health]:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


async def health_check(*arguments: str) -> tuple[int | None, str]:
    """Runs the command; gives its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.shared.health_check", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


@pytest.mark.requirement("O3", "O7")
class TestHealthCheck:
    async def test_a_process_that_serves_is_well(self, listener: Health) -> None:
        servicer, address = listener
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert await health_check(address) == (0, "")

    async def test_one_that_leaves_is_not(self, listener: Health) -> None:
        servicer, address = listener
        await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert await health_check(address) == (1, f"{address} says NOT_SERVING\n")

    async def test_one_that_is_away_is_not(self) -> None:
        code, said = await health_check("127.0.0.1:1")
        assert code == 1
        assert said == "127.0.0.1:1 did not tell its health: UNAVAILABLE\n"

    async def test_wrong_use_is_said(self) -> None:
        code, said = await health_check()
        assert code == 2
        assert said.startswith("usage: ")
