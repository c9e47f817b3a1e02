# SPDX-License-Identifier: Apache-2.0
"""Where the transport goes and where it does not: redirects, inner addresses, and TLS."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509

from client.ownkey_client.authority import Authority, loopback_names
from deploy.local.certificates import files_in
from services.router.adapters.transport import AiohttpTransport
from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import HTTPRequest, ProviderError
from services.router.usecases.ports import StaleKeyError
from tests.unit.router.adapters.test_transport import FakeResolver

pytestmark = pytest.mark.requirement("R16")

SECONDS = 20.0
BODY_BYTES = 5 * 1024 * 1024
"""Far beyond any buffer on the way."""
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, None]], None]


class Server:
    """Keeps what arrives, and answers each request as it is told to."""

    def __init__(self, head: str, body: bytes = b"") -> None:
        self.connections = 0
        self.bodies: list[bytes] = []
        self.port = 0
        self._answer = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                sizes = [line for line in lines if line.startswith("content-length:")]
                size = int(sizes[0].partition(":")[2]) if sizes else 0
                self.bodies.append(await reader.readexactly(size))
                writer.write(self._answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # The client has gone.
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def opened(transport: AiohttpTransport) -> AsyncIterator[AiohttpTransport]:
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def post(
    transport: AiohttpTransport, url: str, body: bytes = b"{}", *, may: bool = True
) -> tuple[int, bytes]:
    request = HTTPRequest("POST", url, {"authorization": "Bearer secret"}, body)
    async with transport.send(
        request, may_send=lambda: may, head_seconds=SECONDS, idle_seconds=SECONDS
    ) as answer:
        return answer.status, await answer.read()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(status: int) -> None:
    async with serving(Server("200 OK")) as elsewhere:
        location = f"http://127.0.0.1:{elsewhere.port}/v1"
        named = Server(f"{status} Moved\r\nLocation: {location}")
        async with serving(named), opened(AiohttpTransport()) as transport:
            found = await post(transport, f"http://127.0.0.1:{named.port}/v1")
        assert (found, named.bodies) == ((status, b""), [b"{}"])
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.5", "169.254.169.254", "100.64.0.1", "::1", "fd00::1", "fe80::1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
async def test_a_name_that_leads_inside_is_told_and_not_connected_to(address: str) -> None:
    async with serving(Server("200 OK")) as inside:
        resolver = FakeResolver("20.42.64.1", address)
        async with opened(AiohttpTransport(resolver=resolver)) as transport:
            with pytest.raises(ProviderError) as refused:
                await post(transport, f"https://contoso.openai.azure.com:{inside.port}/openai")
        assert inside.connections == 0
    error = refused.value
    assert (error.outcome, error.billed) == (Outcome.NETWORK, Billed.NOT_SENT)
    assert not error.retryable
    assert "not public" in error.safe_message


class Certified:
    """A TLS server's context and its client's."""

    def __init__(self, folder: Path, names: list[x509.GeneralName]) -> None:
        now = datetime.now(UTC)
        authority = Authority.new("test", now=now - timedelta(days=1), lifetime=timedelta(days=9))
        authority.issue(folder, names, common_name="provider", now=now, lifetime=timedelta(days=1))
        files = files_in(folder)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.load_cert_chain(files.certificate, files.key)
        self.client = ssl.create_default_context(cafile=str(files.ca))


@LOOPS
class TestTLS:
    def test_large_bodies_go_both_ways(self, run: Run, tmp_path: Path) -> None:
        certified = Certified(tmp_path, loopback_names())
        sent, answered = os.urandom(BODY_BYTES), os.urandom(BODY_BYTES)

        async def exchange() -> None:
            server = Server("200 OK", answered)
            async with (
                serving(server, certified.server),
                opened(AiohttpTransport(tls=certified.client)) as transport,
            ):
                url = f"https://127.0.0.1:{server.port}/v1"
                for _ in range(2):
                    status, body = await post(transport, url, sent)
                    assert (status, digest(body)) == (200, digest(answered))
            assert [digest(body) for body in server.bodies] == [digest(sent)] * 2
            assert server.connections == 1

        run(exchange())

    @pytest.mark.requirement("K15")
    def test_nothing_is_written_once_the_key_may_not_be_used(
        self, run: Run, tmp_path: Path
    ) -> None:
        certified = Certified(tmp_path, loopback_names())

        async def exchange() -> None:
            server = Server("200 OK")
            async with (
                serving(server, certified.server),
                opened(AiohttpTransport(tls=certified.client)) as transport,
            ):
                url = f"https://127.0.0.1:{server.port}/v1"
                with pytest.raises(StaleKeyError):
                    await post(transport, url, may=False)
                assert (await post(transport, url, b"after"))[0] == 200
            assert server.bodies == [b"after"]

        run(exchange())

    @pytest.mark.parametrize("fault", ["untrusted", "another name"])
    def test_a_bad_certificate_is_told_and_nothing_is_sent(
        self, run: Run, tmp_path: Path, fault: str
    ) -> None:
        names = [x509.DNSName("elsewhere.test")] if fault == "another name" else loopback_names()
        certified = Certified(tmp_path, names)
        trusted = certified.client if fault == "another name" else None

        async def exchange() -> None:
            server = Server("200 OK")
            async with (
                serving(server, certified.server),
                opened(AiohttpTransport(tls=trusted)) as transport,
            ):
                with pytest.raises(ProviderError) as refused:
                    await post(transport, f"https://127.0.0.1:{server.port}/v1")
            error = refused.value
            assert (error.outcome, error.billed) == (Outcome.NETWORK, Billed.NOT_SENT)
            assert "certificate" in error.safe_message
            assert server.bodies == []

        run(exchange())

    def test_a_server_that_speaks_no_tls_gets_no_key(self, run: Run) -> None:
        arrived: list[bytes] = []

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            arrived.append(await reader.read())
            writer.close()

        async def exchange() -> None:
            listening = await asyncio.start_server(greet, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
            async with listening, opened(AiohttpTransport()) as transport:
                with pytest.raises(ProviderError) as refused:
                    await post(transport, f"https://127.0.0.1:{port}/v1")
            assert refused.value.billed is Billed.NOT_SENT
            assert b"secret" not in b"".join(arrived)

        run(exchange())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
