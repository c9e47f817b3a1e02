# SPDX-License-Identifier: Apache-2.0
"""
Who calls, and what they may call.

An identity is a name. On loopback it comes from a token file, one file an identity; a caller
without a token is `anonymous`. The policy is a table of RPCs; what is not in it is denied.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from services.shared.config import read_secret_file
from services.shared.errors import AccessDeniedError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from services.shared.secret import Secret

ANONYMOUS = "anonymous"
ROUTER = "router"
KEYVAULT = "keyvault"
OPERATOR = "operator"
IDENTITIES = frozenset({ROUTER, KEYVAULT, OPERATOR})

METADATA_KEY = "authorization"
_SCHEME = "Bearer "


class TokenAuthenticator:
    """
    Knows callers by a bearer token in the call's metadata.

    Args:
        folder: Holds one file for each identity with that identity's token.
    """

    def __init__(self, folder: Path) -> None:
        self._identities = {
            _digest(read_secret_file(folder / name).reveal()): name for name in sorted(IDENTITIES)
        }

    def identify(self, metadata: Mapping[str, str | bytes]) -> str:
        """
        Return the caller's identity.

        Args:
            metadata: The call's metadata.

        Raises:
            UnauthenticatedError: If a token is sent that is not known.
        """
        value = metadata.get(METADATA_KEY)
        if value is None:
            return ANONYMOUS
        token = value if isinstance(value, str) else value.decode("latin-1")
        # A digest is looked up, so the time taken tells nothing about a token.
        identity = self._identities.get(_digest(token.removeprefix(_SCHEME)))
        if identity is None:
            message = (
                "the call's authorization token is not known to this service; send the token of "
                "one of its identities, or none to call as an anonymous caller on loopback"
            )
            raise UnauthenticatedError(message)
        return identity


class Policy:
    """
    Which identity may call which RPC; what is not listed is denied.

    Args:
        rows: Full method name, `/package.Service/Method`, to the identities that may call it.
    """

    def __init__(self, rows: Mapping[str, frozenset[str]]) -> None:
        self._rows = dict(rows)

    def check(self, identity: str, rpc: str) -> None:
        """
        Let a call pass.

        Raises:
            AccessDeniedError: If the identity may not call the RPC.
        """
        if identity not in self._rows.get(rpc, frozenset()):
            message = (
                f"the identity '{identity}' may not call {rpc}; ask an operator to allow it in the "
                "policy, or call with another identity"
            )
            raise AccessDeniedError(message, metadata={"identity": identity, "rpc": rpc})


def call_metadata(token: Secret) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a client presents its token."""
    return ((METADATA_KEY, _SCHEME + token.reveal()),)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
