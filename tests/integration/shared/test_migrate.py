# SPDX-License-Identifier: Apache-2.0
"""Migrations while others use the database, and code beside a schema that is not its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from services.ledger.bootstrap import MIGRATIONS, SCHEMA_CODE
from services.shared.config import ConfigError
from services.shared.migrate import check_schema, migrate
from services.shared.postgres import Database
from tests.support.ledger import consistent, running_ledger
from tests.support.postgres import Databases
from tests.support.source import ROOT

SERVED_SECONDS_MAX = 10.0
FIRST = """
from alembic import op
from services.shared.migrate import record_version
revision, down_revision = "0001", None
def upgrade():
    op.execute("CREATE TABLE things (a int)")
    record_version(1, lowest_code=1)
"""
EXPAND = """
from alembic import op
from services.shared.migrate import record_version
revision, down_revision = "{number:04}", "{before:04}"
def upgrade():
    op.execute("ALTER TABLE {table} ADD COLUMN added_{number} int")
    record_version({number}, lowest_code=1)
"""
CONTRACT = """
from alembic import op
from services.shared.migrate import record_version
revision, down_revision = "{number:04}", "{before:04}"
def upgrade():
    op.execute("ALTER TABLE {table} DROP COLUMN added_{before}")
    record_version({number}, lowest_code={before})
"""
BROKEN = """
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.execute("ALTER TABLE things ADD COLUMN half int")
    op.execute("ALTER TABLE nowhere ADD COLUMN b int")
"""


@pytest.fixture
def dsn(databases: Databases) -> Iterator[str]:
    """An empty database."""
    with databases.empty() as dsn:
        yield dsn


def folder_with(folder: Path, *migrations: str) -> Path:
    """Write migrations, numbered from one."""
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(migrations, start=1):
        (versions / f"{number:04}_step.py").write_text(text)
    return folder


async def schema(dsn: str) -> tuple[int, int, list[str]]:
    """Return version, lowest code, and the columns of `things`."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow("SELECT version, lowest_code FROM schema_version")
        columns = await connection.fetch(
            "SELECT column_name AS name FROM information_schema.columns "
            "WHERE table_name = 'things' ORDER BY ordinal_position"
        )
        assert row is not None
        return row["version"], row["lowest_code"], [column["name"] for column in columns]
    finally:
        await connection.close()


async def checked(dsn: str, *, code: int, needed: int) -> str:
    """Return why code of these numbers would not start, empty if it would."""
    database = Database(dsn, application_name="tests", pool_size=1)
    await database.open()
    try:
        await check_schema(database, code=code, needed=needed)
    except ConfigError as fault:
        (problem,) = fault.problems
        return problem
    finally:
        await database.close()
    return ""


@pytest.mark.requirement("O7")
class TestMigrate:
    async def test_of_many_processes_at_once_one_migrates(self, dsn: str, tmp_path: Path) -> None:
        steps = [EXPAND.format(number=n, before=n - 1, table="things") for n in (2, 3)]
        folder = folder_with(tmp_path, FIRST, *steps)
        await asyncio.gather(*(migrate(dsn, folder) for _ in range(4)))
        assert await schema(dsn) == (3, 1, ["a", "added_2", "added_3"])

    async def test_a_migrating_process_waits_for_the_one_that_began(
        self, dsn: str, tmp_path: Path
    ) -> None:
        folder = folder_with(tmp_path, FIRST)
        await migrate(dsn, folder)
        folder_with(tmp_path, FIRST, EXPAND.format(number=2, before=1, table="things"))
        other = await asyncpg.connect(dsn)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT 1 FROM schema_version FOR UPDATE")
        migrating = asyncio.create_task(migrate(dsn, folder))
        await _until_somebody_waits(dsn)
        assert await schema(dsn) == (1, 1, ["a"])
        await transaction.rollback()
        await migrating
        await other.close()
        assert await schema(dsn) == (2, 1, ["a", "added_2"])

    async def test_a_busy_table_is_left_to_its_users_and_tried_again(
        self, dsn: str, tmp_path: Path
    ) -> None:
        await migrate(dsn, folder_with(tmp_path, FIRST))
        user = await asyncpg.connect(dsn)
        transaction = user.transaction()
        await transaction.start()
        await user.execute("SELECT count(*) FROM things")
        folder = folder_with(tmp_path, FIRST, EXPAND.format(number=2, before=1, table="things"))
        migrating = asyncio.create_task(migrate(dsn, folder))
        await _until_somebody_waits(dsn)
        # Behind DDL that waits, another reader waits only as long as the DDL may.
        reader = await asyncpg.connect(dsn)
        assert await reader.fetchval("SELECT count(*) FROM things", timeout=15) == 0
        assert not migrating.done()
        await transaction.rollback()
        await migrating
        assert (await schema(dsn))[2] == ["a", "added_2"]
        await reader.close()
        await user.close()

    async def test_of_a_migration_that_fails_nothing_stays(self, dsn: str, tmp_path: Path) -> None:
        await migrate(dsn, folder_with(tmp_path, FIRST))
        with pytest.raises(Exception, match="nowhere"):
            await migrate(dsn, folder_with(tmp_path, FIRST, BROKEN))
        assert await schema(dsn) == (1, 1, ["a"])


@pytest.mark.requirement("O7")
class TestSchemaCheck:
    async def test_code_is_refused_below_the_lowest_number_only(
        self, dsn: str, tmp_path: Path
    ) -> None:
        steps = [
            EXPAND.format(number=2, before=1, table="things"),
            CONTRACT.format(number=3, before=2, table="things"),
        ]
        await migrate(dsn, folder_with(tmp_path, FIRST, *steps))
        assert (await schema(dsn))[:2] == (3, 2)
        assert await checked(dsn, code=3, needed=3) == ""
        assert await checked(dsn, code=2, needed=1) == ""
        assert "knows 1" in await checked(dsn, code=1, needed=1)
        assert "migrate command" in await checked(dsn, code=4, needed=4)

    async def test_an_empty_database_is_refused_with_what_to_do(self, dsn: str) -> None:
        assert "migrate command" in await checked(dsn, code=1, needed=1)


@pytest.mark.requirement("O7")
@pytest.mark.parametrize("service", ["keyvault", "router", "ledger"])
class TestCommand:
    async def test_it_needs_the_dsn_alone(self, service: str, dsn: str, tmp_path: Path) -> None:
        file = tmp_path / "dsn"
        file.touch(mode=0o600)
        file.write_text(dsn)
        prefix = f"OWNKEY_{service.upper()}_"
        # What else a deployment sets for the service is not looked at, whatever it holds.
        environ = {f"{prefix}DATABASE_DSN_FILE": str(file), f"{prefix}LISTEN": "nowhere"}
        assert await _migrated(service, environ) == (0, "")
        assert (await schema(dsn))[0] > 0

    async def test_it_says_what_it_lacks(self, service: str) -> None:
        code, said = await _migrated(service, {})
        assert code == 78
        assert f"OWNKEY_{service.upper()}_DATABASE_DSN_FILE is required" in said


@pytest.mark.requirement("O7", "L13")
class TestRollingUpdate:
    async def test_old_code_serves_while_the_schema_grows_and_starts_on_it(
        self, dsn: str, tmp_path: Path
    ) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        await migrate(dsn, folder)
        expand, contract = SCHEMA_CODE + 1, SCHEMA_CODE + 2
        async with running_ledger(tmp_path / "old", dsn) as books:
            account = await books.account(owns=100_000)
            served, stop = 0, asyncio.Event()

            async def work() -> None:
                nonlocal served
                while not stop.is_set():
                    run = books.run(account)
                    await run.authorize(worst_case=10)
                    await run.capture(10)
                    served += 1

            working = [asyncio.create_task(work()) for _ in range(4)]
            try:
                self._add(folder, EXPAND, expand)
                before = served
                await migrate(dsn, folder)
                async with asyncio.timeout(SERVED_SECONDS_MAX):
                    while served <= before:
                        await asyncio.sleep(0.01)
            finally:
                stop.set()
                await asyncio.gather(*working)
            async with running_ledger(tmp_path / "replica", dsn) as replica:
                assert (await replica.run(account).authorize()).granted.held_nano_credits == 100
            assert await consistent(books)
        self._add(folder, CONTRACT, contract)
        await migrate(dsn, folder)
        with pytest.raises(ConfigError, match="from a newer version"):
            async with running_ledger(tmp_path / "late", dsn):
                pass

    def _add(self, folder: Path, text: str, number: int) -> None:
        path = folder / "versions" / f"{number:04}_step.py"
        path.write_text(text.format(number=number, before=number - 1, table="accounts"))


async def _migrated(service: str, environ: dict[str, str]) -> tuple[int | None, str]:
    """Run a service's migrate command; its exit code and what it said went wrong."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{service}", "migrate"),
        env={"PATH": os.environ["PATH"], **environ},
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


async def _until_somebody_waits(dsn: str) -> None:
    """Wait until a connection of this database waits for a lock."""
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(15):
            while not await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
