# SPDX-License-Identifier: Apache-2.0
"""`ownkey certs`: certificates for trials, made once and renewed in place."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from client.ownkey_cli.__main__ import app
from client.ownkey_client.authority import AUTHORITY_DAYS, IDENTITIES
from deploy.local.certificates import files_in
from services.shared.certificates import names_of, read_material
from services.shared.clock import SystemClock

pytestmark = pytest.mark.requirement("O4", "O5")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["certs", *arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "certificates"
    assert run("init", str(made), "--name", "router.example", "--days", "3").exit_code == 0
    return made


class TestInit:
    def test_every_identity_gets_a_certificate_that_fits(self, folder: Path) -> None:
        now = SystemClock().now()
        for identity in IDENTITIES:
            material = read_material(files_in(folder / identity), now=now)
            assert material.names == (
                f"spiffe://ownkey.internal/{identity}",
                identity,
                "router.example",
                "localhost",
            )
            assert material.not_after - now < timedelta(days=3)

    def test_it_is_for_both_sides_and_for_loopback(self, folder: Path) -> None:
        found = x509.load_pem_x509_certificate((folder / "router" / "tls.crt").read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == [
            "127.0.0.1",
            "::1",
        ]
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {one._name for one in usage} == {"serverAuth", "clientAuth"}

    def test_private_keys_are_readable_by_their_owner_alone(self, folder: Path) -> None:
        keys = list(folder.rglob("*.key"))
        assert len(keys) == len(IDENTITIES) + 1
        assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_the_authority_ends_and_can_make_no_other(self, folder: Path) -> None:
        authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        basic = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (basic.ca, basic.path_length) == (True, 0)
        left = authority.not_valid_after_utc - SystemClock().now()
        assert left < timedelta(days=AUTHORITY_DAYS)

    def test_nothing_is_overwritten(self, folder: Path) -> None:
        before = {path: path.read_bytes() for path in folder.rglob("*.*")}
        refused = run("init", str(folder))
        assert refused.exit_code == 2
        assert "was not touched" in refused.output
        assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before

    @pytest.mark.parametrize("days", ["0", "31"])
    def test_lifetimes_are_short(self, tmp_path: Path, days: str) -> None:
        assert run("init", str(tmp_path / "x"), "--days", days).exit_code == 2


class TestRenew:
    def test_the_names_and_the_authority_stay(self, folder: Path) -> None:
        files = files_in(folder / "router")
        before, authority = files.certificate.read_bytes(), files.ca.read_bytes()
        assert run("renew", str(folder)).exit_code == 0
        now = SystemClock().now()
        old = x509.load_pem_x509_certificate(before)
        assert read_material(files, now=now).names == names_of(old)
        assert files.certificate.read_bytes() != before
        assert files.ca.read_bytes() == authority

    def test_a_folder_without_an_authority_is_refused(self, tmp_path: Path) -> None:
        refused = run("renew", str(tmp_path))
        assert refused.exit_code == 2
        assert "holds no authority" in refused.output


class TestShow:
    def test_it_tells_what_is_there_and_when_it_ends(self, folder: Path) -> None:
        shown = run("show", str(folder))
        assert shown.exit_code == 0
        for identity in IDENTITIES:
            assert f"spiffe://ownkey.internal/{identity}" in shown.output
        listed = json.loads(run("show", str(folder), "--json").output)["certificates"]
        assert len(listed) == len(IDENTITIES) + 1

    def test_no_private_key_is_shown(self, folder: Path) -> None:
        key = (folder / "router" / "tls.key").read_text().splitlines()[1]
        for arguments in ((str(folder),), (str(folder / "router" / "tls.key"),)):
            assert key not in run("show", *arguments).output

    @pytest.mark.parametrize("content", [None, "x"])
    def test_what_is_no_certificate_is_named(self, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "x.pem"
        if content is not None:
            path.write_text(content)
        refused = run("show", str(path))
        assert refused.exit_code == 2
        assert str(path) in refused.output.replace("\n", "")
