# SPDX-License-Identifier: Apache-2.0
"""
Reads JSON text that a person pasted, and names every fault in it by field path.

Values are never told: they may be secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from services.shared.errors import FieldViolation

__all__ = ["TextField", "decode_json", "read_object"]

_TELLABLE_NAME = re.compile(r"[A-Za-z]\w{0,40}")


def _accept(value: str) -> str:
    del value
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextField:
    """
    One text field of an object.
    """

    name: str
    example: str
    """Told with every fault of the field."""
    check: Callable[[str], str] = _accept
    """Says what is wrong with a value that is not empty, without telling it; "" for nothing."""
    required: bool = True


def decode_json(text: str) -> Any:
    """
    Decode JSON text.

    Raises:
        ValueError: It is no JSON; the message holds nothing of the text.
    """
    try:
        return msgspec.json.decode(text.encode())
    except (ValueError, RecursionError):
        raise ValueError("the text is not valid JSON; copy it whole, braces included") from None


def read_object(
    value: object,
    fields: Collection[TextField],
    *,
    path: str,
    faults: list[FieldViolation],
    takes_others: bool = False,
) -> dict[str, str]:
    """
    Read the text fields of an object; fields with faults are left out.

    Args:
        value: What stands at the path.
        fields: The fields it may have.
        path: Where it stands, "" for the top.
        faults: Takes what is wrong.
        takes_others: Whether further fields are let be.
    """
    if not isinstance(value, dict):
        names = ", ".join(field.name for field in fields if field.required)
        faults.append(FieldViolation(path or "secret", f"must be a JSON object with {names}"))
        return {}
    prefix = f"{path}." if path else ""
    known = {field.name for field in fields}
    if not takes_others:
        for name in value.keys() - known:
            told = name if _TELLABLE_NAME.fullmatch(name) else "?"
            listed = ", ".join(sorted(known))
            faults.append(FieldViolation(f"{prefix}{told}", f"is not known; fields are {listed}"))
    found: dict[str, str] = {}
    for field in fields:
        text = value.get(field.name)
        if text is None or text == "":
            wrong = "is missing" if field.required else ""
        elif not isinstance(text, str):
            wrong = "must be text"
        else:
            wrong = field.check(text)
            found[field.name] = text
        if wrong:
            found.pop(field.name, None)
            description = f"{wrong}; an example: {field.example}"
            faults.append(FieldViolation(f"{prefix}{field.name}", description))
    return found
