# SPDX-License-Identifier: Apache-2.0
"""Secrets come from a prompt, a file or standard input, and no refusal repeats them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from client.ownkey_cli.secret_input import (
    SECRET_BYTES_MAX,
    STDIN,
    InputError,
    read_secret,
    refuse_arguments,
)

pytestmark = pytest.mark.requirement("O4", "K8")

SECRET = "sk-proj-canary-0123456789abcdef"


class TestReadSecret:
    def test_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text(f"{SECRET}\n")
        assert read_secret(path, option="--secret-file").strip() == SECRET

    def test_from_standard_input(self) -> None:
        stdin = io.BytesIO(f"\ufeff{SECRET}".encode())
        assert read_secret(STDIN, option="--secret-file", stdin=stdin) == SECRET

    def test_from_the_prompt(self) -> None:
        assert read_secret(None, option="--secret-file", ask=lambda: SECRET) == SECRET

    def test_a_secret_in_the_place_of_the_path_is_not_repeated(self) -> None:
        with pytest.raises(InputError) as caught:
            read_secret(Path(SECRET), option="--secret-file")
        assert "--secret-file" in str(caught.value)
        assert SECRET not in str(caught.value)

    def test_a_file_that_is_too_long_is_refused(self) -> None:
        exact = io.BytesIO(b"x" * SECRET_BYTES_MAX)
        assert len(read_secret(STDIN, option="--secret-file", stdin=exact)) == SECRET_BYTES_MAX
        longer = io.BytesIO(b"x" * (SECRET_BYTES_MAX + 1))
        with pytest.raises(InputError, match="65,536 bytes"):
            read_secret(STDIN, option="--secret-file", stdin=longer)

    def test_bytes_that_are_no_text_are_refused_without_showing_them(self) -> None:
        with pytest.raises(InputError, match="no text") as caught:
            read_secret(STDIN, option="--secret-file", stdin=io.BytesIO(b"sk-canary\xff"))
        assert "canary" not in str(caught.value)


class TestRefuseArguments:
    def test_no_argument_passes(self) -> None:
        refuse_arguments([])

    def test_an_argument_is_refused_without_repeating_it(self) -> None:
        with pytest.raises(InputError) as caught:
            refuse_arguments([SECRET])
        assert SECRET not in str(caught.value)
        assert "--secret-file" in str(caught.value)
