# SPDX-License-Identifier: Apache-2.0
"""The binary event stream: framing, both checksums, any cut."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from services.router.providers.event_stream import BROKEN, MESSAGE_BYTES_MAX, EventStreamParser
from services.router.providers.sse import SSEEvent
from simulator.converse_format import event, exception

pytestmark = pytest.mark.requirement("R2")

STREAM = b"".join(
    [
        event("messageStart", {"role": "assistant"}),
        event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Olá"}}),
        exception("throttlingException", "slow down"),
    ]
)
NAMES = [b"event/messageStart", b"event/contentBlockDelta", b"exception/throttlingException"]


def parse(*pieces: bytes) -> list[SSEEvent]:
    parser = EventStreamParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish()


def framed(headers: bytes, payload: bytes = b"{}", *, size: int | None = None) -> bytes:
    """Frame a message with right checksums."""
    size = 16 + len(headers) + len(payload) if size is None else size
    prelude = struct.pack(">II", size, len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def header(name: bytes, kind: int, value: bytes) -> bytes:
    return bytes([len(name)]) + name + bytes([kind]) + value


def text(name: bytes, value: bytes) -> bytes:
    return header(name, 7, struct.pack(">H", len(value)) + value)


TYPES = text(b":message-type", b"event") + text(b":event-type", b"ping")


def test_messages_are_named_by_kind_and_type() -> None:
    events = parse(STREAM)
    assert [event.event for event in events] == NAMES
    assert b'"text":"Ol' in events[1].data


@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=12))
def test_any_cut_gives_the_same(cuts: set[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(places)]
    assert parse(*pieces) == parse(STREAM)


def test_byte_by_byte_gives_the_same() -> None:
    assert parse(*(STREAM[place : place + 1] for place in range(len(STREAM)))) == parse(STREAM)


def test_the_payloads_are_those_that_botocore_reads() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(STREAM)
    assert [event.data for event in parse(STREAM)] == [message.payload for message in buffer]


@pytest.mark.parametrize("place", range(len(event("messageStart", {"role": "assistant"}))))
def test_a_flipped_bit_anywhere_ends_the_stream(place: int) -> None:
    """What stands before is given, nothing after."""
    first = event("messageStart", {"role": "assistant"})
    second = bytearray(first)
    second[place] ^= 0x10
    events = parse(first + bytes(second) + first)
    assert [item.event for item in events] == [b"event/messageStart", b"broken"]


def test_nothing_is_read_after_the_stream_broke() -> None:
    parser = EventStreamParser()
    assert parser.feed(b"\0" * 12) == [BROKEN]
    assert parser.feed(STREAM) == []


def test_headers_of_every_type_are_passed_over() -> None:
    others = b"".join(
        [
            header(b"a", 0, b""), header(b"b", 1, b""), header(b"c", 2, b"x"),
            header(b"d", 3, b"xx"), header(b"e", 4, b"x" * 4), header(b"f", 5, b"x" * 8),
            header(b"g", 6, b"\0\x02xx"), header(b"h", 8, b"x" * 8), header(b"i", 9, b"x" * 16),
        ]
    )  # fmt: skip
    assert parse(framed(others + TYPES)) == [SSEEvent(b"event/ping", b"{}")]


@pytest.mark.parametrize(
    "message",
    [
        framed(TYPES + header(b"x", 42, b"")),
        framed(TYPES + b"\x09x"),
        framed(TYPES + header(b"x", 7, b"\0\x09x")),
        framed(TYPES + header(b"x", 7, b"\0")),
        framed(text(b":message-type", b"event")),
        framed(text(b":message-type", b"strange")),
        framed(b""),
        framed(TYPES, size=MESSAGE_BYTES_MAX + 1),
        framed(TYPES, size=8),
    ],
)
def test_a_message_against_the_format_ends_the_stream(message: bytes) -> None:
    assert parse(message) == [BROKEN]


def test_a_cut_message_gives_nothing() -> None:
    assert [event.event for event in parse(STREAM[:-1])] == NAMES[:2]
