# SPDX-License-Identifier: Apache-2.0
"""
The only way to the providers: HTTP/1.1 over aiohttp's connections.

Pooled per host, TLS checked, no redirects, no cookies, no retries, no proxy from the environment.
Names are looked up here, and only public addresses are connected to: the very address that was
checked. A pooled connection carries no credential: each request brings its own headers. Once the
connection is in hand the request's lease is asked for, and the request written in the same step.

aiohttp's connector connects and keeps connections, its compiled parser reads the answers. Its
session stands aside: it would take several times longer than both, and write in a task of its own,
before which the process may be stopped for any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import ProviderError
from services.router.usecases.ports import BODY_BYTES_MAX, StaleKeyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from services.router.providers.base import HTTPRequest

CONNECTIONS_MAX = 4_096
CONNECTIONS_PER_HOST_MAX = 1_024
CONNECT_SECONDS_MAX = 10.0
KEEPALIVE_SECONDS = 30.0
DNS_SECONDS = 30
HEADER_BYTES_MAX = 64 * 1024

HTTP_OK = 200
BODILESS = frozenset({"GET", "HEAD", "DELETE"})
"""Methods whose requests say nothing of a body where they have none."""

_FAULTS = (aiohttp.ClientError, HttpProcessingError, OSError)
"""What the library raises; TimeoutError is an OSError."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_MASK = 0xFFFF_FFFF


class _Connector(aiohttp.TCPConnector):
    """
    Connects so that nothing written waits.
    """

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


class _Place:
    """
    Where a request goes: what the connector reads of a request.
    """

    __slots__ = ("connection_key", "port", "url")

    proxy = None
    server_hostname = None
    ssl = True
    """Certificates are checked, as the connector is told to."""

    def __init__(self, url: URL) -> None:
        assert url.raw_host is not None, "a request's address is absolute"
        self.url = url
        self.port = url.port
        self.connection_key = ConnectionKey(
            host=url.raw_host,
            port=url.port,
            is_ssl=self.is_ssl(),
            ssl=self.ssl,
            proxy=None,
            proxy_auth=None,
            proxy_headers_hash=None,
        )

    def is_ssl(self) -> bool:
        """
        Tell whether it is reached over TLS.
        """
        return self.url.scheme == "https"


class PrivateAddressError(OSError):
    """
    A name leads to an address that is not public; nothing was connected to.
    """

    def __init__(self) -> None:
        super().__init__(errno.EHOSTUNREACH, "the name leads to an address that is not public")


def is_public(address: str) -> bool:
    """
    Tell whether an IP address is one of the public internet's.

    One that holds an IPv4 address is as public as that is: mapped (RFC 4291 section 2.5.5.2), 6to4
    (RFC 3056), and translated (RFC 6052), behind which a gateway may stand.
    """
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(found) & _IPV4_MASK) if found in _NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or translated or found
    return found.is_global and not found.is_multicast


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
            PrivateAddressError: One is not public.
            OSError: There is none.
        """
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(item["host"]) for item in found):
            raise PrivateAddressError
        return found

    async def close(self) -> None:
        """
        Close what looks up.
        """
        await self._inner.close()


class AiohttpTransport:
    """
    Sends requests.

    Args:
        resolver: Looks names up; the system's by default.
        tls: What servers have to show; the authorities of the system by default.
    """

    def __init__(
        self, *, resolver: AbstractResolver | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._resolver = resolver
        self._tls = tls
        self._connector: _Connector | None = None

    async def open(self) -> None:
        """
        Open the pool; inside the running loop.
        """
        self._connector = _Connector(
            limit=CONNECTIONS_MAX,
            limit_per_host=CONNECTIONS_PER_HOST_MAX,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ttl_dns_cache=DNS_SECONDS,
            resolver=PublicResolver(self._resolver),
            ssl=self._tls or True,
        )

    async def close(self) -> None:
        """
        Close the pool.
        """
        if self._connector is not None:
            await self._connector.close()

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
        progress = _Progress()
        url = URL(request.url, encoded=True)
        connection = None
        try:
            try:
                async with asyncio.timeout(head_seconds):
                    connection = await self._connect(url, min(CONNECT_SECONDS_MAX, head_seconds))
                    message, payload = await _exchange(
                        connection,
                        _written(request, url),
                        may_send,
                        progress,
                        idle_seconds=idle_seconds,
                    )
            except _FAULTS as fault:
                raise _failure(fault, progress) from None
            yield _Answer(message, payload, progress, body_bytes_max)
        finally:
            if connection is not None:
                _let_go(connection, progress)

    async def _connect(self, url: URL, seconds: float) -> Any:
        """
        Give a connection, new or pooled, on which nothing waits to be read.
        """
        assert self._connector is not None, "the transport is open"
        timeout = aiohttp.ClientTimeout(connect=seconds)
        while True:
            # The connector reads no more of a request than its place.
            place: Any = _Place(url)
            connection: Any = await self._connector.connect(place, [], timeout)
            if not connection.protocol.should_close:
                return connection
            # The server said something unasked: it would be taken for the next request's answer.
            connection.close()


def _let_go(connection: Any, progress: _Progress) -> None:
    """
    Give a connection back to the pool, unless something of its exchange is still to come.
    """
    transport = connection.transport
    if transport is not None and transport.get_write_buffer_size():
        # Answered before it was sent: the next request would wait behind what is left.
        transport.abort()
        connection.close()
    elif progress.sent and not progress.answered:
        connection.close()
    connection.release()


async def _exchange(
    connection: Any,
    written: bytes,
    may_send: Callable[[], bool],
    progress: _Progress,
    *,
    idle_seconds: float,
) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
    """
    Write a request on a connection if it may still be sent, and read the head of its answer.

    Raises:
        StaleKeyError: It may not.
    """
    protocol = connection.protocol
    protocol.set_response_params(
        read_until_eof=True,
        read_timeout=None,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
    )
    if not may_send():
        raise StaleKeyError
    # Once asked, bytes follow.
    progress.sent = True
    connection.transport.write(written)
    status = 0
    # Others may come before the answer (https://www.rfc-editor.org/rfc/rfc9110#section-15.2).
    while status < HTTP_OK:
        message, payload = await protocol.read()
        status = message.code
    progress.answered = True
    protocol.read_timeout = None if payload.is_eof() else idle_seconds
    protocol.start_timeout()
    return message, payload


def _written(request: HTTPRequest, url: URL) -> bytes:
    """
    Write a request (https://www.rfc-editor.org/rfc/rfc9112#section-3).

    Raises:
        ValueError: A line would break in two.
    """
    headers = {
        "host": url.host_port_subcomponent,
        "accept": "*/*",
        "accept-encoding": "gzip, deflate",
        **request.headers,
    }
    if request.body or request.method not in BODILESS:
        headers["content-length"] = str(len(request.body))
    lines = [f"{request.method} {url.raw_path_qs} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count("\r") != breaks or head.count("\n") != breaks or "\0" in head:
        raise ValueError("a header of the request holds a line break")
    return f"{head}\r\n\r\n".encode() + request.body


class _Progress:
    """How far a request has come."""

    __slots__ = ("answered", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.answered = False


class _Answer:
    """
    One answer, read within its bounds.
    """

    def __init__(
        self,
        message: RawResponseMessage,
        payload: aiohttp.StreamReader,
        progress: _Progress,
        body_bytes_max: int,
    ) -> None:
        self._body_bytes_max = body_bytes_max
        self._payload = payload
        self._progress = progress
        self.status = message.code
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in message.headers.items()
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
        while True:
            try:
                data = await self._payload.readany()
            except _FAULTS as fault:
                raise _failure(fault, self._progress) from None
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


def _failure(fault: Exception, progress: _Progress) -> ProviderError:
    """
    Give our failure for the library's, whose text stays behind.
    """
    billed = Billed.MAYBE_BILLED if progress.sent else Billed.NOT_SENT
    if isinstance(fault, TimeoutError):
        outcome = Outcome.TIMEOUT if progress.sent else Outcome.NETWORK
        message = (
            "no answer came in time: try again or use a faster model"
            if progress.sent
            else "connecting took too long: try again shortly"
        )
        return ProviderError(outcome=outcome, safe_message=message, billed=billed)
    return ProviderError(
        outcome=Outcome.NETWORK,
        safe_message=_broken_message(fault, sent=progress.sent),
        billed=billed,
        retryable=not isinstance(fault.__cause__, PrivateAddressError),
    )


def _broken_message(error: Exception, *, sent: bool) -> str:
    """
    Say what a failed connection means to a person.
    """
    if sent:
        return "the connection broke before the answer was whole: try again"
    if isinstance(error.__cause__, PrivateAddressError):
        return (
            "its name leads to an address that is not public, where no key is sent: check the "
            "address that the key names"
        )
    if isinstance(error, ssl.SSLError):
        return "it does not show a certificate that can be trusted: check the address"
    return "it cannot be reached: try again shortly or use another model"
