# SPDX-License-Identifier: Apache-2.0
"""A database off this machine is spoken to over TLS, its server checked; nothing else is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.config import ConfigError
from services.shared.dsn import read_dsn

PASSWORD = "canary-password"
CREDENTIALS = f"ledger:{PASSWORD}"


def written(folder: Path, rest: str) -> Path:
    """A DSN file; `{ca}` in what follows the credentials stands for a file that is there."""
    ca = folder / "ca.crt"
    ca.touch()
    file = folder / "dsn"
    file.touch(mode=0o600)
    file.write_text(f"postgresql://{CREDENTIALS}@{rest.format(ca=ca)}\n")
    return file


@pytest.mark.requirement("O5")
class TestPlainText:
    @pytest.mark.parametrize(
        "rest",
        [
            "127.0.0.1:5432/ledger",
            "localhost/ledger?sslmode=disable",
            "[::1]:5432/ledger",
            "127.0.0.1:5432,localhost:5433/ledger",
            "/ledger?host=/run/postgresql",
            "%2Frun%2Fpostgresql/ledger",
        ],
    )
    def test_on_this_machine_it_is_taken(self, tmp_path: Path, rest: str) -> None:
        file = written(tmp_path, rest)

        assert read_dsn(file) == file.read_text().strip()

    @pytest.mark.parametrize(
        "rest",
        [
            "db.example.com/ledger",
            "db.example.com:5432/ledger?sslmode=disable",
            "db.example.com/ledger?sslmode=prefer",
            "db.example.com/ledger?sslmode=require",
            "db.example.com/ledger?sslmode=verify-ca&sslrootcert={ca}",
            "10.0.0.1,127.0.0.1/ledger",
            "127.0.0.1,db.example.com:5432/ledger",
            "[2001:db8::1]:5432/ledger",
            "/ledger?host=db.example.com",
            "127.0.0.1/ledger?host=db.example.com",
            "localhost.example.com/ledger",
        ],
    )
    def test_over_a_network_it_is_refused_with_the_reason(self, tmp_path: Path, rest: str) -> None:
        with pytest.raises(ConfigError, match="would cross the network in plain text") as refused:
            read_dsn(written(tmp_path, rest))

        (problem,) = refused.value.problems
        assert "add sslmode=verify-full and sslrootcert=<file> to it" in problem
        assert PASSWORD not in problem


@pytest.mark.requirement("O5")
class TestEncrypted:
    @pytest.mark.parametrize(
        "hosts", ["db.example.com:5432/ledger?", "one,two:5433/ledger?target_session_attrs=any&"]
    )
    def test_a_server_that_is_checked_in_full_is_taken(self, tmp_path: Path, hosts: str) -> None:
        file = written(tmp_path, f"{hosts}sslmode=verify-full&sslrootcert={{ca}}")

        assert read_dsn(file) == file.read_text().strip()

    @pytest.mark.parametrize("rest", ["", "&sslrootcert=", "&sslrootcert=/none/ca.crt"])
    def test_whose_certificates_are_trusted_must_be_said(self, tmp_path: Path, rest: str) -> None:
        with pytest.raises(ConfigError, match="as sslrootcert; there is no file"):
            read_dsn(written(tmp_path, f"db.example.com/ledger?sslmode=verify-full{rest}"))


class TestForm:
    def test_a_dsn_that_names_no_host_is_refused(self, tmp_path: Path) -> None:
        """What else might name one, such as PGHOST, nobody has looked at."""
        with pytest.raises(ConfigError, match="names no host"):
            read_dsn(written(tmp_path, "/ledger"))

    def test_another_form_is_refused_without_showing_it(self, tmp_path: Path) -> None:
        file = written(tmp_path, "x")
        file.write_text(f"host=db.example.com password={PASSWORD}")
        with pytest.raises(ConfigError, match="must have the form postgresql://") as refused:
            read_dsn(file)
        assert PASSWORD not in str(refused.value)
