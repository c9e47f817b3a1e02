# SPDX-License-Identifier: Apache-2.0
"""
Events that name their own type, and the JSON that tool calls carry in them.

Providers add events at any time and ask that unknown ones be ignored: an event that does not have
the shape of the known ones is a fault only where its type is known.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

__all__ = ["NO_ARGUMENTS", "TypedEvents", "arguments_text"]

NO_ARGUMENTS = msgspec.Raw(b"{}")
"""What a call without arguments carries."""

_NULL = b"null"

T = TypeVar("T", bound=msgspec.Struct)


class _Kind(msgspec.Struct):
    type: str | None = None


_decode_kind = msgspec.json.Decoder(_Kind).decode


class TypedEvents(Generic[T]):
    """
    Reads the events of one stream format.

    Args:
        form: The shape of every known event.
        known: The types that are read.
    """

    def __init__(self, form: type[T], *, known: frozenset[str]) -> None:
        self._decode = msgspec.json.Decoder(form).decode
        self._known = known

    def read(self, data: bytes) -> T | None:
        """
        Give an event; None where its type is not known and its shape is another.

        Raises:
            msgspec.DecodeError: It is not JSON, or not of the shape of its type.
        """
        try:
            return self._decode(data)
        except msgspec.ValidationError:
            if _decode_kind(data).type in self._known:
                raise
            return None


def arguments_text(value: msgspec.Raw) -> str:
    """
    Give a call's arguments as the JSON text of an object.
    """
    text = bytes(value)
    return bytes(NO_ARGUMENTS).decode() if text == _NULL else text.decode()
