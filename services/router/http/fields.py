# SPDX-License-Identifier: Apache-2.0
"""
Reads JSON objects strictly: what is not understood is refused by its path, never passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from services.shared.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


class Fields:
    """
    One JSON object, taken apart field by field; null is as good as absent.

    Args:
        value: The object.
        path: Where it stands, empty for the body.

    Raises:
        InvalidArgumentError: It is no object.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise InvalidArgumentError.of(path or "body", "must be a JSON object")
        self._left: dict[str, Any] = {k: v for k, v in value.items() if v is not None}
        self._path = path

    def at(self, name: str) -> str:
        """
        Give the path of a field.
        """
        return f"{self._path}.{name}" if self._path else name

    def raw(self, name: str) -> Any:
        """
        Take a field as it is; None where it is absent.
        """
        return self._left.pop(name, None)

    def text(self, name: str) -> str:
        """
        Take a text; empty where it is absent.
        """
        return self._typed(name, str, "a string") or ""

    def flag(self, name: str) -> bool:
        """
        Take a boolean; false where it is absent.
        """
        return self._typed(name, bool, "true or false") or False

    def integer(self, name: str, *, bits: int = 32) -> int | None:
        """
        Take a whole number that fits so many bits.
        """
        value = self._typed(name, int, "a whole number")
        if isinstance(value, bool) or (value is not None and abs(value) >= 2 ** (bits - 1)):
            raise InvalidArgumentError.of(self.at(name), f"must be a whole number of {bits} bits")
        return value

    def number(self, name: str) -> float | None:
        """
        Take a number.
        """
        value = self.raw(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InvalidArgumentError.of(self.at(name), "must be a number")
        return None if value is None else float(value)

    def items(self, name: str) -> list[Any]:
        """
        Take a list; empty where it is absent.
        """
        return self._typed(name, list, "a list") or []

    def inner(self, name: str) -> Fields | None:
        """
        Take an object; None where it is absent.
        """
        value = self.raw(name)
        return None if value is None else Fields(value, self.at(name))

    def drop(self, *names: str) -> None:
        """
        Pass over fields that do not change the answer.
        """
        for name in names:
            self._left.pop(name, None)

    def only(self, allowed: Mapping[str, object]) -> None:
        """
        Take fields that may say one thing alone, the default.
        """
        for name, value in allowed.items():
            given = self._left.pop(name, value)
            if given != value:
                raise InvalidArgumentError.of(self.at(name), f"only {value!r} is served here")

    def end(self) -> None:
        """
        Refuse what was not taken.
        """
        for name in self._left:
            raise InvalidArgumentError.of(self.at(name), "is not served here; remove it")

    def _typed(self, name: str, kind: type[T], what: str) -> T | None:
        value = self.raw(name)
        if value is not None and not isinstance(value, kind):
            raise InvalidArgumentError.of(self.at(name), f"must be {what}")
        return value
