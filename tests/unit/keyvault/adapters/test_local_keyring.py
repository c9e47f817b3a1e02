# SPDX-License-Identifier: Apache-2.0
"""The keyring's file. What it wraps is held to the port's contract suite."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from services.keyvault.adapters.local_keyring import LocalKeyring
from services.keyvault.errors import KekCause, KekUnavailableError
from services.shared.config import ConfigError

CONTEXT = b"context"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.mark.requirement("K9", "O1")
class TestFile:
    def test_it_is_made_readable_by_its_owner_alone(self, path: Path) -> None:
        LocalKeyring(path)

        assert path.stat().st_mode & 0o777 == 0o600
        assert sorted(item.name for item in path.parent.iterdir()) == ["keyring", "keyring.lock"]

    async def test_another_process_opens_what_this_one_wrapped(self, path: Path) -> None:
        here, there = LocalKeyring(path), LocalKeyring(path)
        key = await here.generate_data_key(CONTEXT)
        assert await there.unwrap(key.wrapped, CONTEXT) is not None

        await here.rotate()
        key = await here.generate_data_key(CONTEXT)
        assert key.wrapped.kek_version == 2
        assert await there.unwrap(key.wrapped, CONTEXT) is not None
        await there.rotate()
        assert (await here.status()).current_version == 3

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o400, 0o700])
    def test_other_permissions_are_refused(self, path: Path, mode: int) -> None:
        LocalKeyring(path)
        path.chmod(mode)

        with pytest.raises(ConfigError, match="chmod 600"):
            LocalKeyring(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b'{"format": 1, "id": "x", "keys": {}}',
            b'{"format": 1, "id": "x", "keys": {"1": "AAAA"}}',
            b'{"format": 1, "id": "x", "keys": {"one": "AAAA"}}',
            b'{"format": 1, "id": "x", "keys": {"1": 7}}',
            b"\xff\xfe",
        ],
    )
    def test_a_damaged_file_is_refused_and_left_alone(self, path: Path, content: bytes) -> None:
        path.touch(mode=0o600)
        path.write_bytes(content)

        with pytest.raises(ConfigError, match="restore it from a backup"):
            LocalKeyring(path)
        assert path.read_bytes() == content

    def test_a_file_of_a_newer_format_is_refused(self, path: Path) -> None:
        LocalKeyring(path)
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "format": 2}))

        with pytest.raises(ConfigError, match="has format 2"):
            LocalKeyring(path)

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be written"):
            LocalKeyring(tmp_path / "nowhere" / "keyring")

    async def test_what_a_cut_off_write_left_does_no_harm(self, path: Path) -> None:
        keyring = LocalKeyring(path)
        path.with_name("keyring.new").write_text("half")

        await keyring.rotate()

        assert (await LocalKeyring(path).status()).current_version == 2

    async def test_another_ring_in_its_place_is_refused_in_mid_run(self, path: Path) -> None:
        keyring = LocalKeyring(path)
        path.unlink()
        LocalKeyring(path)

        with pytest.raises(KekUnavailableError) as refused:
            await keyring.status()
        assert refused.value.cause is KekCause.BROKEN

    def test_it_shows_no_key_material(self, path: Path) -> None:
        keyring = LocalKeyring(path)
        [material] = json.loads(path.read_text())["keys"].values()

        assert material not in repr(vars(keyring))
        assert os.fspath(path) in repr(vars(keyring))
