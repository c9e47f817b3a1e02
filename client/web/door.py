# SPDX-License-Identifier: Apache-2.0
"""
Who may use the page: whoever holds the link, once; then the browser that opened it.

1. There is one link at a time. The one who shows its token gets a session, and a new link takes
   its place: a token that was seen is worth nothing.
2. Sessions are known by their digests alone. They end after SESSION_SECONDS, and the oldest ends
   when there would be more than SESSIONS_MAX.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from services.shared.clock import Clock

SESSION_SECONDS = 12 * 3600.0
SESSIONS_MAX = 8
_TOKEN_BYTES = 32


def new_token() -> str:
    """Make a token that nobody guesses."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


class Door:
    """
    Lets browsers in.

    Args:
        clock: Time.
        on_link: Told the token of each new link.
        make_token: Makes a token.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        on_link: Callable[[str], None],
        make_token: Callable[[], str] = new_token,
    ) -> None:
        self._clock = clock
        self._on_link = on_link
        self._make_token = make_token
        self._expected = b""
        self._sessions: dict[bytes, float] = {}
        """When each ends, by its digest, the oldest first."""

    def enter(self, token: str) -> str | None:
        """Give a session for the link's token; None for any other, one used before included."""
        if not hmac.compare_digest(_digest(token), self._expected):
            return None
        self.renew_link()
        session = self._make_token()
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions.pop(next(iter(self._sessions)))
        self._sessions[_digest(session)] = self._clock.monotonic() + SESSION_SECONDS
        return session

    def admits(self, session: str) -> bool:
        """Tell whether a session may call."""
        ends = self._sessions.get(_digest(session))
        return ends is not None and self._clock.monotonic() < ends

    def renew_link(self) -> None:
        """Put a new link in the place of the one before; without one nobody gets in."""
        token = self._make_token()
        self._expected = _digest(token)
        self._on_link(token)


def _digest(text: str) -> bytes:
    # A digest is looked up, so the time taken tells nothing about what it is of.
    return hashlib.sha256(text.encode()).digest()
