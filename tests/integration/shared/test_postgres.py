# SPDX-License-Identifier: Apache-2.0
"""The database as it fails over, and behind a pooler."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.shared.errors import OutcomeUnknownError, StoreUnavailableError
from services.shared.postgres import SERVER_SETTINGS, Connection, Database
from tests.support.postgres import Databases
from tests.support.postgres_proxy import Cut, Fail, PostgresProxy

PASSWORD = "for-tests"


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

    @pytest.mark.parametrize("sqlstate", ["25006", "57P01", "57P02", "57P03"])
    async def test_what_tells_of_a_server_going_down_drops_the_pool(
        self, dsn: str, sqlstate: str
    ) -> None:
        async with PostgresProxy(dsn).serving() as proxy, opened(proxy.dsn) as database:
            before = await backend(database)
            fails = [Fail(sqlstate)]
            proxy.decide = lambda _exchange: fails.pop() if fails else None
            with pytest.raises(StoreUnavailableError):
                await database.execute("SELECT 1")
            assert await backend(database) != before

    async def test_when_the_first_host_is_lost_the_next_one_serves(self, dsn: str) -> None:
        first, second = PostgresProxy(dsn), PostgresProxy(dsn)
        async with AsyncExitStack() as stack, second.serving():
            await stack.enter_async_context(first.serving())
            hosts = [urlsplit(proxy.dsn) for proxy in (first, second)]
            credentials, _, _ = hosts[0].netloc.rpartition("@")
            several = (
                f"postgresql://{credentials}@{','.join(f'127.0.0.1:{h.port}' for h in hosts)}"
                f"{hosts[0].path}?sslmode=disable&target_session_attrs=read-write"
            )
            async with opened(several) as database:
                assert await backend(database)
                await stack.aclose()
                with contextlib.suppress(StoreUnavailableError):
                    await backend(database)
                assert await backend(database)

    @pytest.mark.parametrize("fault", Cut)
    async def test_only_a_write_lost_at_its_commit_has_an_unknown_outcome(
        self, dsn: str, fault: Cut
    ) -> None:
        async with PostgresProxy(dsn).serving() as proxy, opened(proxy.dsn) as database:

            async def work(connection: Connection) -> None:
                await connection.execute("SELECT 1")

            async def lost(at: str, *, readonly: bool) -> bool:
                proxy.decide = lambda exchange: fault if exchange.sql.startswith(at) else None
                with pytest.raises(StoreUnavailableError) as raised:
                    await database.run(work, readonly=readonly)
                proxy.decide = lambda _exchange: None
                return isinstance(raised.value, OutcomeUnknownError)

            assert await lost("COMMIT", readonly=False)
            assert not await lost("SELECT 1", readonly=False)
            assert not await lost("COMMIT", readonly=True)
            assert await backend(database)


@pytest.mark.requirement("O8")
class TestStandby:
    async def test_a_commit_that_no_standby_confirmed_is_no_success(self, tmp_path: Path) -> None:
        with EmbeddedPostgres(tmp_path / "postgres", log_folder=tmp_path / "logs") as embedded:
            server = embedded.server
            async with opened(server.create_database("books", password=PASSWORD)) as database:
                await database.execute("CREATE TABLE written (id int)")
                server.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
                server.execute("SELECT pg_reload_conf()")
                await becomes(database, "SHOW synchronous_standby_names", "away")

                async def write(connection: Connection) -> None:
                    await connection.execute("INSERT INTO written VALUES (1)")

                writing = asyncio.create_task(database.run(write))
                waits = "SELECT pid::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                pid = await becomes(database, waits)
                await database.fetch("SELECT pg_cancel_backend($1)", int(pid))

                with pytest.raises(OutcomeUnknownError) as refused:
                    await writing
                assert refused.value.retry_after_seconds
                assert await database.fetch("SELECT id FROM written")


async def becomes(database: Database, query: str, wanted: str | None = None) -> str:
    """Return the one value of a query's only row, as soon as there is one and it is as wanted."""
    async with asyncio.timeout(30):
        while True:
            row = await database.fetchrow(query)
            if row is not None and wanted in {None, row[0]}:
                return str(row[0])
            await asyncio.sleep(0.02)


@pytest.mark.requirement("O8")
class TestConnections:
    async def test_a_password_is_read_for_each_connection(self, dsn: str) -> None:
        password = [urlsplit(dsn).password or ""]

        def current() -> str:
            parts = urlsplit(dsn)
            return parts._replace(
                netloc=parts.netloc.replace(f":{parts.password}@", f":{password[0]}@")
            ).geturl()

        database = Database(current, application_name="tests", pool_size=1)
        await database.open()
        try:
            before = await backend(database)
            await database.execute(f"ALTER ROLE {urlsplit(dsn).username} PASSWORD 'rotated'")
            # What is open stays; a new connection needs the new password.
            assert await backend(database) == before
            assert await self._reconnects(database) is False
            password[0] = "rotated"
            assert await backend(database) != before
        finally:
            await database.execute(
                f"ALTER ROLE {urlsplit(dsn).username} PASSWORD '{urlsplit(dsn).password}'"
            )
            await database.close()

    async def test_commands_locks_and_idle_transactions_have_an_end(self, dsn: str) -> None:
        async with opened(dsn) as database:
            shown = {name: (await database.fetch(f"SHOW {name}"))[0][0] for name in SERVER_SETTINGS}
        assert shown == SERVER_SETTINGS

    async def test_a_table_changed_under_a_prepared_statement_is_no_failure(self, dsn: str) -> None:
        async with opened(dsn) as database:
            await database.execute("CREATE TABLE things (a int)")

            async def read(connection: Connection) -> int:
                return len(await connection.fetch("SELECT * FROM things"))

            assert await database.run(read) == 0
            await database.execute("ALTER TABLE things ADD COLUMN b int")
            assert await database.run(read) == 0

    async def _reconnects(self, database: Database) -> bool:
        with contextlib.suppress(StoreUnavailableError):
            await database.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        try:
            await backend(database)
        except StoreUnavailableError:
            return False
        return True


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
