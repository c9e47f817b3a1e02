# SPDX-License-Identifier: Apache-2.0
"""The one type that holds a secret in memory."""

from __future__ import annotations

from typing import NoReturn

HIDDEN = "<secret>"


class Secret:
    """
    A secret that does not leave by accident.

    Printing, formatting, comparing, hashing, copying and pickling give nothing away or fail.

    Args:
        value: The plaintext.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> str:
        """Return the plaintext as text; call it in as few places as possible."""
        return self._value.decode()

    def reveal_bytes(self) -> bytes:
        """Return the plaintext as bytes; call it in as few places as possible."""
        return self._value

    def __repr__(self) -> str:
        return HIDDEN

    def __format__(self, format_spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> NoReturn:
        message = "secrets are not compared; use hmac.compare_digest on what they protect"
        raise TypeError(message)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        message = "secrets are not copied or pickled"
        raise TypeError(message)

    def __bool__(self) -> bool:
        return bool(self._value)
