# SPDX-License-Identifier: Apache-2.0
"""The envelope: its bytes are fixed for ever, and nothing opens but what is whole and its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.keyvault.domain.envelope import (
    Binding,
    DataKey,
    Record,
    WrappedKey,
    check_record,
    seal,
    unseal,
)
from services.keyvault.errors import RecordRefusedError
from services.shared.secret import Secret

BINDING = Binding("demo", "main", 3, 2, "openai")
DATA_KEY = DataKey(Secret(bytes(range(32))), WrappedKey("local:test", 1, b"w" * 61))
NONCE = bytes(range(100, 112))
PLAINTEXT = "sk-proj-golden"


def sealed() -> Record:
    return seal(Secret(PLAINTEXT), BINDING, data_key=DATA_KEY, nonce=NONCE)


@pytest.mark.requirement("K9")
class TestFormatOne:
    def test_the_binding_context_keeps_its_golden_bytes(self) -> None:
        assert BINDING.context(1).hex() == (
            "0000000000000016" + b"ownkey/keyvault/record".hex() + "0000000000000001" + b"1".hex()
            + "0000000000000004" + b"demo".hex()
            + "0000000000000004" + b"main".hex()
            + "0000000000000001" + b"3".hex()
            + "0000000000000001" + b"2".hex()
            + "0000000000000006" + b"openai".hex()
        )  # fmt: skip

    def test_the_record_keeps_its_golden_bytes(self) -> None:
        record = sealed()

        assert (record.format_version, record.algorithm) == (1, "AES-256-GCM")
        assert record.nonce.hex() == "6465666768696a6b6c6d6e6f"
        assert record.ciphertext.hex() == CIPHERTEXT_GOLDEN
        assert record.commitment.hex() == COMMITMENT_GOLDEN

    def test_a_record_opens_to_its_secret(self) -> None:
        assert unseal(sealed(), BINDING, DATA_KEY.plaintext).reveal() == PLAINTEXT

    def test_contexts_of_shifted_fields_differ(self) -> None:
        contexts = {
            Binding("ab", "c", 1, 1, "openai").context(),
            Binding("a", "bc", 1, 1, "openai").context(),
            Binding("abc", "", 1, 1, "openai").context(),
            Binding("a", "b", 11, 1, "openai").context(),
            Binding("a", "b", 1, 11, "openai").context(),
        }

        assert len(contexts) == 5


@pytest.mark.requirement("K9")
class TestTampering:
    @pytest.mark.parametrize("field", ["nonce", "ciphertext", "commitment"])
    def test_every_flipped_bit_is_refused(self, field: str) -> None:
        record = sealed()
        for changed in _flips(getattr(record, field)):
            with pytest.raises(RecordRefusedError):
                unseal(replace(record, **{field: changed}), BINDING, DATA_KEY.plaintext)

    @pytest.mark.parametrize(
        "change",
        [
            {"format_version": 2},
            {"algorithm": "AES-128-GCM"},
            {"generation": 1},
            {"nonce": NONCE + b"\0"},
            {"nonce": NONCE[:-1]},
            {"nonce": b""},
            {"ciphertext": b"\0" * 16},
            {"ciphertext": b""},
            {"commitment": b""},
        ],
    )
    def test_what_the_format_does_not_allow_is_refused_before_unwrapping(
        self, change: dict[str, Any]
    ) -> None:
        with pytest.raises(RecordRefusedError):
            check_record(replace(sealed(), **change), BINDING)

    @pytest.mark.parametrize(
        "other",
        [
            replace(BINDING, account="other"),
            replace(BINDING, key_id="other"),
            replace(BINDING, version=4),
            replace(BINDING, provider="gemini"),
        ],
    )
    def test_a_record_opens_for_nobody_else(self, other: Binding) -> None:
        with pytest.raises(RecordRefusedError):
            unseal(sealed(), other, DATA_KEY.plaintext)

    def test_a_record_from_before_a_re_encryption_is_refused(self) -> None:
        with pytest.raises(RecordRefusedError):
            unseal(sealed(), replace(BINDING, generation=3), DATA_KEY.plaintext)

    def test_another_data_key_is_refused_by_the_commitment(self) -> None:
        for key in (Secret(bytes(32)), Secret(b""), Secret(bytes(range(33)))):
            with pytest.raises(RecordRefusedError):
                unseal(sealed(), BINDING, key)

    def test_no_part_of_one_record_works_in_another(self) -> None:
        """Exchanges nonce, ciphertext and commitment between owners, in all mixtures."""
        bindings = [
            BINDING,
            replace(BINDING, account="other"),
            replace(BINDING, key_id="other"),
            replace(BINDING, version=4),
            replace(BINDING, generation=3),
            replace(BINDING, provider="gemini"),
        ]
        records = [
            seal(
                Secret(PLAINTEXT),
                binding,
                data_key=replace(DATA_KEY, plaintext=Secret(bytes([number]) * 32)),
                nonce=bytes([number]) * 12,
            )
            for number, binding in enumerate(bindings)
        ]
        for (mine, own), (theirs, other) in itertools.permutations(enumerate(records), 2):
            for parts in _mixtures():
                mixed = replace(own, **{part: getattr(other, part) for part in parts})
                with pytest.raises(RecordRefusedError):
                    unseal(mixed, bindings[mine], Secret(bytes([mine]) * 32))
            with pytest.raises(RecordRefusedError):
                unseal(other, bindings[mine], Secret(bytes([theirs]) * 32))

    def test_a_refusal_holds_no_secret(self) -> None:
        with pytest.raises(RecordRefusedError) as refused:
            unseal(sealed(), replace(BINDING, account="other"), DATA_KEY.plaintext)

        assert PLAINTEXT not in f"{refused.value!r}{refused.value.metadata}"


def _flips(value: bytes) -> Iterator[bytes]:
    for place, bit in itertools.product(range(len(value)), range(8)):
        yield value[:place] + bytes([value[place] ^ (1 << bit)]) + value[place + 1 :]


def _mixtures() -> Iterator[tuple[str, ...]]:
    parts = ("nonce", "ciphertext", "commitment")
    for count in range(1, len(parts) + 1):
        yield from itertools.combinations(parts, count)


CIPHERTEXT_GOLDEN = "3b70f3160b863cb3590d338cbf0ba9f9f6ffd5ecdc4a5cf36385e54204ea"
COMMITMENT_GOLDEN = "9a1244e3e85fcab8f25476c198b330299e626a7d0cde445349c57d4d41f289b4"
