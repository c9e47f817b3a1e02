# SPDX-License-Identifier: Apache-2.0
"""
An incremental parser of Amazon's binary event stream, fed bytes cut anywhere.

https://smithy.io/2.0/aws/amazon-eventstream.html : a message is its whole length and the length
of its headers (4 bytes each, big endian), a CRC-32 of those, headers, payload, and a CRC-32 of all
before it. Both checksums are checked, and nothing that fails them is read.
"""

from __future__ import annotations

import struct
import zlib

from services.router.providers.sse import SSEEvent

__all__ = ["BROKEN", "MESSAGE_BYTES_MAX", "EventStreamParser"]

MESSAGE_BYTES_MAX = 1024 * 1024
"""The largest message that is read; the format's own bound is 24 MiB, pieces of text are small."""

BROKEN = SSEEvent(b"broken", b"")
"""Stands where the stream stopped being readable."""

_PRELUDE = struct.Struct(">III")
_CHECKSUM_BYTES = 4
_MESSAGE_BYTES_MIN = _PRELUDE.size + _CHECKSUM_BYTES
_STRING = 7
_VALUE_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; types 6 and 7 carry their length."""
_LENGTH_TYPES = (6, _STRING)
_TYPE_HEADERS = {
    b"event": b":event-type",
    b"exception": b":exception-type",
    b"error": b":error-code",
}


class EventStreamParser:
    """
    Turns bytes into events named `{message type}/{type}`, e.g. `event/messageStop`. Used once.
    """

    stray = b""
    """Nothing is outside this format."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._needed = _PRELUDE.size
        """Bytes without which nothing more can be read."""
        self._broken = False

    def feed(self, data: bytes) -> list[SSEEvent]:
        """
        Take the next bytes and give the messages they complete; `BROKEN` is the last.
        """
        if self._broken:
            return []
        self._held += data
        if len(self._held) < self._needed:
            return []
        events: list[SSEEvent] = []
        start, self._needed = 0, _PRELUDE.size
        held = bytes(self._held)
        while len(held) - start >= _PRELUDE.size:
            size, header_bytes, checksum = _PRELUDE.unpack_from(held, start)
            whole = (
                zlib.crc32(held[start : start + 8]) == checksum
                and _MESSAGE_BYTES_MIN + header_bytes <= size <= MESSAGE_BYTES_MAX
            )
            if whole and len(held) - start < size:
                self._needed = size
                break
            event = _message(held[start : start + size], header_bytes) if whole else BROKEN
            events.append(event)
            if event is BROKEN:
                self._broken = True
                break
            start += size
        del self._held[:start]
        return events

    def finish(self) -> list[SSEEvent]:
        """
        Give nothing: a message that is not whole is cut.
        """
        return []


def _message(message: bytes, header_bytes: int) -> SSEEvent:
    body_end = len(message) - _CHECKSUM_BYTES
    if zlib.crc32(message[:body_end]) != int.from_bytes(message[body_end:]):
        return BROKEN
    payload_start = _PRELUDE.size + header_bytes
    try:
        headers = _headers(message[_PRELUDE.size : payload_start])
        kind = headers[b":message-type"]
        name = kind + b"/" + headers[_TYPE_HEADERS[kind]]
    except (KeyError, IndexError, struct.error):
        return BROKEN
    return SSEEvent(name, message[payload_start:body_end])


def _headers(data: bytes) -> dict[bytes, bytes]:
    """
    Read the text headers; others are passed over.

    Raises:
        KeyError: A type is not known.
        IndexError: A header is cut.
        struct.error: A header is cut.
    """
    found: dict[bytes, bytes] = {}
    place = 0
    while place < len(data):
        name_end = place + 1 + data[place]
        name, kind = data[place + 1 : name_end], data[name_end]
        place = name_end + 1
        if kind in _LENGTH_TYPES:
            (length,) = struct.unpack_from(">H", data, place)
            place += 2
        else:
            length = _VALUE_BYTES[kind]
        if place + length > len(data):
            raise IndexError
        if kind == _STRING:
            found[name] = data[place : place + length]
        place += length
    return found
