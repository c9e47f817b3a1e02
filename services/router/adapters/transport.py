# SPDX-License-Identifier: Apache-2.0
"""
The only way to the providers: HTTP over aiohttp.

Pooled per host, TLS checked, no redirects, no cookies, no retries, no proxy from the environment.
Names are looked up here, and only public addresses are connected to: the very address that was
checked. A pooled connection carries no credential: each request brings its own headers. Right
before the first byte, with the connection in hand, the request's lease is asked for once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import ProviderError
from services.router.usecases.ports import BODY_BYTES_MAX, StaleKeyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from services.router.providers.base import HTTPRequest

CHUNK_BYTES = 64 * 1024
CONNECTIONS_MAX = 4_096
CONNECTIONS_PER_HOST_MAX = 1_024
CONNECT_SECONDS_MAX = 10.0
KEEPALIVE_SECONDS = 30.0
DNS_SECONDS = 30
HEADER_BYTES_MAX = 64 * 1024

_may_send: ContextVar[Callable[[], bool] | None] = ContextVar("may_send", default=None)


class _LeasedConnector(aiohttp.TCPConnector):
    """
    Connects so that nothing written waits, and asks whether a request without a body may still be
    sent once its connection is in hand; one with a body is asked for by `_LeasedBody`.
    """

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        """
        Give a connection, new or pooled.

        Raises:
            StaleKeyError: The request may no longer be sent.
        """
        connection = await super().connect(req, traces, timeout)
        may_send = _may_send.get()
        if may_send is not None and not may_send():
            connection.release()
            raise StaleKeyError
        return connection

    async def _wrap_create_connection(self, *args: Any, **named: Any) -> Any:
        """
        Connect so that what is written goes out in the same step.

        uvloop gathers small writes until the end of its turn, and a process that is stopped before
        that would send them whenever it goes on.
        With no room to gather in, each write is a call of the system; TLS is put on top of that.
        """
        context = named.pop("ssl", None)
        hostname = named.pop("server_hostname", None)
        transport, protocol = await super()._wrap_create_connection(*args, **named)
        transport.set_write_buffer_limits(high=0)
        if not context:
            return transport, protocol
        try:
            secured = await self._loop.start_tls(
                transport,
                protocol,
                context,
                server_hostname=hostname,
                ssl_handshake_timeout=CONNECT_SECONDS_MAX,
            )
        except BaseException:
            transport.abort()
            raise
        assert secured is not None, "the transport was open"
        protocol.connection_made(secured)
        return secured, protocol


class _LeasedBody(aiohttp.BytesPayload):
    """
    Asks whether the request may still be sent in the very step that writes it.

    The library writes a request with a body in a task of its own: between having the connection and
    writing, the process may be stopped for any time.
    """

    def __init__(self, body: bytes, may_send: Callable[[], bool]) -> None:
        super().__init__(body)
        self._may_send = may_send

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        """
        Write head and body; the head waits for its body.

        Raises:
            StaleKeyError: The request may no longer be sent.
        """
        if not self._may_send():
            raise StaleKeyError
        await super().write_with_length(writer, content_length)


class PublicResolver(AbstractResolver):
    """
    Looks up names, and fails where one leads to an address that is not public.

    Customers choose some hosts: a name on a provider's domain can be pointed anywhere.

    Args:
        inner: Looks up; the system's resolver by default.
    """

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """
        Give the addresses of a host, each of them public.

        Raises:
            OSError: There is none, or one is not public.
        """
        found = await self._inner.resolve(host, port, family)
        if not all(ipaddress.ip_address(item["host"]).is_global for item in found):
            raise OSError(errno.EHOSTUNREACH, "the name leads to an address that is not public")
        return found

    async def close(self) -> None:
        """
        Close what looks up.
        """
        await self._inner.close()


class AiohttpTransport:
    """
    Sends requests.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """
        Open the pool; inside the running loop.
        """
        self._session = aiohttp.ClientSession(
            connector=_LeasedConnector(
                limit=CONNECTIONS_MAX,
                limit_per_host=CONNECTIONS_PER_HOST_MAX,
                keepalive_timeout=KEEPALIVE_SECONDS,
                ttl_dns_cache=DNS_SECONDS,
                resolver=PublicResolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
            max_field_size=HEADER_BYTES_MAX,
            max_line_size=HEADER_BYTES_MAX,
            skip_auto_headers=("User-Agent",),
        )

    async def close(self) -> None:
        """
        Close the pool.
        """
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def send(
        self,
        request: HTTPRequest,
        *,
        may_send: Callable[[], bool],
        head_seconds: float,
        idle_seconds: float,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> AsyncIterator[_Answer]:
        """
        Send a request and give its answer; see the port.
        """
        assert self._session is not None, "the transport is open"
        progress = _Progress()

        def check() -> bool:
            # Once asked, bytes follow.
            progress.sent = may_send()
            progress.stale = not progress.sent
            return progress.sent

        token = _may_send.set(None if request.body else check)
        try:
            with _translated(progress):
                response = await self._session.request(
                    request.method,
                    URL(request.url, encoded=True),
                    headers=dict(request.headers),
                    data=_LeasedBody(request.body, check) if request.body else None,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        connect=min(CONNECT_SECONDS_MAX, head_seconds),
                        sock_read=head_seconds,
                    ),
                )
        finally:
            _may_send.reset(token)
        try:
            yield _Answer(response, idle_seconds, progress, body_bytes_max)
        finally:
            # Back to the pool where the answer was read to its end, else closed.
            response.release()
            await response.wait_for_close()


class _Progress:
    """How far a request has come."""

    __slots__ = ("sent", "stale")

    def __init__(self) -> None:
        self.sent = False
        self.stale = False


class _Answer:
    """
    One answer, read within its bounds.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        idle_seconds: float,
        progress: _Progress,
        body_bytes_max: int,
    ) -> None:
        self._body_bytes_max = body_bytes_max
        self._response = response
        self._idle_seconds = idle_seconds
        self._progress = progress
        self.status = response.status
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.headers.items()
        }

    async def read(self) -> bytes:
        """
        Read the whole body.
        """
        return b"".join([data async for data in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        Read the body as it comes.
        """
        size = 0
        content = self._response.content
        while True:
            with _translated(self._progress):
                # What has come already needs no timer.
                data = content.read_nowait()
                if not data and not content.at_eof():
                    async with asyncio.timeout(self._idle_seconds):
                        data = await content.readany()
            if not data:
                return
            size += len(data)
            if size > self._body_bytes_max:
                raise ProviderError(
                    outcome=Outcome.SERVER_ERROR,
                    safe_message=f"the answer is larger than {self._body_bytes_max} bytes",
                    billed=Billed.MAYBE_BILLED,
                    http_status=self.status,
                    retryable=False,
                )
            yield data


@contextlib.contextmanager
def _translated(progress: _Progress) -> Any:
    """
    Turn the library's failures into ours; its text stays behind.
    """
    try:
        yield
    except TimeoutError:
        billed = Billed.MAYBE_BILLED if progress.sent else Billed.NOT_SENT
        outcome = Outcome.TIMEOUT if progress.sent else Outcome.NETWORK
        message = (
            "no answer came in time: try again or use a faster model"
            if progress.sent
            else "connecting took too long: try again shortly"
        )
        raise ProviderError(outcome=outcome, safe_message=message, billed=billed) from None
    except (aiohttp.ClientError, OSError):
        if progress.stale:
            raise StaleKeyError from None
        billed = Billed.MAYBE_BILLED if progress.sent else Billed.NOT_SENT
        message = (
            "the connection broke before the answer was whole: try again"
            if progress.sent
            else "it cannot be reached: try again shortly or use another model"
        )
        raise ProviderError(outcome=Outcome.NETWORK, safe_message=message, billed=billed) from None
