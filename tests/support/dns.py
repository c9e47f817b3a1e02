# SPDX-License-Identifier: Apache-2.0
"""
A name server on loopback that answers one name with the addresses a test gives it.

As a headless service has them: https://www.rfc-editor.org/rfc/rfc1035#section-4
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

TYPE_A = 1
_HEADER_BYTES = 12
_RESPONSE = 0x8480
"""A response with authority, recursion available, no error."""
_POINTER_TO_QUESTION = 0xC000 | _HEADER_BYTES


class NameServer(asyncio.DatagramProtocol):
    """
    Answers every question for addresses of IPv4 with the same list.

    Args:
        addresses: What the name stands for now; a test changes the list.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go out by."""
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        """Answer one question."""
        question = _question(data)
        (kind,) = struct.unpack("!H", question[-4:-2])
        found = self.addresses if kind == TYPE_A else []
        header = data[:2] + struct.pack("!HHHHH", _RESPONSE, 1, len(found), 0, 0)
        records = [
            struct.pack("!HHHIH", _POINTER_TO_QUESTION, TYPE_A, 1, 0, 4)
            + ipaddress.IPv4Address(address).packed
            for address in found
        ]
        self._transport.sendto(header + question + b"".join(records), sender)


@asynccontextmanager
async def name_server(addresses: Sequence[str]) -> AsyncIterator[tuple[NameServer, str]]:
    """Serve a name; gives the server and its `host:port`."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(addresses), local_addr=("127.0.0.1", 0)
    )
    try:
        host, port = transport.get_extra_info("sockname")
        yield server, f"{host}:{port}"
    finally:
        transport.close()


def _question(data: bytes) -> bytes:
    """Give the question as it was asked: labels up to an empty one, type and class."""
    at = _HEADER_BYTES
    while data[at]:
        at += 1 + data[at]
    return data[_HEADER_BYTES : at + 5]
