# SPDX-License-Identifier: Apache-2.0
"""Whole records, wrapped key included: nothing opens but what is whole and in its own place."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.keyvault.adapters.local_keyring import LocalKeyring
from services.keyvault.domain.envelope import Binding, Record
from services.keyvault.errors import RecordRefusedError
from services.keyvault.usecases.data_keys import DataKeys
from services.keyvault.usecases.ports import StoredSecret
from services.keyvault.usecases.stored_secrets import SecretBox
from services.shared.secret import Secret
from tests.support.clock import ManualClock

PLAINTEXT = "sk-proj-abcdefghijklmnopqrstuvwxyz"
BINDING = Binding("demo", "main", 3, 2, "openai")
OTHERS = [
    replace(BINDING, account="other"),
    replace(BINDING, key_id="other"),
    replace(BINDING, version=4),
    replace(BINDING, generation=3),
    replace(BINDING, provider="gemini"),
]
PARTS = ("data_key", "nonce", "ciphertext", "commitment")


@pytest.fixture
def box(tmp_path: Path) -> SecretBox:
    """A box on a keyring; nothing is cached."""
    keyring = LocalKeyring(tmp_path / "keyring")
    data_keys = DataKeys(
        keyring, clock=ManualClock(), age_seconds_max=0, grace_seconds=0, count_max=1
    )
    return SecretBox(keyring, data_keys=data_keys, random_bytes=os.urandom)


async def stored(box: SecretBox, binding: Binding = BINDING) -> StoredSecret:
    return StoredSecret(binding, await box.close(Secret(PLAINTEXT), binding))


def flips(value: bytes) -> Iterator[bytes]:
    for place, bit in itertools.product(range(len(value)), range(8)):
        yield value[:place] + bytes([value[place] ^ (1 << bit)]) + value[place + 1 :]


def damaged(record: Record) -> Iterator[Record]:
    """Every record that differs in one bit of its bytes, or in one of its numbers and names."""
    for field in ("nonce", "ciphertext", "commitment"):
        for value in flips(getattr(record, field)):
            yield replace(record, **{field: value})
    key = record.data_key
    for wrapped in flips(key.wrapped):
        yield replace(record, data_key=replace(key, wrapped=wrapped))
    for bit in range(16):
        yield replace(record, format_version=record.format_version ^ (1 << bit))
        yield replace(record, generation=record.generation ^ (1 << bit))
        yield replace(record, data_key=replace(key, kek_version=key.kek_version ^ (1 << bit)))
    for name in flips(key.kek_name.encode()):
        yield replace(record, data_key=replace(key, kek_name=name.decode("latin-1")))
    for algorithm in flips(record.algorithm.encode()):
        yield replace(record, algorithm=algorithm.decode("latin-1"))


async def is_refused(box: SecretBox, item: StoredSecret) -> bool:
    """Whether a record gives the typed error and no secret."""
    [result] = await box.open_each([item])
    return isinstance(result, RecordRefusedError)


@pytest.mark.requirement("K9")
class TestSecretBox:
    async def test_a_record_opens_to_its_secret(self, box: SecretBox) -> None:
        assert (await box.open(await stored(box))).reveal() == PLAINTEXT

    async def test_every_flipped_bit_of_every_field_is_refused(self, box: SecretBox) -> None:
        whole = await stored(box)
        items = [replace(whole, record=record) for record in damaged(whole.record)]

        assert len(items) > 1_500
        for item in items:
            assert await is_refused(box, item)
        with pytest.raises(RecordRefusedError) as refused:
            await box.open(items[0])
        assert PLAINTEXT not in f"{refused.value!r}{refused.value.message}"

    @pytest.mark.parametrize("size", [0, 1, 8, 11, 13, 16, 256])
    async def test_nonces_of_other_sizes_are_refused(self, box: SecretBox, size: int) -> None:
        whole = await stored(box)
        record = replace(whole.record, nonce=(whole.record.nonce * 32)[:size])

        assert await is_refused(box, replace(whole, record=record))

    @pytest.mark.parametrize("cut", [1, 4, 8, 12, 15, 16])
    async def test_tags_of_other_sizes_are_refused(self, box: SecretBox, cut: int) -> None:
        whole = await stored(box)
        ciphertext = whole.record.ciphertext
        for other in (ciphertext[:-cut], ciphertext + ciphertext[-cut:]):
            record = replace(whole.record, ciphertext=other)
            assert await is_refused(box, replace(whole, record=record))

    async def test_no_mixture_of_two_records_opens_in_either_place(self, box: SecretBox) -> None:
        """Over accounts, keys, versions, generations and providers, in every mixture."""
        whole = [await stored(box, binding) for binding in (BINDING, *OTHERS)]
        mixed = [
            replace(
                mine,
                record=replace(
                    mine.record, **{part: getattr(theirs.record, part) for part in parts}
                ),
            )
            for mine, theirs in itertools.permutations(whole, 2)
            for count in range(1, len(PARTS) + 1)
            for parts in itertools.combinations(PARTS, count)
        ]
        moved = [
            replace(mine, record=replace(theirs.record, generation=mine.binding.generation))
            for mine, theirs in itertools.permutations(whole, 2)
        ]

        for item in (*mixed, *moved):
            assert await is_refused(box, item)

    async def test_one_that_does_not_open_costs_the_others_nothing(self, box: SecretBox) -> None:
        items = [await stored(box, binding) for binding in OTHERS]
        items[1] = replace(items[1], record=replace(items[1].record, nonce=bytes(12)))
        items[3] = replace(items[3], record=replace(items[3].record, format_version=2))
        secrets = await box.open_each(items)

        assert [item.reveal() if isinstance(item, Secret) else None for item in secrets] == [
            PLAINTEXT,
            None,
            PLAINTEXT,
            None,
            PLAINTEXT,
        ]
