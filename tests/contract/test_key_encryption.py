# SPDX-License-Identifier: Apache-2.0
"""What every key-encryption key must do; the same suite runs on the local keyring and on Vault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deploy.local.vault import TRANSIT_KEY, LocalVault
from services.keyvault.adapters.local_keyring import LocalKeyring
from services.keyvault.domain.envelope import Binding, WrappedKey
from services.keyvault.usecases.ports import KeyEncryption
from services.shared.secret import Secret
from tests.support.vault_transit import vault_transit

CONTEXT = Binding("demo", "main", 1, 1, "openai").context()
OTHER_CONTEXTS = [
    Binding("other", "main", 1, 1, "openai").context(),
    Binding("demo", "other", 1, 1, "openai").context(),
    Binding("demo", "main", 2, 1, "openai").context(),
    Binding("demo", "main", 1, 2, "openai").context(),
    Binding("demo", "main", 1, 1, "gemini").context(),
]


@dataclass
class Subject:
    """A key-encryption key and how its operator rotates it."""

    kek: KeyEncryption
    rotate: Callable[[], Awaitable[object]]


@pytest.fixture(params=["local_keyring", "vault"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """Each key-encryption key in turn."""
    if request.param == "local_keyring":
        keyring = LocalKeyring(tmp_path / "keyring")
        yield Subject(keyring, keyring.rotate)
        return
    server: LocalVault = request.getfixturevalue("vault")
    transit = vault_transit(server)

    async def rotate() -> None:
        await asyncio.to_thread(server.admin().secrets.transit.rotate_key, TRANSIT_KEY)

    try:
        await transit.check_key()
        yield Subject(transit, rotate)
    finally:
        await transit.close()


def plain(secret: Secret | None) -> bytes | None:
    return secret.reveal_bytes() if secret is not None else None


@pytest.mark.requirement("K9")
class TestWrapping:
    async def test_a_data_key_is_fresh_and_comes_back_under_its_context(
        self, subject: Subject
    ) -> None:
        first = await subject.kek.generate_data_key(CONTEXT)
        second = await subject.kek.generate_data_key(CONTEXT)

        assert len(first.plaintext.reveal_bytes()) == 32
        assert plain(first.plaintext) != plain(second.plaintext)
        assert first.wrapped.kek_name == subject.kek.name
        assert plain(first.plaintext) not in first.wrapped.wrapped
        opened = await subject.kek.unwrap(first.wrapped, CONTEXT)
        assert plain(opened) == plain(first.plaintext)

    async def test_a_wrapped_key_fits_the_columns_size(self, subject: Subject) -> None:
        wrapped = (await subject.kek.generate_data_key(CONTEXT)).wrapped.wrapped

        assert 32 <= len(wrapped) <= 1024

    @pytest.mark.parametrize("context", OTHER_CONTEXTS)
    async def test_it_opens_under_no_other_context(self, subject: Subject, context: bytes) -> None:
        data_key = await subject.kek.generate_data_key(CONTEXT)

        assert await subject.kek.unwrap(data_key.wrapped, context) is None

    async def test_a_batch_answers_in_order_and_refuses_only_the_wrong_ones(
        self, subject: Subject
    ) -> None:
        keys = [await subject.kek.generate_data_key(CONTEXT) for _ in range(3)]
        wrong = await subject.kek.generate_data_key(OTHER_CONTEXTS[0])
        items = [(key.wrapped, CONTEXT) for key in keys]
        items.insert(1, (wrong.wrapped, CONTEXT))

        opened = await subject.kek.unwrap_many(items)

        assert [plain(secret) for secret in opened] == [
            plain(keys[0].plaintext),
            None,
            plain(keys[1].plaintext),
            plain(keys[2].plaintext),
        ]
        assert await subject.kek.unwrap_many([]) == []

    async def test_every_flipped_bit_is_refused(self, subject: Subject) -> None:
        wrapped = (await subject.kek.generate_data_key(CONTEXT)).wrapped
        changed = [
            replace(wrapped, wrapped=_flipped(wrapped.wrapped, place, bit))
            for place in range(len(wrapped.wrapped))
            for bit in range(8)
        ]

        opened = await subject.kek.unwrap_many([(item, CONTEXT) for item in changed])

        assert opened == [None] * len(changed)

    @pytest.mark.parametrize("body", [b"", b"\x01", b"vault:v1:", b"vault:v1:####", bytes(100)])
    async def test_what_is_no_wrapped_key_is_refused(self, subject: Subject, body: bytes) -> None:
        assert await subject.kek.unwrap(WrappedKey(subject.kek.name, 1, body), CONTEXT) is None

    async def test_a_key_of_another_name_or_version_is_refused(self, subject: Subject) -> None:
        wrapped = (await subject.kek.generate_data_key(CONTEXT)).wrapped

        for other in (
            replace(wrapped, kek_name="local:other"),
            replace(wrapped, kek_version=wrapped.kek_version + 1),
        ):
            assert await subject.kek.unwrap(other, CONTEXT) is None


@pytest.mark.requirement("K12")
class TestRotation:
    async def test_keys_of_every_version_open_after_three_rotations(self, subject: Subject) -> None:
        before = await subject.kek.status()
        keys = [await subject.kek.generate_data_key(CONTEXT)]
        for _ in range(3):
            await subject.rotate()
            keys.append(await subject.kek.generate_data_key(CONTEXT))

        state = await subject.kek.status()
        opened = await subject.kek.unwrap_many([(key.wrapped, CONTEXT) for key in keys])

        assert state.current_version == before.current_version + 3
        assert state.lowest_version == before.lowest_version
        assert [key.wrapped.kek_version for key in keys] == list(
            range(before.current_version, before.current_version + 4)
        )
        assert [plain(secret) for secret in opened] == [plain(key.plaintext) for key in keys]

    async def test_a_rewrapped_key_is_the_same_key_under_the_current_version(
        self, subject: Subject
    ) -> None:
        old = await subject.kek.generate_data_key(CONTEXT)
        await subject.rotate()

        rewrapped, refused = await subject.kek.rewrap_many(
            [(old.wrapped, CONTEXT), (old.wrapped, OTHER_CONTEXTS[0])]
        )

        assert refused is None
        assert rewrapped is not None
        assert rewrapped.kek_version == old.wrapped.kek_version + 1
        opened = await subject.kek.unwrap(rewrapped, CONTEXT)
        assert plain(opened) == plain(old.plaintext)
        assert await subject.kek.unwrap(rewrapped, OTHER_CONTEXTS[0]) is None


def _flipped(value: bytes, place: int, bit: int) -> bytes:
    return value[:place] + bytes([value[place] ^ (1 << bit)]) + value[place + 1 :]
