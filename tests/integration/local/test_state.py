# SPDX-License-Identifier: Apache-2.0
"""The state folder refuses what it must not touch."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from deploy.local.processes import LocalError
from deploy.local.state import IDENTITIES, LAYOUT_VERSION, SERVICES, StateFolder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A folder that a suite with the local keyring has used before."""
    folder = tmp_path / "state"
    with StateFolder(folder, kek="local"):
        pass
    return folder


@pytest.mark.requirement("O1")
class TestStateFolder:
    def test_a_newer_version_is_refused_and_nothing_is_touched(self, used: Path) -> None:
        (used / "version").write_text(f"{LAYOUT_VERSION + 1}\n")
        before = contents(used)
        with pytest.raises(LocalError, match="newer Ownkey"):
            StateFolder(used, kek="local").open()
        assert contents(used) == before

    def test_a_folder_with_other_things_in_it_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(LocalError, match="was not made by Ownkey"):
            StateFolder(tmp_path, kek="local").open()
        assert contents(tmp_path) == {"thesis.txt": b"mine"}

    def test_one_suite_at_a_time_uses_a_folder(self, used: Path) -> None:
        with (
            StateFolder(used, kek="local"),
            pytest.raises(LocalError, match="Another suite is running"),
        ):
            StateFolder(used, kek="local").open()
        with StateFolder(used, kek="local"):
            pass

    def test_keys_wrapped_by_one_kek_are_not_opened_with_another(self, used: Path) -> None:
        with pytest.raises(LocalError, match="start with KEK=local"):
            StateFolder(used, kek="vault").open()

    def test_secrets_stay_the_same_over_runs(self, used: Path) -> None:
        before = contents(used / "secrets")
        with StateFolder(used, kek="local"):
            assert contents(used / "secrets") == before

    def test_secrets_are_readable_by_their_owner_only(self, used: Path) -> None:
        files = [path for path in (used / "secrets").rglob("*") if path.is_file()]
        assert len(files) == len(IDENTITIES) + len(SERVICES)
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
