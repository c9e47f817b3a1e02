# SPDX-License-Identifier: Apache-2.0
"""The database as it fails over, and behind a pooler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from services.shared.errors import StoreUnavailableError
from services.shared.postgres import Connection, Database
from tests.support.postgres import Databases


@pytest.fixture
def dsn(databases: Databases) -> Iterator[str]:
    """An empty database."""
    with databases.empty() as dsn:
        yield dsn


@asynccontextmanager
async def opened(dsn: str, *, pooled: bool = False) -> AsyncIterator[Database]:
    """An open database."""
    database = Database(dsn, application_name="tests", pool_size=2, pooled=pooled)
    await database.open(wait_seconds=5)
    try:
        yield database
    finally:
        await database.close()


async def backend(database: Database) -> int:
    """Return the process that serves the pool's next connection."""
    row = await database.fetchrow("SELECT pg_backend_pid() AS pid")
    assert row is not None
    return int(row["pid"])


@pytest.mark.requirement("O8")
class TestFailover:
    async def test_a_server_that_only_reads_drops_the_pool(self, dsn: str) -> None:
        async with opened(dsn) as database:
            before = await backend(database)

            async def write(connection: Connection) -> None:
                await connection.execute("SET TRANSACTION READ ONLY")
                await connection.execute("CREATE TABLE never (a int)")

            with pytest.raises(StoreUnavailableError):
                await database.run(write)
            assert await backend(database) != before

    async def test_a_server_that_shuts_down_drops_the_pool(self, dsn: str) -> None:
        async with opened(dsn) as database:
            before = await backend(database)

            async def end(connection: Connection) -> None:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

            with pytest.raises(StoreUnavailableError):
                await database.run(end)
            assert await backend(database) != before

    async def test_of_several_hosts_the_one_that_writes_is_found(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        credentials, _, _ = parts.netloc.rpartition("@")
        socket = parse_qs(parts.query).get("host", [""])[0]
        address = f"host={quote(socket)}" if socket else f"host={parts.hostname}"
        hosts = f"{address},{address.removeprefix('host=')}"
        several = (
            f"postgresql://{credentials}@{parts.path}"
            f"?{hosts}&port=1,{parts.port or 5432}&target_session_attrs=read-write"
        )
        async with opened(several) as database:
            assert await backend(database)


@pytest.mark.requirement("O8")
class TestPooler:
    async def test_nothing_stays_prepared_and_no_setting_is_sent(self, dsn: str) -> None:
        async with opened(dsn, pooled=True) as database:

            async def look(connection: Connection) -> tuple[int, str]:
                await connection.fetchval("SELECT $1::int", 1)
                count = await connection.fetchval(
                    "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
                )
                return count, await connection.fetchval("SHOW statement_timeout")

            assert await database.run(look) == (0, "0")
