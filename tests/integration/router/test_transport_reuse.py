# SPDX-License-Identifier: Apache-2.0
"""A pooled connection answers the request that is written on it, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from services.router.adapters.transport import AiohttpTransport
from services.router.providers.base import HTTPRequest

SECONDS = 20.0
BODY_BYTES = 32 * 1024 * 1024
"""More than the buffers between two processes of one machine hold."""

TURNS = 10
"""Of the event loop, after which what lies in its own machine's socket has been read."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Give an answer."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    """A transport."""
    opened = AiohttpTransport()
    await opened.open()
    yield opened
    await opened.close()


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """Yield a server's address."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def ask(
    transport: AiohttpTransport, url: str, body: bytes = b"{}", *, head_seconds: float = SECONDS
) -> bytes:
    """Post a body and return the answer's."""
    request = HTTPRequest("POST", url, {"authorization": "Bearer secret"}, body)
    async with transport.send(
        request, may_send=lambda: True, head_seconds=head_seconds, idle_seconds=SECONDS
    ) as found:
        return await found.read()


@pytest.mark.requirement("R7", "K15")
class TestReuse:
    async def test_what_a_server_says_unasked_answers_nobody(
        self, transport: AiohttpTransport
    ) -> None:
        answered, said = asyncio.Event(), asyncio.Event()
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await reader.readuntil(b"{}")
            writer.write(answer(b"%d" % connections))
            await writer.drain()
            if connections == 1:
                await answered.wait()
                writer.write(answer(b"nobody's"))
                await writer.drain()
                said.set()
            await reader.read()
            writer.close()

        async with serving(serve) as url:
            assert await ask(transport, url) == b"1"
            answered.set()
            await said.wait()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert await ask(transport, url) == b"2"

    async def test_nobody_waits_behind_a_body_that_was_answered_before_it_was_sent(
        self, transport: AiohttpTransport
    ) -> None:
        connections, gone = 0, asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            if connections == 1:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer(b"too large", b"413 Content Too Large"))
                await writer.drain()
                await gone.wait()
                writer.transport.abort()
                return
            await reader.readuntil(b"{}")
            writer.write(answer(b"answered"))
            writer.close()

        async with serving(serve) as url:
            assert await ask(transport, url, bytes(BODY_BYTES)) == b"too large"
            assert await ask(transport, url) == b"answered"
            gone.set()
        assert connections == 2

    async def test_no_timer_outlives_an_answer(self, transport: AiohttpTransport) -> None:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            for _ in range(2):
                await reader.readuntil(b"{}")
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"ok"))
            await reader.read()
            writer.close()

        async with serving(serve) as url:
            assert await ask(transport, url, head_seconds=1.0) == b"ok"
            await asyncio.sleep(1.2)
            assert await ask(transport, url) == b"ok"
        assert connections == 1
