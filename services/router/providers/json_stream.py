# SPDX-License-Identifier: Apache-2.0
"""
An incremental splitter of JSON objects that arrive in pieces, alone or as one array.

Gemini's `streamGenerateContent` answers so without `alt=sse`, and Google's servers wrap the
error of a streaming method in an array: https://ai.google.dev/api/generate-content . Objects
are told apart by their braces alone; whether they are valid JSON is the reader's to see.
"""

from __future__ import annotations

import re

from services.router.providers.sse import EVENT_BYTES_MAX, SSEEvent, SSEEventTooLargeError

__all__ = ["JSONStreamParser"]

_SPECIAL = re.compile(rb'[{}"\\]')


class JSONStreamParser:
    """
    Turns bytes into one event per outermost object. Used for one stream.
    """

    stray = b""
    """Nothing is outside this format."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        """The unfinished object."""
        self._size = 0
        self._depth = 0
        self._in_string = False
        self._escaped = 0
        """How many of the next bytes stand behind a backslash: 0 or 1."""

    def feed(self, data: bytes) -> list[SSEEvent]:
        """
        Take the next bytes and give the objects they complete.

        Raises:
            SSEEventTooLargeError: The unfinished object exceeds the bound of an event.
        """
        events: list[SSEEvent] = []
        start = 0
        skip_until, self._escaped = self._escaped, 0
        for found in _SPECIAL.finditer(data):
            place, mark = found.start(), found.group()
            if place < skip_until:
                continue
            if self._in_string:
                skip_until = place + 2 if mark == b"\\" else 0
                self._in_string = mark != b'"'
            elif mark == b"{" and self._depth == 0:
                start, self._depth = place, 1
            elif mark == b"}" and self._depth == 1:
                self._depth = 0
                self._pieces.append(data[start : place + 1])
                events.append(SSEEvent(b"", b"".join(self._pieces)))
                self._pieces.clear()
                self._size = 0
            else:
                self._inside(mark)
        self._escaped = max(0, skip_until - len(data))
        if self._depth > 0:
            self._keep(data[start:])
        return events

    def _inside(self, mark: bytes) -> None:
        self._in_string = mark == b'"'
        if mark == b"{":
            self._depth += 1
        elif mark == b"}" and self._depth > 0:
            self._depth -= 1

    def finish(self) -> list[SSEEvent]:
        """
        Give nothing: an object that is not closed is cut.
        """
        return []

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > EVENT_BYTES_MAX:
            raise SSEEventTooLargeError
