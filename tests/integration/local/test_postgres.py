# SPDX-License-Identifier: Apache-2.0
"""The embedded PostgreSQL is durable, and each database belongs to one role."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres, PostgresServer
from deploy.local.processes import LocalError
from tests.support.postgres import Databases

PASSWORD = "a 'quoted' p@ss/word"


async def value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@pytest.mark.requirement("O1")
class TestEmbeddedPostgres:
    async def test_what_was_committed_survives_a_crash_and_a_stop(self, tmp_path: Path) -> None:
        with EmbeddedPostgres(tmp_path / "postgres", log_folder=tmp_path / "logs") as embedded:
            dsn = embedded.server.create_database("ownkey_test", password=PASSWORD)
            await value(dsn, "CREATE TABLE kept AS SELECT 7 AS number")
            embedded.kill()
            embedded.start()
            assert await value(dsn, "SELECT number FROM kept") == 7
            embedded.stop()
            embedded.start()
            assert await value(dsn, "SELECT number FROM kept") == 7

    async def test_commits_are_as_durable_as_in_production(self, databases: Databases) -> None:
        with databases.empty() as dsn:
            assert await value(dsn, "SHOW fsync") == "on"
            assert await value(dsn, "SHOW synchronous_commit") == "on"

    def test_a_folder_too_deep_for_a_socket_works_too(self, tmp_path: Path) -> None:
        deep = tmp_path / ("deep" * 20) / "postgres"
        with EmbeddedPostgres(deep, log_folder=tmp_path) as embedded:
            assert embedded.server.execute("SELECT 1") == "1"


@pytest.mark.requirement("O1")
class TestDatabases:
    async def test_a_role_reaches_its_own_database_only(self, databases: Databases) -> None:
        with databases.empty() as mine, databases.empty() as other:
            credentials = mine.partition("@")[0]
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await value(f"{credentials}@{other.partition('@')[2]}", "SELECT 1")

    async def test_a_copy_is_a_database_of_its_own(self, databases: Databases) -> None:
        with databases.empty() as template:
            await value(template, "CREATE TABLE rows AS SELECT 1 AS number")
            with databases.copy(template) as copy:
                await value(copy, "INSERT INTO rows VALUES (2)")
                assert await value(copy, "SELECT count(*) FROM rows") == 2
            assert await value(template, "SELECT count(*) FROM rows") == 1

    def test_a_refused_statement_is_told_in_words(self, postgres: PostgresServer) -> None:
        with pytest.raises(LocalError, match="does not exist"):
            postgres.execute("SELECT * FROM nowhere")
