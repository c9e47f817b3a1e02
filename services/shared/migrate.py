# SPDX-License-Identifier: Apache-2.0
"""
Schema migrations: versioned, forward only, run by Alembic (https://alembic.sqlalchemy.org).

Every migration writes to `schema_version` its own number and the lowest number that code must know
to work on the schema. Code refuses to start below that, and on a schema older than it needs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.shared import logging
from services.shared.config import (
    ConfigError,
    choice,
    existing_file,
    load,
    setting,
    settings_of,
)
from services.shared.dsn import read_dsn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection as SyncConnection

    from services.shared.postgres import Database

DDL_LOCK_TIMEOUT = "1s"
"""Whoever comes after DDL that waits for a table waits behind it, so it never waits long."""

RETRIES_MAX = 10
RETRY_SECONDS = 1.0

# A busy table; a table that two processes make at the same moment.
_PASSING = frozenset({"55P03", "23505", "42P07", "42710"})

# One row that a migrating process locks, so that two never migrate at once. Advisory locks do not
# survive a pooler in transaction mode.
_PREPARE = """
CREATE TABLE IF NOT EXISTS schema_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL,
    lowest_code integer NOT NULL
)
"""
_SEED = "INSERT INTO schema_version (version, lowest_code) VALUES (0, 0) ON CONFLICT DO NOTHING"


@dataclass(frozen=True, kw_only=True, slots=True)
class MigrationConfig:
    """What a migration needs of a service's settings; it runs where the others are not at hand."""

    database_dsn_file: Path = setting(
        "DATABASE_DSN_FILE", "file with the DSN of the database, mode 0600", parse=existing_file
    )
    log_format: str = setting(
        "LOG_FORMAT", "json, or console for people", default="json", parse=choice("json", "console")
    )


async def run_migrations(service: str, folder: Path, environ: Mapping[str, str]) -> None:
    """
    Run a service's `migrate` command.

    Args:
        service: Its name.
        folder: Its `migrations` folder.
        environ: The environment; settings that a migration does not need are not looked at.

    Raises:
        ConfigError: If there is no DSN to be read, or it asks for plain text over a network.
        sqlalchemy.exc.DBAPIError: If a migration failed; nothing of it stays.
    """
    prefix = f"OWNKEY_{service.upper()}_"
    needed = settings_of(MigrationConfig, prefix=prefix)
    told = {name: environ[name] for name in needed if name in environ}
    config = load(MigrationConfig, told, prefix=prefix)
    logging.configure(service=service, style=config.log_format)
    await migrate(read_dsn(config.database_dsn_file), folder)


def record_version(version: int, *, lowest_code: int) -> None:
    """
    Write a migration's number; the last call of its `upgrade`.

    Args:
        version: The migration's number.
        lowest_code: The lowest number that code must know to run on this schema.
    """
    # Imported here so that a serving process never loads Alembic.
    import sqlalchemy  # noqa: PLC0415
    from alembic import op  # noqa: PLC0415

    op.execute(
        sqlalchemy.text(
            "UPDATE schema_version SET version = :version, lowest_code = :lowest"
        ).bindparams(version=version, lowest=lowest_code)
    )


async def migrate(dsn: str, folder: Path) -> None:
    """
    Bring a database to the newest schema.

    Args:
        dsn: The database, `postgresql://...`.
        folder: The service's `migrations` folder.

    Raises:
        sqlalchemy.exc.DBAPIError: If a migration failed; nothing of it stays.
    """
    # SQLAlchemy cannot express a socket folder in the host part; asyncpg's own connect can.
    import asyncpg  # noqa: PLC0415
    from sqlalchemy import exc, text  # noqa: PLC0415 - a serving process never loads it
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), poolclass=NullPool
    )
    try:
        for attempt in range(1, RETRIES_MAX + 1):
            try:
                async with engine.begin() as connection:
                    await connection.execute(text(_PREPARE))
                    await connection.execute(text(_SEED))
                async with engine.begin() as connection:
                    await connection.execute(text("SELECT 1 FROM schema_version FOR UPDATE"))
                    await connection.execute(text(f"SET LOCAL lock_timeout = '{DDL_LOCK_TIMEOUT}'"))
                    await connection.run_sync(_upgrade, folder)
            except exc.DBAPIError as fault:
                # Stand back so that the table's users go on, then try again.
                passing = getattr(fault.orig, "sqlstate", "") in _PASSING
                if not passing or attempt == RETRIES_MAX:
                    raise
                await asyncio.sleep(RETRY_SECONDS * attempt)
            else:
                return
    finally:
        await engine.dispose()


def _upgrade(connection: SyncConnection, folder: Path) -> None:
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.operations import Operations  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    script = ScriptDirectory(str(folder))

    def steps(revision: Any, _context: MigrationContext) -> Any:
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - as alembic.command does

    context = MigrationContext.configure(connection, opts={"fn": steps})
    with Operations.context(context):
        context.run_migrations()


async def check_schema(database: Database, *, code: int, needed: int) -> None:
    """
    Refuse to run on a schema that this code does not fit.

    Args:
        database: The service's database, open.
        code: The newest schema number this code knows.
        needed: The lowest schema number this code works on.

    Raises:
        ConfigError: If the schema is too old or too new.
    """
    row = None
    if await database.fetchrow("SELECT 1 WHERE to_regclass('schema_version') IS NOT NULL"):
        row = await database.fetchrow("SELECT version, lowest_code FROM schema_version")
    version, lowest_code = (row["version"], row["lowest_code"]) if row else (0, 0)
    if version < needed:
        problem = (
            f"the database's schema has number {version}, this code needs {needed}: run the "
            "service's migrate command first"
        )
        raise ConfigError([problem])
    if lowest_code > code:
        problem = (
            f"the database's schema needs code that knows number {lowest_code}, this code knows "
            f"{code}: it is from a newer version; nothing was touched"
        )
        raise ConfigError([problem])
