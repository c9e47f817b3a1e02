# SPDX-License-Identifier: Apache-2.0
"""A request goes out only if its key may be used in the very step that writes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.router.adapters.transport import AiohttpTransport
from services.router.providers.base import HTTPRequest
from services.router.usecases.ports import StaleKeyError

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECONDS = 5.0


class Provider:
    """A socket that keeps what arrives and answers all of it alike."""

    def __init__(self) -> None:
        self.arrived = b""
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            self.arrived += data
            writer.write(ANSWER)
        writer.close()


@asynccontextmanager
async def a_provider() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    provider.address = f"http://127.0.0.1:{port}/v1"
    async with server:
        yield provider


class Asked:
    """Whether the key may be used: yes for the first so many questions."""

    def __init__(self, yes: int) -> None:
        self.count = 0
        self._yes = yes

    def __call__(self) -> bool:
        self.count += 1
        return self.count <= self._yes


async def status(transport: AiohttpTransport, provider: Provider, body: bytes, asked: Asked) -> int:
    request = HTTPRequest(
        method="POST" if body else "GET",
        url=provider.address,
        headers={"authorization": "Bearer secret", "content-type": "application/json"},
        body=body,
    )
    async with transport.send(
        request, may_send=asked, head_seconds=SECONDS, idle_seconds=SECONDS
    ) as answer:
        await answer.read()
        return answer.status


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    opened = AiohttpTransport()
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.requirement("K15")
@pytest.mark.parametrize("body", [b"{}", b""], ids=["with a body", "without one"])
class TestLease:
    async def test_a_request_is_sent_after_one_question(
        self, transport: AiohttpTransport, body: bytes
    ) -> None:
        asked = Asked(yes=1)
        async with a_provider() as provider:
            assert await status(transport, provider, body, asked) == 200
            assert b"Bearer secret" in provider.arrived
        assert asked.count == 1

    async def test_nothing_is_sent_once_the_key_may_not_be_used(
        self, transport: AiohttpTransport, body: bytes
    ) -> None:
        async with a_provider() as provider:
            with pytest.raises(StaleKeyError):
                await status(transport, provider, body, Asked(yes=0))
            assert provider.arrived == b""

    async def test_a_pooled_connection_serves_whoever_comes_next(
        self, transport: AiohttpTransport, body: bytes
    ) -> None:
        async with a_provider() as provider:
            assert await status(transport, provider, body, Asked(yes=1)) == 200
            with pytest.raises(StaleKeyError):
                await status(transport, provider, body, Asked(yes=0))
            assert await status(transport, provider, body, Asked(yes=1)) == 200
            assert provider.arrived.count(b"Bearer secret") == 2
