# SPDX-License-Identifier: Apache-2.0
"""Certificate files are held against each other at start, each fault in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from services.shared.certificates import Certificates, TlsFiles, read_material
from services.shared.config import ConfigError
from tests.support.clock import ManualClock
from tests.support.tls import DAY, Issuer


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def files(issuer: Issuer, tmp_path: Path) -> TlsFiles:
    return issuer.issue(tmp_path, "router")


@pytest.mark.requirement("O5")
class TestRead:
    def test_files_that_fit_together_are_taken(self, issuer: Issuer, files: TlsFiles) -> None:
        material = read_material(files, now=issuer.now)
        assert material.names[0] == "spiffe://ownkey.internal/router"
        assert files.key.read_text() not in repr(material)

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda files: files.key.chmod(0o640), "can be read by others; run chmod 600 on it"),
            (lambda files: files.key.unlink(), "cannot be read .No such file"),
            (lambda files: files.key.write_text("x"), "holds no unencrypted private key"),
            (lambda files: files.certificate.write_text("x"), "holds no certificate in PEM form"),
            (lambda files: files.ca.unlink(), "certificates of trusted authorities .* cannot be"),
            (
                lambda files: files.ca.write_bytes(Issuer("two").authority.pem),
                "was not issued by an authority in",
            ),
            (
                lambda files: files.key.write_bytes(
                    Issuer().issue(files.key.parent / "other", "x").key.read_bytes()
                ),
                "does not belong to the certificate",
            ),
        ],
    )
    def test_each_fault_is_named_with_its_remedy(
        self, issuer: Issuer, files: TlsFiles, spoil: Callable[[TlsFiles], object], told: str
    ) -> None:
        secret = files.key.read_text().splitlines()[1]
        spoil(files)
        with pytest.raises(ConfigError, match=told) as fault:
            read_material(files, now=issuer.now)
        assert len(fault.value.problems) == 1
        assert secret not in str(fault.value)

    @pytest.mark.parametrize(
        ("after", "told"),
        [(-20 * DAY, "is not valid before .* set this machine's clock"), (20 * DAY, "ended at")],
    )
    def test_a_certificate_out_of_its_time_is_refused(
        self, issuer: Issuer, files: TlsFiles, after: object, told: str
    ) -> None:
        with pytest.raises(ConfigError, match=told):
            read_material(files, now=issuer.now + after)  # type: ignore[operator]

    def test_all_faults_are_told_at_once(self, issuer: Issuer, files: TlsFiles) -> None:
        missing = replace(files, ca=files.ca.with_name("none"))
        files.key.chmod(0o644)
        with pytest.raises(ConfigError) as fault:
            read_material(missing, now=issuer.now + 20 * DAY)
        assert len(fault.value.problems) == 3

    def test_a_certificate_that_ends_soon_is_warned_of(
        self, issuer: Issuer, files: TlsFiles
    ) -> None:
        clock = ManualClock(issuer.now + 7 * DAY)
        with structlog.testing.capture_logs() as lines:
            held = Certificates(files, clock=clock)
            assert lines == []
            for _ in range(2):
                clock.advance(1.5 * DAY.total_seconds())
                held.current()
                held.current()
        assert len(lines) == 2
        line = lines[0]
        assert line["event"] == "certificate_ends_soon"
        assert "no restart is needed" in line["advice"]
