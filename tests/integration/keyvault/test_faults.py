# SPDX-License-Identifier: Apache-2.0
"""Callers that go away, peers that are away, and starts that must be refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2, live_test_pb2

from services.keyvault.bootstrap import keyvault
from services.keyvault.config import read_config
from services.shared.config import ConfigError
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    SlowRouter,
    database,
    new_request_id,
    refusal,
    running_keyvault,
    write_environ,
)
from tests.support.postgres import Databases


@pytest.mark.requirement("K1", "K9")
class TestCancellation:
    @pytest.mark.parametrize("milliseconds", [1, 3, 5, 8, 12, 18, 25, 40])
    async def test_whenever_the_caller_goes_all_or_nothing_is_stored_and_a_repeat_agrees(
        self, vaulted: RunningKeyvault, milliseconds: int
    ) -> None:
        request_id = new_request_id()
        call = asyncio.create_task(vaulted.create(key_id="main", request_id=request_id))
        await asyncio.sleep(milliseconds / 1000)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        repeated = await vaulted.create(key_id="main", request_id=request_id)
        [account] = (await vaulted.resolve()).accounts
        assert [item.secret for item in account.keys] == [OPENAI_KEY]
        assert repeated.key.name == account.keys[0].key.name
        async with database(vaulted.dsn) as connection:
            counts = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM keys) AS keys, "
                "(SELECT count(*) FROM key_secrets) AS secrets, "
                "(SELECT count(*) FROM audit_events WHERE action = 'CREATE') AS events"
            )
        assert tuple(counts) == (1, 1, 1)

    async def test_a_deadline_that_ends_during_the_live_test_stores_nothing(
        self, tmp_path: Path, keyvault_dsn: str
    ) -> None:
        router = SlowRouter()
        async with running_keyvault(tmp_path, keyvault_dsn, router=router) as vaulted:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await vaulted.create()
            router.go.set()

            assert list((await vaulted.resolve()).accounts[0].keys) == []


@pytest.mark.requirement("K3")
async def test_without_the_router_a_key_is_stored_only_if_asked_and_begins_suspect(
    tmp_path: Path, keyvault_dsn: str
) -> None:
    async with running_keyvault(tmp_path, keyvault_dsn, ROUTER_ADDRESS="127.0.0.1:1") as vaulted:
        status = await refusal(vaulted.create())

        assert (status.code, status.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "PEER_UNAVAILABLE",
        )
        assert status.retry_after_seconds
        assert list((await vaulted.resolve()).accounts[0].keys) == []

        stored = await vaulted.create(store_unverified=True)
        assert stored.test.result == live_test_pb2.TEST_RESULT_UNREACHABLE
        assert "router" in stored.test.detail
        [health] = stored.key.health
        assert health.state == key_pb2.HEALTH_STATE_SUSPECT
        assert (await vaulted.resolve()).accounts[0].keys[0].secret == OPENAI_KEY


@pytest.mark.requirement("K9", "O1")
class TestStart:
    async def test_keys_still_open_after_a_restart(self, tmp_path: Path, keyvault_dsn: str) -> None:
        async with running_keyvault(tmp_path, keyvault_dsn) as vaulted:
            await vaulted.create()
        async with running_keyvault(tmp_path, keyvault_dsn) as vaulted:
            assert (await vaulted.resolve()).accounts[0].keys[0].secret == OPENAI_KEY

    async def test_another_keyring_is_refused(self, tmp_path: Path, keyvault_dsn: str) -> None:
        async with running_keyvault(tmp_path, keyvault_dsn) as vaulted:
            await vaulted.create()
        with pytest.raises(ConfigError, match="restore its keyring from a backup"):
            async with running_keyvault(
                tmp_path, keyvault_dsn, KEYRING_FILE=str(tmp_path / "another")
            ):
                pass

    async def test_an_empty_database_says_what_to_run(
        self, tmp_path: Path, databases: Databases
    ) -> None:
        with databases.empty() as dsn:
            config = read_config(write_environ(tmp_path, dsn, router_port=1))
            with pytest.raises(ConfigError, match="migrate"):
                async with keyvault(config):
                    pass

    async def test_a_newer_database_is_left_alone(self, tmp_path: Path, keyvault_dsn: str) -> None:
        async with database(keyvault_dsn) as connection:
            await connection.execute("UPDATE schema_version SET version = 999, lowest_code = 999")
        config = read_config(write_environ(tmp_path, keyvault_dsn, router_port=1))
        with pytest.raises(ConfigError, match="newer version"):
            async with keyvault(config):
                pass
