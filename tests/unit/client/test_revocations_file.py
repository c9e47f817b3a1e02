# SPDX-License-Identifier: Apache-2.0
"""The file of exported revocations: it grows, survives an interrupted export, and is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from ownkey.keyvault.v1 import restoring_pb2

from client.ownkey_cli.revocations_file import append_pages, read_pages
from client.ownkey_cli.secret_input import InputError

pytestmark = pytest.mark.requirement("O11")


def page(through: int, *keys: str) -> restoring_pb2.RevocationsPage:
    """A page with deleted keys."""
    return restoring_pb2.RevocationsPage(
        database="5-1-9",
        through_sequence=through,
        mac=b"m",
        revocations=[
            restoring_pb2.Revocation(key=key, kind=restoring_pb2.REVOCATION_KIND_DELETED)
            for key in keys
        ],
    )


def test_pages_are_added_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "revocations"
    assert append_pages(file, iter([page(3, "a", "b")])) == 2
    assert append_pages(file, iter([page(5)])) == 0
    assert list(read_pages(file)) == [page(3, "a", "b"), page(5)]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_there_has_no_page(tmp_path: Path) -> None:
    assert list(read_pages(tmp_path / "none")) == []


def test_a_line_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "revocations"
    append_pages(file, iter([page(3)]))
    with file.open("a") as cut:
        cut.write('{"database": "5-1')
    assert list(read_pages(file)) == [page(3)]
    append_pages(file, iter([page(5)]))
    assert list(read_pages(file)) == [page(3), page(5)]


def test_another_file_is_refused_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text("not a page\n")
    with pytest.raises(InputError, match="line 1 is no page"):
        list(read_pages(file))


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_pages(tmp_path))
