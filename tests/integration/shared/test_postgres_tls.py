# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL over TLS: its certificate is checked, and what is wrong with it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from deploy.local.certificates import files_in
from services.shared.certificates import TlsFiles
from services.shared.config import ConfigError
from services.shared.dsn import read_dsn
from services.shared.postgres import Database
from tests.support.postgres import Databases
from tests.support.postgres_tls import postgres_over_tls
from tests.support.tls import DAY, Issuer

pytestmark = pytest.mark.requirement("O5")


@pytest.fixture
def dsn(databases: Databases) -> Iterator[str]:
    with databases.empty() as dsn:
        yield dsn


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


async def opens(dsn: str, file: Path) -> int:
    """Read the DSN as a service does, connect, and ask for a number."""
    file.touch(mode=0o600)
    file.write_text(dsn)
    database = Database(lambda: read_dsn(file), application_name="tests")
    await database.open(wait_seconds=5)
    try:
        row = await database.fetchrow("SELECT 42 AS number")
        assert row is not None
        return int(row["number"])
    finally:
        await database.close()


async def test_a_server_with_a_good_certificate_serves(
    dsn: str, issuer: Issuer, tmp_path: Path
) -> None:
    files = issuer.issue(tmp_path / "postgres", "postgres")
    async with postgres_over_tls(dsn, files, trusted=files) as encrypted:
        assert await opens(encrypted, tmp_path / "dsn") == 42


@pytest.mark.parametrize("case", ["ended", "of another authority", "of another host"])
async def test_a_bad_certificate_is_told_at_once_with_the_remedy(
    dsn: str, issuer: Issuer, tmp_path: Path, case: str
) -> None:
    folder = tmp_path / "postgres"
    trusted = issuer.issue(tmp_path / "trusted", "postgres")

    def of_another_host() -> TlsFiles:
        names = [x509.DNSName("db.example.com")]
        issuer.authority.issue(
            folder, names, common_name="postgres", now=issuer.now, lifetime=10 * DAY
        )
        return files_in(folder)

    issue, why = {
        "ended": (
            lambda: issuer.issue(folder, "postgres", begins=-3 * DAY, lifetime=DAY),
            "certificate has expired",
        ),
        "of another authority": (
            lambda: Issuer("two").issue(folder, "postgres"),
            "unable to get local issuer certificate",
        ),
        "of another host": (of_another_host, "certificate is not valid for '127.0.0.1'"),
    }[case]
    async with postgres_over_tls(dsn, issue(), trusted=trusted) as encrypted:
        with pytest.raises(ConfigError) as refused:
            await opens(encrypted, tmp_path / "dsn")
    (problem,) = refused.value.problems
    assert why in problem
    assert "issue it one for the host that the DSN names" in problem
