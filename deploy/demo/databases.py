# SPDX-License-Identifier: Apache-2.0
"""The demo's PostgreSQL: a database for each service, owned by a role that alone may connect."""

from __future__ import annotations

import asyncpg

HOST = "postgres"
PORT = 5432
_TIMEOUT_SECONDS = 10.0


class DatabasesNotReadyError(Exception):
    """PostgreSQL is away or refuses; the message tells why."""


def dsn(service: str, *, password: str, host: str = HOST, port: int = PORT) -> str:
    """Returns the DSN of a service's role and database."""
    name = database(service)
    return f"postgresql://{name}:{password}@{host}:{port}/{name}"


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
    except (OSError, asyncpg.PostgresError, TimeoutError) as exc:
        raise DatabasesNotReadyError(f"PostgreSQL: {type(exc).__name__}") from None


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
