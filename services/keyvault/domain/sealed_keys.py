# SPDX-License-Identifier: Apache-2.0
"""
What a browser seals, and how it proves that a request is its own.

Rules:
1. The sealed bytes are canonical and length-prefixed: label, format version, account, provider, the
   browser's public signing key, secret. A format's bytes never change; a new layout is a new
   version.
2. A proof is an ECDSA signature on P-256 with SHA-256 (FIPS 186-5), as WebCrypto makes it: r and s,
   32 bytes each. It covers account, provider, request id, job and expiry, so it fits one request.
3. A proof is known by what it signs, not by its signature: (r, -s) is a signature of the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from services.keyvault.domain.names import ACCOUNT
from services.keyvault.errors import (
    ProofFault,
    ProofRefusedError,
    SealedKeyFault,
    SealedKeyRefusedError,
)
from services.shared.fingerprint import LENGTH_BYTES, canonical
from services.shared.secret import Secret

FORMAT_VERSION = b"1"
SIGNING_KEY_BYTES = 65
SIGNATURE_BYTES = 64
PROOF_SPAN_MAX = timedelta(seconds=120)
"""How far ahead of the server's time a proof may expire."""

_LABEL = b"ownkey/sealed-key"
_PROOF_LABEL = b"ownkey/sealed-key-proof"
_PARTS = 6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, eq=False)
class SealedSecret:
    """
    What a blob holds.

    Args:
        account: Account id.
        provider: Provider id.
        signing_key: The browser's public signing key, P-256, uncompressed (SEC 1, 65 bytes).
        secret: The secret as it was pasted.
    """

    account: str
    provider: str
    signing_key: bytes
    secret: Secret

    def encoded(self) -> Secret:
        """Return the bytes to seal."""
        parts = [
            _LABEL,
            FORMAT_VERSION,
            ACCOUNT.format(account=self.account).encode(),
            self.provider.encode(),
            self.signing_key,
            self.secret.reveal_bytes(),
        ]
        return Secret(canonical(parts))


def decode(plaintext: Secret, *, account: str, provider: str) -> SealedSecret:
    """
    Read what a blob holds, for whom it must be.

    Args:
        plaintext: The opened bytes.
        account: Account id that it must name.
        provider: Provider id that it must name.

    Raises:
        SealedKeyRefusedError: If it is for another account or provider, or no such format.
    """
    parts = _split(plaintext.reveal_bytes())
    if len(parts) != _PARTS or parts[:2] != [_LABEL, FORMAT_VERSION]:
        raise SealedKeyRefusedError(SealedKeyFault.MALFORMED)
    _, _, whose, where, signing_key, secret = parts
    if whose != ACCOUNT.format(account=account).encode():
        raise SealedKeyRefusedError(SealedKeyFault.OTHER_ACCOUNT)
    if where != provider.encode():
        raise SealedKeyRefusedError(SealedKeyFault.OTHER_PROVIDER)
    return SealedSecret(account, provider, signing_key, Secret(secret))


@dataclass(frozen=True, slots=True)
class Proof:
    """
    A proof as it was sent.

    Args:
        expire_time: Until when it holds; whole milliseconds count.
        job: Id of the job it is for; "" for one request.
        signature: r and s, 64 bytes.
    """

    expire_time: datetime
    job: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class ProvenRequest:
    """
    What a proof must be about.

    Args:
        account: Account id.
        provider: Provider id.
        request_id: UUID of the request.
    """

    account: str
    provider: str
    request_id: str

    def signed_bytes(self, proof: Proof) -> bytes:
        """Return what the proof's signature covers."""
        job = f"{ACCOUNT.format(account=self.account)}/jobs/{proof.job}" if proof.job else ""
        return canonical(
            [
                _PROOF_LABEL,
                FORMAT_VERSION,
                ACCOUNT.format(account=self.account).encode(),
                self.provider.encode(),
                self.request_id.encode(),
                job.encode(),
                str((proof.expire_time - _EPOCH) // _MILLISECOND).encode(),
            ]
        )

    def digest(self, proof: Proof) -> bytes:
        """Return what a used proof is known by, 32 bytes."""
        return hashlib.sha256(self.signed_bytes(proof)).digest()


def check_signature(request: ProvenRequest, proof: Proof, signing_key: bytes) -> None:
    """
    Refuse a proof that the browser which sealed the key did not make for this request.

    Raises:
        ProofRefusedError: If it is another key's, or about another request.
        SealedKeyRefusedError: If the signing key is none.
    """
    if len(proof.signature) != SIGNATURE_BYTES:
        raise ProofRefusedError(ProofFault.SIGNATURE)
    half = SIGNATURE_BYTES // 2
    r, s = (int.from_bytes(part) for part in (proof.signature[:half], proof.signature[half:]))
    try:
        read_signing_key(signing_key).verify(
            encode_dss_signature(r, s), request.signed_bytes(proof), ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature as fault:
        raise ProofRefusedError(ProofFault.SIGNATURE) from fault


def check_expiry(proof: Proof, *, now: datetime) -> None:
    """
    Refuse a proof whose time is over, or that would hold for too long.

    Raises:
        ProofRefusedError: If it is not fresh.
    """
    if proof.expire_time <= now:
        raise ProofRefusedError(ProofFault.EXPIRED)
    if proof.expire_time > now + PROOF_SPAN_MAX:
        raise ProofRefusedError(ProofFault.TOO_LONG)


def read_signing_key(signing_key: bytes) -> ec.EllipticCurvePublicKey:
    """
    Read a browser's public signing key.

    Raises:
        SealedKeyRefusedError: If it is no point of P-256 in uncompressed form.
    """
    if len(signing_key) != SIGNING_KEY_BYTES:
        raise SealedKeyRefusedError(SealedKeyFault.MALFORMED)
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), signing_key)
    except ValueError as fault:
        raise SealedKeyRefusedError(SealedKeyFault.MALFORMED) from fault


def _split(data: bytes) -> list[bytes]:
    """Take canonical bytes apart; no more parts than there must be."""
    parts: list[bytes] = []
    while data:
        length = int.from_bytes(data[:LENGTH_BYTES])
        end = LENGTH_BYTES + length
        if len(data) < end or len(parts) == _PARTS:
            raise SealedKeyRefusedError(SealedKeyFault.MALFORMED)
        parts.append(data[LENGTH_BYTES:end])
        data = data[end:]
    return parts
