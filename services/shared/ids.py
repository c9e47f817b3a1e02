# SPDX-License-Identifier: Apache-2.0
"""Identifiers made by us and by callers."""

from __future__ import annotations

import uuid

from services.shared.errors import InvalidArgumentError


def new_id() -> str:
    """Return a random UUID as text (RFC 9562, version 4)."""
    return str(uuid.uuid4())


def parse_uuid(text: str, field: str) -> str:
    """
    Check a UUID made by a caller and return its canonical form.

    Args:
        text: What the caller sent.
        field: Path of the request field it came from.

    Raises:
        InvalidArgumentError: If it is empty or no UUID.
    """
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        canonical = ""
    # uuid.UUID also takes braces and forms without hyphens; one spelling is enough.
    if not canonical or canonical != text.lower():
        raise InvalidArgumentError.of(
            field,
            "must be a UUID such as 0b8b3c0e-6d0f-4f43-9d2b-0c1f6a3f5a10, made by the caller once "
            "and kept over its retries",
        )
    return canonical
