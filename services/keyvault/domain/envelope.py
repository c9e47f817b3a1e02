# SPDX-License-Identifier: Apache-2.0
"""
The envelope around a stored secret.

Rules:
1. Each key version has its own fresh 256-bit data key; the secret is encrypted under it by
   AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce.
2. The data key is wrapped by the key-encryption key under a *binding context*: canonical bytes of
   format, account, key, version, generation and provider. The same bytes are the additional data
   of the secret's own encryption, so a row works in no other row's place.
3. AES-GCM does not commit to its key: a commitment, HKDF-SHA256 (RFC 5869) of the data key, is
   compared in constant time before anything is decrypted.
4. A format's bytes never change; a new layout is a new format version beside the old ones.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.keyvault.domain import aead
from services.keyvault.domain.aead import NONCE_BYTES, TAG_BYTES
from services.keyvault.errors import RecordRefusedError
from services.shared.fingerprint import canonical
from services.shared.secret import Secret

FORMAT_VERSION = 1
ALGORITHM = "AES-256-GCM"
DATA_KEY_BYTES = aead.KEY_BYTES
COMMITMENT_BYTES = 32

_PURPOSE = b"ownkey/keyvault/record"
_COMMITMENT_LABEL = b"commit"


@dataclass(frozen=True, slots=True)
class Binding:
    """
    Whose secret a record holds.

    Args:
        account: Account id.
        key_id: Key id.
        version: Number of the key's version.
        generation: Number of the version's encryption, raised when it is encrypted anew.
        provider: Provider id.
    """

    account: str
    key_id: str
    version: int
    generation: int
    provider: str

    def context(self, format_version: int = FORMAT_VERSION) -> bytes:
        """Return the canonical bytes that bind a record of that format."""
        return canonical(
            [
                _PURPOSE,
                str(format_version).encode(),
                self.account.encode(),
                self.key_id.encode(),
                str(self.version).encode(),
                str(self.generation).encode(),
                self.provider.encode(),
            ]
        )


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """
    A data key as it is stored.

    Args:
        kek_name: Name of the key-encryption key.
        kek_version: Its version.
        wrapped: The wrapped bytes, at most 1,024.
    """

    kek_name: str
    kek_version: int
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class DataKey:
    """
    A fresh data key in both forms.

    Args:
        plaintext: 32 bytes.
        wrapped: What is stored of it.
    """

    plaintext: Secret
    wrapped: WrappedKey


@dataclass(frozen=True, slots=True)
class Record:
    """
    A secret as it is stored.

    Args:
        format_version: Layout of the record.
        algorithm: Cipher of the secret.
        generation: Number of this encryption.
        data_key: The wrapped data key.
        nonce: 12 bytes.
        ciphertext: With its 16-byte tag at the end.
        commitment: 32 bytes.
    """

    format_version: int
    algorithm: str
    generation: int
    data_key: WrappedKey
    nonce: bytes
    ciphertext: bytes
    commitment: bytes


def seal(secret: Secret, binding: Binding, *, data_key: DataKey, nonce: bytes) -> Record:
    """
    Encrypt a secret.

    Args:
        secret: The clean secret.
        binding: Whose it is.
        data_key: Fresh, made for this binding's context.
        nonce: 12 random bytes.
    """
    context = binding.context()
    key = data_key.plaintext.reveal_bytes()
    return Record(
        format_version=FORMAT_VERSION,
        algorithm=ALGORITHM,
        generation=binding.generation,
        data_key=data_key.wrapped,
        nonce=nonce,
        ciphertext=aead.encrypt(key, nonce, secret.reveal_bytes(), context),
        commitment=_commitment(key, context),
    )


def check_record(record: Record, binding: Binding) -> None:
    """
    Refuse a record that cannot be this binding's, before its data key is unwrapped.

    Raises:
        RecordRefusedError: If format, algorithm, generation or a size is not as it must be.
    """
    fits = (
        record.format_version == FORMAT_VERSION
        and record.algorithm == ALGORITHM
        and record.generation == binding.generation
        and len(record.nonce) == NONCE_BYTES
        and len(record.ciphertext) > TAG_BYTES
        and len(record.commitment) == COMMITMENT_BYTES
    )
    if not fits:
        raise RecordRefusedError(binding.account, binding.key_id, binding.version)


def unseal(record: Record, binding: Binding, data_key: Secret) -> Secret:
    """
    Decrypt a secret.

    Args:
        record: The stored record.
        binding: Whose it must be, from what is known apart from the record.
        data_key: The unwrapped data key.

    Raises:
        RecordRefusedError: If anything about it was changed.
    """
    check_record(record, binding)
    context = binding.context(record.format_version)
    key = data_key.reveal_bytes()
    if len(key) == DATA_KEY_BYTES and hmac.compare_digest(
        record.commitment, _commitment(key, context)
    ):
        secret = aead.decrypt(key, record.nonce, record.ciphertext, context)
        if secret is not None:
            return Secret(secret)
    raise RecordRefusedError(binding.account, binding.key_id, binding.version)


def _commitment(key: bytes, context: bytes) -> bytes:
    derivation = HKDF(
        algorithm=hashes.SHA256(),
        length=COMMITMENT_BYTES,
        salt=None,
        info=_COMMITMENT_LABEL + context,
    )
    return derivation.derive(key)
