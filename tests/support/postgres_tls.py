# SPDX-License-Identifier: Apache-2.0
"""
TLS before a PostgreSQL that was built without it, as the server itself would speak it.

https://www.postgresql.org/docs/18/protocol-flow.html#PROTOCOL-FLOW-SSL
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit

from services.shared.certificates import TlsFiles

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
READ_BYTES = 65536


@asynccontextmanager
async def postgres_over_tls(dsn: str, files: TlsFiles, *, trusted: TlsFiles) -> AsyncIterator[str]:
    """
    Give a DSN that leads to a server over TLS alone, and demands that its certificate is checked.

    Args:
        dsn: The server's own.
        files: What it shows.
        trusted: Whose authority the client trusts.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    parts = urlsplit(dsn)
    socket = parse_qs(parts.query).get("host", [""])[0]

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                server_reader, server_writer = await (
                    asyncio.open_unix_connection(f"{socket}/.s.PGSQL.{parts.port or 5432}")
                    if socket
                    else asyncio.open_connection(parts.hostname, parts.port or 5432)
                )
                ends.append(server_writer)
                await asyncio.gather(_pass(reader, server_writer), _pass(server_reader, writer))
        for end in ends:
            end.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    credentials = parts.netloc.rpartition("@")[0]
    try:
        yield (
            f"postgresql://{credentials}@127.0.0.1:{port}{parts.path}"
            f"?sslmode=verify-full&sslrootcert={trusted.ca}"
        )
    finally:
        listening.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on all that comes until it ends, then end the other side."""
    while content := await reader.read(READ_BYTES):
        writer.write(content)
        await writer.drain()
    writer.close()
