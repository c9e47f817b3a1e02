# SPDX-License-Identifier: Apache-2.0
"""
AES-256-GCM in the one size that records use: 256-bit key, 96-bit nonce, 128-bit tag.

Other sizes are refused: a nonce of another length is hashed to a counter, which costs security and
has been got wrong, and a short tag is easier to forge. See NIST SP 800-38D, sections 5.2.1.1, 8.2.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """
    Encrypt under a key and a nonce that were never used together before.

    Returns:
        The ciphertext with its tag at the end.

    Raises:
        ValueError: If key or nonce is not of the one size.
    """
    if not _fits(key, nonce):
        message = f"the key must have {KEY_BYTES} bytes and the nonce {NONCE_BYTES}"
        raise ValueError(message)
    return AESGCM(key).encrypt(nonce, plaintext, associated_data)


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes | None:
    """Decrypt; None if a size is another or anything was changed."""
    if not _fits(key, nonce):
        return None
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated_data)
    except InvalidTag:
        return None


def _fits(key: bytes, nonce: bytes) -> bool:
    return len(key) == KEY_BYTES and len(nonce) == NONCE_BYTES
