# SPDX-License-Identifier: Apache-2.0
"""
Sealing keys: what a browser seals a secret to, and how long each lives.

Rules:
1. A suite is HPKE (RFC 9180) in base mode with HKDF-SHA256 and AES-256-GCM; its key pair is derived
   from 32 stored bytes, so that a sealing key is wrapped and rewrapped as any other of keyvault's.
2. A key's life is a function of its age alone: it is sealed with for a while, opens what was sealed
   with it for a longer while, then is destroyed. Every replica comes to the same answer.
3. What comes in under a key that is no longer the newest goes back sealed anew under the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.keyvault.errors import SealedKeyFault, SealedKeyRefusedError
from services.shared.secret import Secret

INFO = b"ownkey/sealed-key/1"
"""HPKE's `info`; the format's version is its last part."""
BLOB_BYTES_MAX = 20_480

_SEED_LABEL = b"ownkey/keyvault/sealing-key"
_X25519_BYTES = 32
_ML_KEM_SEED_BYTES = 64
_ML_KEM_PUBLIC_BYTES = 1_184


class SealingSuite(StrEnum):
    """A way to seal; the value is part of its keys' names."""

    X25519 = "x25519"
    X25519_ML_KEM_768 = "x25519-ml-kem-768"


_KEY_NAME = re.compile(
    rf"(?P<suite>{'|'.join(suite.value for suite in SealingSuite)})-(?P<number>[1-9][0-9]{{0,8}})"
)
_HPKE = {
    SealingSuite.X25519: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    # https://datatracker.ietf.org/doc/draft-ietf-hpke-pq/ (MLKEM768-X25519, that is X-Wing)
    SealingSuite.X25519_ML_KEM_768: Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """
    How long sealing keys live.

    Args:
        seal: How long one is sealed with.
        overlap: How much longer it opens.
    """

    seal: timedelta
    overlap: timedelta


@dataclass(frozen=True, slots=True, order=True)
class SealingKeyName:
    """
    Which sealing key.

    Args:
        suite: Its suite.
        number: Its number within the suite, from 1.
    """

    suite: SealingSuite
    number: int

    def __str__(self) -> str:
        return f"{self.suite.value}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> SealingKeyName | None:
        """Read a name; None if it is none."""
        match = _KEY_NAME.fullmatch(text)
        return cls(SealingSuite(match["suite"]), int(match["number"])) if match else None


@dataclass(frozen=True, slots=True)
class Age:
    """
    When a sealing key was made, and when that was looked at; both on the database's clock.

    Args:
        create_time: When it was made.
        read_time: When its row was read.
    """

    create_time: datetime
    read_time: datetime

    def may_seal(self, lifetimes: Lifetimes) -> bool:
        """Tell whether it may still be sealed with."""
        return self.read_time - self.create_time < lifetimes.seal

    def may_open(self, lifetimes: Lifetimes) -> bool:
        """Tell whether what was sealed with it still opens."""
        return self.read_time - self.create_time < lifetimes.seal + lifetimes.overlap


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """
    A sealed secret as a browser keeps it.

    Args:
        sealing_key: Id of the key it is sealed with, as it was sent.
        blob: HPKE encapsulation followed by the ciphertext.
    """

    sealing_key: str
    blob: bytes


def public_key(suite: SealingSuite, seed: Secret) -> bytes:
    """Return the public key of a seed: X25519's 32 bytes, after ML-KEM's 1,184 where it has one."""
    private = _private_key(suite, seed)
    if isinstance(private, X25519PrivateKey):
        return private.public_key().public_bytes_raw()
    ml_kem, x25519 = _halves(suite, seed)
    return ml_kem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def seal(suite: SealingSuite, recipient: bytes, plaintext: Secret) -> bytes:
    """
    Seal to a public key; the ephemeral key is the library's own, so no two blobs are alike.

    Args:
        suite: The suite.
        recipient: A public key of that suite.
        plaintext: What to seal.

    Returns:
        The encapsulation followed by the ciphertext.
    """
    if suite is SealingSuite.X25519:
        key: X25519PublicKey | MLKEM768X25519PublicKey = X25519PublicKey.from_public_bytes(
            recipient
        )
    else:
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(recipient[:_ML_KEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(recipient[_ML_KEM_PUBLIC_BYTES:]),
        )
    return _HPKE[suite].encrypt(plaintext.reveal_bytes(), key, info=INFO)


def unseal(suite: SealingSuite, seed: Secret, blob: bytes) -> Secret:
    """
    Open a blob.

    Raises:
        SealedKeyRefusedError: If it was not sealed to this key, or was changed since.
    """
    try:
        return Secret(_HPKE[suite].decrypt(blob, _private_key(suite, seed), info=INFO))
    except InvalidTag as fault:
        raise SealedKeyRefusedError(SealedKeyFault.NOT_AUTHENTIC) from fault


def _private_key(suite: SealingSuite, seed: Secret) -> X25519PrivateKey | MLKEM768X25519PrivateKey:
    if suite is SealingSuite.X25519:
        return X25519PrivateKey.from_private_bytes(_expand(suite, seed, _X25519_BYTES))
    return MLKEM768X25519PrivateKey(*_halves(suite, seed))


def _halves(suite: SealingSuite, seed: Secret) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    expanded = _expand(suite, seed, _ML_KEM_SEED_BYTES + _X25519_BYTES)
    return (
        MLKEM768PrivateKey.from_seed_bytes(expanded[:_ML_KEM_SEED_BYTES]),
        X25519PrivateKey.from_private_bytes(expanded[_ML_KEM_SEED_BYTES:]),
    )


def _expand(suite: SealingSuite, seed: Secret, length: int) -> bytes:
    derivation = HKDF(
        algorithm=hashes.SHA256(),
        length=length,
        salt=None,
        info=_SEED_LABEL + b"/" + suite.value.encode(),
    )
    return derivation.derive(seed.reveal_bytes())
