# SPDX-License-Identifier: Apache-2.0
"""
A proxy before PostgreSQL that speaks enough of its protocol to fail at a chosen exchange.

An exchange is what a client sends up to the message after which it waits: a simple Query, or
extended messages up to a Sync. https://www.postgresql.org/docs/18/protocol-flow.html
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import parse_qs, urlsplit

import asyncpg

READ_BYTES = 65536


class Cut(Enum):
    """
    Loses the connection around an exchange.

    Members:
        BEFORE: The server never gets it.
        AFTER: The server has done it; the client never hears so.
        TERMINATED_BEFORE: An operator ends the backend; then the server never gets it.
        TERMINATED_AFTER: The server has done it and the backend ends; the client never hears so.
    """

    BEFORE = auto()
    AFTER = auto()
    TERMINATED_BEFORE = auto()
    TERMINATED_AFTER = auto()


@dataclass(frozen=True, slots=True)
class Fail:
    """
    The server itself fails the exchange, and with it the transaction.

    Args:
        sqlstate: With which error.
    """

    sqlstate: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    What a client sent.

    Args:
        sql: The statement; empty if it has none.
    """

    sql: str

    @property
    def is_commit(self) -> bool:
        """Whether it commits."""
        return self.sql.rstrip("; ").upper() == "COMMIT"


Decide = Callable[[Exchange], "Cut | Fail | None"]


class PostgresProxy:
    """
    Passes connections on to a server.

    `decide` is asked at each exchange after login what to do to it; None lets it pass.

    Args:
        dsn: The server's, with its own address.
    """

    def __init__(self, dsn: str) -> None:
        self.decide: Decide = lambda _exchange: None
        self.dsn = ""
        self.server_dsn = dsn
        self._links: set[_Link] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[PostgresProxy]:
        """Listen on a free port while the block runs; `dsn` leads through it."""
        async with AsyncExitStack() as stack:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            parts = urlsplit(self.server_dsn)
            credentials, _, _ = parts.netloc.rpartition("@")
            self.dsn = f"postgresql://{credentials}@127.0.0.1:{port}{parts.path}?sslmode=disable"
            try:
                yield self
            finally:
                for link in tuple(self._links):
                    link.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.server_dsn)
        socket = parse_qs(parts.query).get("host", [""])[0]
        port = parts.port or 5432
        if socket:
            opened = asyncio.open_unix_connection(f"{socket}/.s.PGSQL.{port}")
        else:
            opened = asyncio.open_connection(parts.hostname, port)
        link = _Link(self, reader, writer, *await opened)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            await link.closed()


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    proxy: PostgresProxy
    client_reader: asyncio.StreamReader
    client_writer: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server_writer: asyncio.StreamWriter
    pid: int = 0
    lose: Cut | None = None
    statements: dict[bytes, str] = field(default_factory=dict)

    def close(self) -> None:
        """Drop both ends."""
        for writer in (self.client_writer, self.server_writer):
            writer.close()

    async def closed(self) -> None:
        """Drop both ends and wait until they are gone."""
        self.close()
        for writer in (self.client_writer, self.server_writer):
            with suppress(OSError):
                await writer.wait_closed()

    async def run(self) -> None:
        """Pass messages both ways until an end closes."""
        pumps = [
            asyncio.create_task(self._from_client()),
            asyncio.create_task(self._from_server()),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for ended in await asyncio.gather(*pumps, return_exceptions=True):
            lost = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
            if isinstance(ended, BaseException) and not isinstance(ended, lost):
                raise ended

    async def _from_client(self) -> None:
        # The first message has no type.
        (length,) = struct.unpack("!I", first := await self.client_reader.readexactly(4))
        self.server_writer.write(first + await self.client_reader.readexactly(length - 4))
        pending, sql = b"", ""
        while True:
            kind, message = await _message(self.client_reader)
            sql = self._statement(kind, message[5:]) or sql
            pending += message
            if kind not in b"QS":
                # A password, the end, a Flush, rows of a COPY: they ask for nothing more.
                if kind in b"pXHdcf":
                    self.server_writer.write(pending)
                    pending = b""
                continue
            exchange = Exchange(sql)
            if not await self._pass(pending, self.proxy.decide(exchange), exchange):
                return
            pending, sql = b"", ""

    async def _pass(self, message: bytes, fault: Cut | Fail | None, exchange: Exchange) -> bool:
        """Pass an exchange on as decided and return whether the connection goes on."""
        match fault:
            case Cut.BEFORE:
                return False
            case Cut.TERMINATED_BEFORE:
                await self._terminate()
                # The client gets the server's last word and the end of the stream.
                await asyncio.Event().wait()
            case Cut.AFTER | Cut.TERMINATED_AFTER:
                self.lose = fault
                self.server_writer.write(message)
            case Fail(sqlstate):
                self.server_writer.write(_failing(sqlstate, ends=exchange.is_commit))
            case None:
                self.server_writer.write(message)
        return True

    async def _from_server(self) -> None:
        while True:
            kind, message = await _message(self.server_reader)
            if kind in b"K":
                (self.pid,) = struct.unpack("!I", message[5:9])
            if self.lose is None or kind not in b"CZ":
                self.client_writer.write(message)
            elif kind in b"Z":
                if self.lose is Cut.TERMINATED_AFTER:
                    await self._terminate()
                return

    def _statement(self, kind: bytes, body: bytes) -> str:
        """Return the text of the statement that a message carries or names."""
        if kind in b"Q":
            return body.rstrip(b"\0").decode()
        if kind in b"P":
            name, sql, _ = body.split(b"\0", 2)
            self.statements[name] = sql.decode()
            return self.statements[name]
        if kind in b"B":
            return self.statements.get(body.split(b"\0", 2)[1], "")
        return ""

    async def _terminate(self) -> None:
        """End the backend as an operator would, and wait until it is gone."""
        connection = await asyncpg.connect(self.proxy.server_dsn)
        try:
            await connection.fetchval("SELECT pg_terminate_backend($1, 5000)", self.pid)
        finally:
            # At once: the backend's end may cancel this.
            connection.terminate()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read one message; return its type and all its bytes."""
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


def _failing(sqlstate: str, *, ends: bool) -> bytes:
    """Return a Query that fails as asked; one that stands for COMMIT ends the transaction too."""
    fails = f"DO $$ BEGIN RAISE EXCEPTION 'as the test wants' USING ERRCODE = '{sqlstate}'; END $$"
    sql = (f"ROLLBACK; {fails}" if ends else fails).encode() + b"\0"
    return b"Q" + struct.pack("!I", len(sql) + 4) + sql
