# SPDX-License-Identifier: Apache-2.0
"""
An incremental parser of Server-Sent Events, fed bytes cut anywhere.

Follows https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream:
lines end in CR, LF or CRLF, a leading byte order mark is dropped, several `data` lines are
joined by LF, comments and unknown fields carry nothing. `id` and `retry` are not used: no
provider stream is ever resumed. Two things go beyond it:
1. An event is bounded, so that a provider cannot fill the memory.
2. Lines that are no field of the format are kept (bounded): a provider that fails after the
   head of a stream was sent may write its error as bare JSON.
"""

from __future__ import annotations

import msgspec

__all__ = ["EVENT_BYTES_MAX", "STRAY_BYTES_MAX", "SSEEvent", "SSEEventTooLargeError", "SSEParser"]

EVENT_BYTES_MAX = 1024 * 1024
"""The largest event, field names included. The largest events known to be sent are tool
calls and thought signatures of some tens of KiB."""

STRAY_BYTES_MAX = 64 * 1024
"""How much text outside the format is kept; provider errors are below 4 KiB."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_IGNORED_FIELDS = (b"id:", b"retry:")
_NAMED_DATA = b"\ndata: "
_BLANK_LINE = b"\n\n"
_DATA = b"data: "
_EVENT = b"event: "
_ONE_EVENT_BYTES_MAX = 4096
"""Reads up to this size are tried as one event, which is what a stream in its own pace brings."""
_LINES_NAMED = 3
_LINES_UNNAMED = 2


class SSEEvent(msgspec.Struct, frozen=True, gc=False):
    """
    One event.
    """

    event: bytes
    """The event's type; empty where none was given."""
    data: bytes


class SSEEventTooLargeError(Exception):
    """
    An event is larger than `EVENT_BYTES_MAX`.
    """


class SSEParser:
    """
    Turns bytes into events. Used for one stream.
    """

    __slots__ = ("_data", "_event", "_pieces", "_size", "_skip_line_feed", "_started", "_stray")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        """The unfinished line, in pieces, so that small cuts cost no copying."""
        self._data: list[bytes] = []
        self._event = b""
        self._size = 0
        """Bytes of the unfinished event, the unfinished line included."""
        self._skip_line_feed = False
        """The last byte was a CR that ended a line: an LF right after it belongs to it."""
        self._started = False
        self._stray = bytearray()

    @property
    def stray(self) -> bytes:
        """
        What stood outside the format, up to `STRAY_BYTES_MAX`.
        """
        return bytes(self._stray)

    def feed(self, data: bytes) -> list[SSEEvent]:
        """
        Take the next bytes and give the events they complete.

        Raises:
            SSEEventTooLargeError: The unfinished event exceeds its bound.
        """
        if not self._started and data[:1] not in (b"", _BYTE_ORDER_MARK[:1]):
            self._started = self._size == 0
        if self._size > 0 or self._skip_line_feed or not self._started:
            return self._feed_lines(data)
        if len(data) < _ONE_EVENT_BYTES_MAX:
            event = _one_event(data)
            if event is not None:
                return [event]
        end = data.rfind(_BLANK_LINE) + len(_BLANK_LINE)
        if len(_BLANK_LINE) <= end < EVENT_BYTES_MAX:
            events = _whole_events(data[:end])
            if events is not None:
                return events + self._feed_lines(data[end:])
        return self._feed_lines(data)

    def _feed_lines(self, data: bytes) -> list[SSEEvent]:
        if self._skip_line_feed and data:
            self._skip_line_feed = False
            data = data.removeprefix(b"\n")
        if not data:
            return []
        if b"\n" not in data and b"\r" not in data:
            self._pieces.append(data)
            self._grow(len(data))
            return []
        if self._pieces:
            self._pieces.append(data)
            self._size -= sum(map(len, self._pieces)) - len(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        lines = data.splitlines()
        if data.endswith(b"\r"):
            self._skip_line_feed = True
        elif not data.endswith(b"\n"):
            self._pieces.append(lines.pop())
        events: list[SSEEvent] = []
        for line in lines:
            self._line(line, events)
        if self._pieces:
            self._grow(len(self._pieces[0]))
        return events

    def finish(self) -> list[SSEEvent]:
        """
        Give the event that the end of the stream left without its closing blank line.

        The standard drops it. It is given here because some servers leave the last blank line
        off; whether it is whole is the caller's to judge (its JSON parses, the end marker is
        there).
        """
        events: list[SSEEvent] = []
        if self._pieces:
            line = b"".join(self._pieces)
            self._pieces.clear()
            self._size -= len(line)
            self._line(line, events)
        self._line(b"", events)
        return events

    def _line(self, line: bytes, events: list[SSEEvent]) -> None:
        if not self._started:
            self._started = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                events.append(SSEEvent(self._event, data))
                self._data.clear()
            self._event = b""
            self._size = 0
            return
        self._grow(len(line))
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b":"):
            return
        elif line.startswith(b"event:"):
            self._event = line[7:] if line[6:7] == b" " else line[6:]
        elif line == b"data":
            self._data.append(b"")
        elif not line.startswith(_IGNORED_FIELDS):
            room = STRAY_BYTES_MAX - len(self._stray)
            self._stray += (line + b"\n")[:room]

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > EVENT_BYTES_MAX:
            raise SSEEventTooLargeError


def _one_event(data: bytes) -> SSEEvent | None:
    """
    Read one whole event of the form nearly all have: one `data` line, after at most one `event`.

    None where it is of another form, or more or less than one.
    """
    if data[-1:] != b"\n":
        return None
    lines = data.splitlines()
    if len(lines) == _LINES_NAMED:
        kind, line, end = lines
        if kind.startswith(_EVENT) and line.startswith(_DATA) and not end:
            return SSEEvent(kind[7:], line[6:])
    elif len(lines) == _LINES_UNNAMED:
        line, end = lines
        if line.startswith(_DATA) and not end:
            return SSEEvent(b"", line[6:])
    return None


def _whole_events(data: bytes) -> list[SSEEvent] | None:
    """
    Read whole events of the form nearly all have: one `data` line, after at most one `event` line.

    None where any is of another form, which has to be read line by line.
    """
    if b"\r" in data:
        return None
    blocks = data[: -len(_BLANK_LINE)].split(_BLANK_LINE)
    lines = len(blocks)
    events: list[SSEEvent] = []
    for block in blocks:
        if block.startswith(_DATA):
            events.append(SSEEvent(b"", block[6:]))
            continue
        kind, named, line = block.partition(_NAMED_DATA)
        if not (named and kind.startswith(_EVENT)):
            return None
        events.append(SSEEvent(kind[7:], line))
        lines += 1
    # With any line more, an event had several of data or one that is read otherwise.
    return events if data.count(b"\n") == lines + len(blocks) else None
