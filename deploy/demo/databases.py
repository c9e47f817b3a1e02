# SPDX-License-Identifier: Apache-2.0
"""
The demo's PostgreSQL: a database for each service, owned by a role that alone may connect.

It is spoken to over TLS, and its certificate is checked.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import asyncpg

HOST = "postgres"
PORT = 5432
CA_FILE = Path("/run/ownkey/postgres-ca/ca.crt")
"""Where the services' pods have the authority of its certificate."""
_TIMEOUT_SECONDS = 10.0


class DatabasesNotReadyError(Exception):
    """PostgreSQL is away or refuses; the message tells why."""


def dsn(service: str, *, password: str) -> str:
    """Returns the DSN of a service's role and database, as its pods use it."""
    name = database(service)
    return _dsn(name, password=password, database=name, ca_file=CA_FILE)


def administrator_dsn(password: str, ca_file: Path) -> str:
    """Returns the DSN of the role that may create roles and databases."""
    return _dsn("postgres", password=password, database="postgres", ca_file=ca_file)


def database(service: str) -> str:
    """Returns the name of a service's database and role."""
    return f"ownkey_{service}"


async def keep(administrator_dsn: str, passwords: dict[str, str]) -> list[str]:
    """
    Makes the roles and databases that miss.

    Args:
        administrator_dsn: Of a role that may create both.
        passwords: By service; plain letters and digits.

    Returns:
        The databases that were made.

    Raises:
        DatabasesNotReadyError: PostgreSQL is away or refuses.
    """
    try:
        connection = await asyncpg.connect(administrator_dsn, timeout=_TIMEOUT_SECONDS)
        try:
            return [
                database(service)
                for service, password in passwords.items()
                if await _make(connection, database(service), password)
            ]
        finally:
            await connection.close(timeout=_TIMEOUT_SECONDS)
    except ssl.SSLCertVerificationError as exc:
        raise DatabasesNotReadyError(
            f"PostgreSQL's certificate is not accepted: {exc.verify_message}"
        ) from None
    except (OSError, asyncpg.PostgresError, TimeoutError) as exc:
        raise DatabasesNotReadyError(f"PostgreSQL: {type(exc).__name__}") from None


def _dsn(role: str, *, password: str, database: str, ca_file: Path) -> str:
    return (
        f"postgresql://{role}:{password}@{HOST}:{PORT}/{database}"
        f"?sslmode=verify-full&sslrootcert={ca_file}"
    )


async def _make(connection: asyncpg.Connection, name: str, password: str) -> bool:
    """Names and passwords are our own: identifiers and letters, which need no quoting."""
    assert name.isidentifier(), name
    assert password.isalnum()
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        return False
    await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    await connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    return True
