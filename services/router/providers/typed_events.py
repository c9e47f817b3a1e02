# SPDX-License-Identifier: Apache-2.0
"""
What streams of named events have in common: the type that each says, and tool calls in blocks.

Providers add events at any time and ask that unknown ones be ignored: an event that does not have
the shape of the known ones is a fault only where its type is known.
"""

from __future__ import annotations

import msgspec

from services.router.domain.text import StreamEvent, ToolCallDelta

__all__ = ["NO_ARGUMENTS", "BlockCalls", "arguments_text", "kind_of"]

NO_ARGUMENTS = msgspec.Raw(b"{}")
"""What a call without arguments carries."""

_NULL = b"null"


class _Kind(msgspec.Struct):
    type: str | None = None


_decode_kind = msgspec.json.Decoder(_Kind).decode


def kind_of(data: bytes) -> str | None:
    """
    Give the type that an event says, whatever its shape is otherwise.

    Raises:
        msgspec.DecodeError: It is no JSON object.
    """
    return _decode_kind(data).type


def arguments_text(value: msgspec.Raw) -> str:
    """
    Give a call's arguments as the JSON text of an object.
    """
    text = bytes(value)
    return bytes(NO_ARGUMENTS).decode() if text == _NULL else text.decode()


class BlockCalls:
    """
    The tool calls of a stream whose content comes in numbered blocks, one call in each.

    Blocks that were not begun as a call are none: the provider's own tools write into such.
    """

    __slots__ = ("_argued", "_places")

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        """From a block's number to the call's place among the calls."""
        self._argued: set[int] = set()
        """Calls of which arguments have come."""

    def begin(self, block: int | None, call_id: str, name: str, out: list[StreamEvent]) -> None:
        """
        Begin a call.
        """
        place = self._places.setdefault(block or 0, len(self._places))
        out.append(ToolCallDelta(place, call_id, name, ""))

    def add(self, block: int | None, arguments: str, out: list[StreamEvent]) -> None:
        """
        Take a piece of a call's arguments.
        """
        place = self._places.get(block or 0)
        if place is not None and arguments:
            self._argued.add(place)
            out.append(ToolCallDelta(place, "", "", arguments))

    def end(self, block: int | None, out: list[StreamEvent]) -> None:
        """
        Complete a call without arguments, of which no piece came, to the JSON of a whole answer.
        """
        place = self._places.get(block or 0)
        if place is not None and place not in self._argued:
            self.add(block, arguments_text(NO_ARGUMENTS), out)
