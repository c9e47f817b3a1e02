# SPDX-License-Identifier: Apache-2.0
"""
Client-held keys for callers in Python: seals and proves as the browser module does.

The formats are those of client/browser/README.md, byte by byte.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ownkey.keyvault.v1 import sealing_pb2

INFO = b"ownkey/sealed-key/1"
FORMAT_VERSION = b"1"
PROOF_SPAN = timedelta(seconds=100)
"""Less than the 120 seconds that are allowed, for clocks that are apart."""

_LABEL = b"ownkey/sealed-key"
_PROOF_LABEL = b"ownkey/sealed-key-proof"
_LENGTH_BYTES = 8
_SCALAR_BYTES = 32
_ML_KEM_BYTES = 1_184
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class ClientHeldKeys:
    """
    Seals keys and proves requests with one signing key.

    Args:
        signing_key: On P-256; a fresh one where none is given.
    """

    def __init__(self, signing_key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._signing_key = signing_key or ec.generate_private_key(ec.SECP256R1())

    @property
    def signing_key(self) -> bytes:
        """The public signing key, uncompressed, 65 bytes."""
        public = self._signing_key.public_key()
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def seal(
        self, sealing_key: sealing_pb2.SealingKey, *, account: str, provider: str, secret: str
    ) -> sealing_pb2.SealedKey:
        """
        Seal a secret.

        Args:
            sealing_key: From GetSealingKey.
            account: `accounts/{account}`.
            provider: Provider id.
            secret: The secret as pasted.
        """
        parts = [
            _LABEL,
            FORMAT_VERSION,
            account.encode(),
            provider.encode(),
            self.signing_key,
            secret.encode(),
        ]
        public = sealing_key.public_key
        if sealing_key.suite == sealing_pb2.SEALING_SUITE_X25519:
            kem = KEM.X25519
            recipient: X25519PublicKey | MLKEM768X25519PublicKey = (
                X25519PublicKey.from_public_bytes(public)
            )
        else:
            kem = KEM.MLKEM768_X25519
            recipient = MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(public[:_ML_KEM_BYTES]),
                X25519PublicKey.from_public_bytes(public[_ML_KEM_BYTES:]),
            )
        suite = Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        blob = suite.encrypt(_canonical(parts), recipient, info=INFO)
        return sealing_pb2.SealedKey(sealing_key=sealing_key.name, blob=blob)

    def prove(
        self,
        *,
        account: str,
        provider: str,
        request_id: str,
        job: str = "",
        expire_time: datetime | None = None,
    ) -> sealing_pb2.SealedKeyProof:
        """
        Prove that a request is one's own.

        Args:
            account: `accounts/{account}`.
            provider: Provider id.
            request_id: UUID of the request.
            job: `accounts/{account}/jobs/{job}` for a job; empty for one request.
            expire_time: Until when it holds; in 100 seconds where none is given.
        """
        until = expire_time or datetime.now(UTC) + PROOF_SPAN
        millis = (until - _EPOCH) // _MILLISECOND
        parts = [
            _PROOF_LABEL,
            FORMAT_VERSION,
            account.encode(),
            provider.encode(),
            request_id.lower().encode(),
            job.encode(),
            str(millis).encode(),
        ]
        encoded = self._signing_key.sign(_canonical(parts), ec.ECDSA(hashes.SHA256()))
        signature = b"".join(half.to_bytes(_SCALAR_BYTES) for half in decode_dss_signature(encoded))
        proof = sealing_pb2.SealedKeyProof(job=job, signature=signature)
        proof.expire_time.FromMilliseconds(millis)
        return proof


def _canonical(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(_LENGTH_BYTES) + part for part in parts)
