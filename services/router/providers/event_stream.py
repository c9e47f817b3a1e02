# SPDX-License-Identifier: Apache-2.0
"""
An incremental parser of Amazon's binary event stream, fed bytes cut anywhere.

https://smithy.io/2.0/aws/amazon-eventstream.html : a message is its whole length and the length
of its headers (4 bytes each, big endian), a CRC-32 of those, headers, payload, and a CRC-32 of all
before it. Both checksums are checked, and nothing that fails them is read.
"""

from __future__ import annotations

import struct
from zlib import crc32

from services.router.providers.sse import SSEEvent

__all__ = ["BROKEN", "MESSAGE_BYTES_MAX", "EventStreamParser"]

MESSAGE_BYTES_MAX = 1024 * 1024
"""The largest message that is read; the format's own bound is 24 MiB, pieces of text are small."""

BROKEN = SSEEvent(b"broken", b"")
"""Stands where the stream stopped being readable."""

_PRELUDE = struct.Struct(">III")
_PRELUDE_BYTES = _PRELUDE.size
_LENGTHS_BYTES = 8
_CHECKSUM_BYTES = 4
_checksum_of = struct.Struct(">I").unpack_from
_KNOWN_MAX = 256
"""How many kinds and lengths are remembered."""
_MESSAGE_BYTES_MIN = _PRELUDE_BYTES + _CHECKSUM_BYTES
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
        self._needed = _PRELUDE_BYTES
        """Bytes without which nothing more can be read."""
        self._broken = False
        self._names: dict[bytes, bytes] = {}
        """What headers seen before come to: a stream has few kinds of messages."""
        self._preludes: dict[bytes, tuple[int, int]] = {}
        """And preludes: of few lengths."""

    def feed(self, data: bytes) -> list[SSEEvent]:
        """
        Take the next bytes and give the messages they complete; `BROKEN` is the last.
        """
        if self._broken:
            return []
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return []
            data = bytes(self._held)
            self._held.clear()
        events: list[SSEEvent] = []
        start, end, self._needed = 0, len(data), _PRELUDE_BYTES
        preludes = self._preludes
        while end - start >= _PRELUDE_BYTES:
            prelude = data[start : start + _PRELUDE_BYTES]
            size, header_bytes = preludes.get(prelude) or self._lengths(prelude)
            if end - start < size:
                self._needed = size
                break
            event = self._message(data[start : start + size], header_bytes) if size else BROKEN
            events.append(event)
            if event is BROKEN:
                self._broken = True
                return events
            start += size
        if start < end:
            self._held += data[start:]
        return events

    def _lengths(self, prelude: bytes) -> tuple[int, int]:
        """
        Give the length of a message and of its headers; twice 0 where they cannot be right.
        """
        size, header_bytes, checksum = _PRELUDE.unpack(prelude)
        if crc32(prelude[:_LENGTHS_BYTES]) != checksum:
            return 0, 0
        if not _MESSAGE_BYTES_MIN + header_bytes <= size <= MESSAGE_BYTES_MAX:
            return 0, 0
        if len(self._preludes) < _KNOWN_MAX:
            self._preludes[prelude] = size, header_bytes
        return size, header_bytes

    def _message(self, message: bytes, header_bytes: int) -> SSEEvent:
        (checksum,) = _checksum_of(message, len(message) - _CHECKSUM_BYTES)
        if crc32(message[:-_CHECKSUM_BYTES]) != checksum:
            return BROKEN
        payload_start = _PRELUDE_BYTES + header_bytes
        headers = message[_PRELUDE_BYTES:payload_start]
        name = self._names.get(headers) or self._read_name(headers)
        if not name:
            return BROKEN
        return SSEEvent(name, message[payload_start:-_CHECKSUM_BYTES])

    def _read_name(self, headers: bytes) -> bytes:
        """
        Read a message's name out of its headers; empty where they cannot be read.
        """
        try:
            name = _name(headers)
        except (KeyError, IndexError, struct.error):
            return b""
        if len(self._names) < _KNOWN_MAX:
            self._names[headers] = name
        return name

    def finish(self) -> list[SSEEvent]:
        """
        Give nothing: a message that is not whole is cut.
        """
        return []


def _name(data: bytes) -> bytes:
    """
    Read a message's type out of its headers.

    Raises:
        KeyError: A header is missing, or of an unknown type.
        IndexError: A header is cut.
        struct.error: A header is cut.
    """
    headers = _headers(data)
    kind = headers[b":message-type"]
    return kind + b"/" + headers[_TYPE_HEADERS[kind]]


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
