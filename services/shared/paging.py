# SPDX-License-Identifier: Apache-2.0
"""Opaque page tokens, bound to the query they came from. A token grants nothing."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from services.shared.errors import InvalidArgumentError
from services.shared.fingerprint import canonical

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000
_TAG_BYTES = 16


def page_size(requested: int) -> int:
    """
    Apply the rules of page sizes: 0 is the default, too many are coerced.

    Raises:
        InvalidArgumentError: If it is negative.
    """
    if requested < 0:
        raise InvalidArgumentError.of("page_size", "must be zero or more; zero means 50")
    return min(requested, PAGE_SIZE_MAX) or PAGE_SIZE_DEFAULT


class PageTokens:
    """
    Makes and reads page tokens.

    Args:
        key: Separates our tokens from made-up ones; not a secret that protects anything.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, query: str, cursor: str) -> str:
        """Return the token that continues `query` after `cursor`."""
        tag = self._tag(query, cursor)
        return base64.urlsafe_b64encode(tag + cursor.encode()).decode().rstrip("=")

    def decode(self, query: str, token: str) -> str:
        """
        Return the cursor of a token, empty for an empty token.

        Raises:
            InvalidArgumentError: If the token is another query's or not ours.
        """
        if not token:
            return ""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            cursor = raw[_TAG_BYTES:].decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raw, cursor = b"", ""
        if not hmac.compare_digest(raw[:_TAG_BYTES], self._tag(query, cursor)):
            raise InvalidArgumentError.of(
                "page_token",
                "does not belong to this query; send the next_page_token of the previous page with "
                "the same arguments, or none to begin anew",
            )
        return cursor

    def _tag(self, query: str, cursor: str) -> bytes:
        message = canonical([query.encode(), cursor.encode()])
        return hmac.new(self._key, message, hashlib.sha256).digest()[:_TAG_BYTES]
