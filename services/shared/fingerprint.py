# SPDX-License-Identifier: Apache-2.0
"""Canonical bytes and keyed fingerprints of structured input."""

from __future__ import annotations

import hmac
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.shared.secret import Secret

_LENGTH = struct.Struct(">Q")
LENGTH_BYTES = _LENGTH.size


def canonical(parts: Sequence[bytes]) -> bytes:
    """
    Join parts so that no two different lists give the same bytes.

    Each part is preceded by its length, eight bytes, big-endian.
    """
    pack = _LENGTH.pack
    return b"".join([piece for part in parts for piece in (pack(len(part)), part)])


def fingerprint(key: Secret, *, version: int, fields: Sequence[tuple[str, bytes]]) -> bytes:
    """
    Identify input without being able to tell what it was.

    Args:
        key: Key of the HMAC (RFC 2104).
        version: Version of the field list; another list needs another version.
        fields: Names and canonical values, in the list's order.

    Returns:
        32 bytes, HMAC-SHA256.
    """
    parts = [str(version).encode()]
    for name, value in fields:
        parts += [name.encode(), value]
    return hmac.digest(key.reveal_bytes(), canonical(parts), "sha256")
