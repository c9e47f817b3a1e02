# SPDX-License-Identifier: Apache-2.0
"""Backups of databases as operators make them: pg_dump, pg_restore, pg_basebackup."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from deploy.local.postgres import PostgresServer, binaries

SECONDS_MAX = 50
POLL_SECONDS = 0.05


def dump(dsn: str, to: Path) -> Path:
    """Dump a database to a file."""
    _run("pg_dump", dsn, "--format=custom", f"--file={to}", "--dbname", _name(dsn))
    return to


def restore(dump_file: Path, dsn: str) -> None:
    """Read a dump back into an empty database."""
    arguments = ("--no-owner", "--exit-on-error", "--dbname", _name(dsn), str(dump_file))
    _run("pg_restore", dsn, *arguments)


def copy_cluster(dsn: str, folder: Path, to: Path) -> None:
    """
    Copy a whole running embedded cluster, so that its copy recovers onto a timeline of its own.

    Args:
        dsn: Its administrator's.
        folder: Where it is.
        to: Where its copy is to be.
    """
    to.mkdir()
    shutil.copy(folder / "password", to)
    data = to / "data"
    _run("pg_basebackup", dsn, f"--pgdata={data}", "--wal-method=stream", "--checkpoint=fast")
    (data / "recovery.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'false'\n")
    # The server insists on owning its data.
    owner = (folder / "data").stat().st_uid
    for path in (data, *data.rglob("*")):
        os.chown(path, owner, -1)


def await_recovery(server: PostgresServer) -> None:
    """Wait until a copied cluster has recovered and takes writes."""
    deadline = time.monotonic() + SECONDS_MAX
    while server.execute("SELECT pg_is_in_recovery()") != "f":
        assert time.monotonic() < deadline, "the copied cluster did not recover"
        time.sleep(POLL_SECONDS)


def _name(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


def environ(dsn: str) -> dict[str, str]:
    """Where PostgreSQL's programs find a server; arguments are visible to other users."""
    parts = urlsplit(dsn)
    host = parse_qs(parts.query).get("host", [unquote(parts.hostname or "")])[0]
    return {
        "PGHOST": host,
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        **({"PGPORT": str(parts.port)} if parts.port else {}),
    }


def _run(program: str, dsn: str, *arguments: str) -> None:
    subprocess.run(
        [str(binaries() / program), *arguments],
        env={**os.environ, **environ(dsn)},
        timeout=SECONDS_MAX,
        check=True,
    )
