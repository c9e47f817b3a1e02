# SPDX-License-Identifier: Apache-2.0
"""
Who calls: an identity is a name, shown by a certificate or by a token.

Over TLS the caller's certificate is issued for SPIFFE URIs and DNS names, which the policy gives to
identities. In plain text, on loopback, a token file of its own shows an identity, and a caller
without a token is `anonymous`. See https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography import x509

from services.shared.config import read_secret_file
from services.shared.errors import CertificateEndedError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from services.shared.policy import Policy
    from services.shared.secret import Secret

ANONYMOUS = "anonymous"
BACKEND = "backend"
ROUTER = "router"
KEYVAULT = "keyvault"
OPERATOR = "operator"
WEB = "web"
IDENTITIES = frozenset({ROUTER, KEYVAULT, OPERATOR, WEB})
"""Those that the packaged policies give a token."""

METADATA_KEY = "authorization"
_SCHEME = "Bearer "
_SSL = b"ssl"
NAMES_SHOWN_MAX = 4
CERTIFICATES_KNOWN_MAX = 256
"""Callers' certificates whose end is remembered; to read one takes longer than to look it up."""


@dataclass(frozen=True, slots=True)
class Caller:
    """
    What a caller shows.

    Args:
        encrypted: Whether the connection is TLS.
        names: The SPIFFE URIs and DNS names of a certificate that was checked; none without one.
        token: The token sent along; empty without one.
        certificate_end: When that certificate ends; None without one.
    """

    encrypted: bool = False
    names: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    certificate_end: datetime | None = None


class Identities:
    """
    Knows callers.

    Args:
        policy: Says which names and tokens there are.
        tokens_dir: Holds a token file for each identity that has one; None where tokens are not
            taken.

    Raises:
        ConfigError: If a token file cannot be used.
    """

    def __init__(self, policy: Policy, *, tokens_dir: Path | None) -> None:
        self._by_name = policy.identity_of_name
        self._by_token: Mapping[bytes, str] = {}
        if tokens_dir is not None:
            self._by_token = {
                _digest(read_secret_file(tokens_dir / name).reveal()): name
                for name in sorted(policy.with_token)
            }

    def identify(self, caller: Caller, *, now: datetime) -> str:
        """
        Return the caller's identity; where there is a certificate, it decides.

        Raises:
            CertificateEndedError: If the certificate ended while its connection stood.
            UnauthenticatedError: If what was shown is nobody's, or nothing was over TLS.
        """
        if caller.certificate_end is not None and caller.certificate_end <= now:
            message = (
                f"the certificate that the connection was made with ended at "
                f"{caller.certificate_end:%Y-%m-%d %H:%M:%S} UTC; issue a new one into the same "
                "file and connect anew"
            )
            raise CertificateEndedError(message)
        if caller.names:
            return self._certified(caller.names)
        if caller.token:
            # A digest is looked up, so the time taken tells nothing about a token.
            identity = self._by_token.get(_digest(caller.token))
            if identity is None:
                message = (
                    "the call's authorization token is not known to this service; send the token "
                    "of one of its identities, or none to call as an anonymous caller on loopback"
                )
                raise UnauthenticatedError(message)
            return identity
        if caller.encrypted:
            message = (
                "the call showed neither a certificate with a SPIFFE URI or DNS name nor a token; "
                "connect with the certificate of an identity that the policy names"
            )
            raise UnauthenticatedError(message)
        return ANONYMOUS

    def _certified(self, names: tuple[str, ...]) -> str:
        found = sorted({self._by_name[name] for name in names if name in self._by_name})
        if len(found) == 1:
            return found[0]
        shown = ", ".join(names[:NAMES_SHOWN_MAX])
        if found:
            message = (
                f"the certificate's names ({shown}) belong to several identities of the policy, "
                f"{' and '.join(found)}; use a certificate of one of them"
            )
        else:
            message = (
                f"no identity of the policy has a name of the certificate ({shown}); ask an "
                "operator to add one to the policy, or connect with another certificate"
            )
        raise UnauthenticatedError(message, metadata={"names": shown})


def grpc_caller(context: Any) -> Caller:
    """Return what the caller of a gRPC call shows, from the call's servicer context."""
    sent = dict(context.invocation_metadata() or ()).get(METADATA_KEY, "")
    token = sent if isinstance(sent, str) else sent.decode("latin-1")
    # https://grpc.github.io/grpc/core/grpc__security__constants_8h.html
    shown: Mapping[str, Any] = context.auth_context()
    names = (*shown.get("peer_uri", ()), *shown.get("peer_dns", ()))
    certificate = next(iter(shown.get("x509_pem_cert", ())), None)
    return Caller(
        encrypted=_SSL in shown.get("transport_security_type", ()),
        names=tuple(name.decode("utf-8", "replace") for name in names),
        token=token.removeprefix(_SCHEME),
        certificate_end=None if certificate is None else _end_of(certificate),
    )


def call_metadata(token: Secret | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a client presents its token; none where it has none."""
    return () if token is None else ((METADATA_KEY, _SCHEME + token.reveal()),)


@lru_cache(maxsize=CERTIFICATES_KNOWN_MAX)
def _end_of(certificate: bytes) -> datetime:
    """Return when a certificate ends; gRPC checked it at the handshake, so it is one."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
