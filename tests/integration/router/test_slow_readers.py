# SPDX-License-Identifier: Apache-2.0
"""
A caller that reads slowly, at either door: its provider is held back, so nothing piles up here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from ownkey.router.v1 import text_pb2

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, serve_router, text_input
from tests.support.simulated_providers import KEYS

pytestmark = pytest.mark.requirement("R2", "O9")

PIECE = "x" * 64 * 1024
PIECES = 470
"""Nearly the longest answer that is taken, 32 MiB."""
HELD_PIECES_MAX = 400
"""More than the sockets of both connections and the router's own backlog can hold."""
QUIET_SECONDS = 0.3
QUIET_TRIES_MAX = 60
REQUEST_ID = "6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11"


class Provider:
    """Streams one long answer as OpenAI does, and counts what it could write."""

    def __init__(self) -> None:
        self.written = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Write as fast as the reader lets it."""
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(PIECES):
            await response.write(_event([{"index": 0, "delta": {"content": PIECE}}]))
            self.written += 1
        await response.write(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        await response.write(_event([], usage=usage) + b"data: [DONE]\n\n")
        return response

    async def held_back(self) -> int:
        """Wait until nothing more is written, and give how much was."""
        for _ in range(QUIET_TRIES_MAX):
            before = self.written
            await asyncio.sleep(QUIET_SECONDS)
            if self.written == before:
                break
        return self.written


def _event(choices: list[dict[str, Any]], **fields: Any) -> bytes:
    return b"data: " + json.dumps({"model": "m", "choices": choices, **fields}).encode() + b"\n\n"


@asynccontextmanager
async def routed(tmp_path: Path) -> AsyncIterator[tuple[RouterUnderTest, Provider]]:
    """A router whose OpenAI is that provider."""
    provider = Provider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.answer)
    app.router.add_post("/chat/completions", provider.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        urls = json.dumps({"openai": f"http://{host}:{port}"})
        async with serve_router(tmp_path, OWNKEY_ROUTER_PROVIDER_BASE_URLS=urls) as router:
            router.keyvault.put("demo", stored_key("demo", "main", "openai", KEYS["openai"]))
            yield router, provider
    finally:
        await runner.cleanup()


async def test_over_grpc_the_provider_waits_for_the_caller(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, provider):
        call = router.stub.StreamText(
            text_pb2.StreamTextRequest(
                account="accounts/demo",
                request_id=REQUEST_ID,
                model="openai/gpt-4o-mini",
                input=text_input(),
            )
        )
        assert (await call.read()).WhichOneof("event") == "start"
        assert await provider.held_back() < HELD_PIECES_MAX
        length, ends = 0, 0
        while isinstance(message := await call.read(), text_pb2.StreamTextResponse):
            length += len(message.text_delta)
            ends += message.WhichOneof("event") == "finish"
        assert (length, ends) == (PIECES * len(PIECE), 1)


async def test_over_http_the_provider_waits_for_the_caller(tmp_path: Path) -> None:
    async with (
        routed(tmp_path) as (router, provider),
        aiohttp.ClientSession(headers={"X-Ownkey-Account": "accounts/demo"}) as session,
        session.post(
            f"{router.http}/v1/chat/completions",
            json={
                "model": "gpt-4o-mini",
                "messages": [{"role": "user", "content": "Say hello"}],
                "stream": True,
            },
        ) as answer,
    ):
        assert answer.status == 200
        assert await provider.held_back() < HELD_PIECES_MAX
        read = bytearray()
        async for data in answer.content.iter_any():
            read += data
        assert read.count(b"x") >= PIECES * len(PIECE)
        assert read.endswith(b"data: [DONE]\n\n")
