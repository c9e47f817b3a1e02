# SPDX-License-Identifier: Apache-2.0
"""Replacing a secret while the old one goes on for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ownkey.keyvault.v1 import audit_pb2, key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from services.keyvault.adapters.postgres_keys import PostgresKeyStore
from services.keyvault.usecases.end_overlaps import EndOverlaps
from services.shared.postgres import Database
from tests.support.clock import ManualClock
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
)

MAIN = "accounts/demo/keys/main"
NEW_KEY = "sk-proj-newnewnewnewnewnewnewnew0123456789ABCD"
NEWEST_KEY = "sk-proj-newestnewestnewestnewest0123456789EFGH"
DESTROY = audit_pb2.AUDIT_ACTION_DESTROY_VERSION


async def replace(
    vaulted: RunningKeyvault, secret: str = NEW_KEY, *, seconds: int | None = 600
) -> key_pb2.Key:
    request = service_pb2.ReplaceKeyRequest(
        name=MAIN, secret=secret, request_id=new_request_id(), overlap_seconds=seconds
    )
    return (await vaulted.stub.ReplaceKey(request)).key


async def resolved(vaulted: RunningKeyvault) -> resolution_pb2.ResolvedKey:
    [account] = (await vaulted.resolve()).accounts
    [item] = account.keys
    return item


async def stored_versions(vaulted: RunningKeyvault) -> list[int]:
    async with database(vaulted.dsn) as connection:
        rows = await connection.fetch("SELECT version FROM key_secrets ORDER BY version")
    return [row["version"] for row in rows]


async def audited(vaulted: RunningKeyvault) -> list[tuple[Any, int, str]]:
    request = service_pb2.ListAuditEventsRequest(parent="accounts/demo")
    events = (await vaulted.stub.ListAuditEvents(request)).audit_events
    return [(event.action, event.version, event.actor) for event in events]


@pytest.mark.requirement("K7", "K15")
class TestOverlap:
    async def test_both_are_released_the_old_one_with_the_time_that_is_left(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        key = await replace(vaulted, seconds=600)
        item = await resolved(vaulted)

        assert (item.key.version, item.secret) == (2, NEW_KEY)
        assert (item.previous.version, item.previous.secret) == (1, OPENAI_KEY)
        assert 590_000 < item.previous.remaining_millis <= 600_000
        assert item.key.overlap_end_time == key.overlap_end_time
        left = key.overlap_end_time.ToDatetime() - key.update_time.ToDatetime()
        assert left.total_seconds() == 600
        assert (audit_pb2.AUDIT_ACTION_RELEASE, 1, "router") in await audited(vaulted)

    async def test_past_the_end_nobody_gets_it_whether_or_not_it_was_destroyed(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await replace(vaulted)
        async with database(vaulted.dsn) as connection, connection.transaction():
            # Whoever ends overlaps waits for the lock of the account's row.
            await connection.execute("SELECT 1 FROM accounts FOR UPDATE")
            async with database(vaulted.dsn) as other:
                await other.execute(
                    "UPDATE key_versions SET expire_time = clock_timestamp() WHERE version = 1"
                )
            item = await resolved(vaulted)
            assert await stored_versions(vaulted) == [1, 2]

        assert item.secret == NEW_KEY
        assert not item.HasField("previous")
        assert not item.key.HasField("overlap_end_time")

    async def test_at_the_end_it_is_destroyed_audited_and_the_routers_are_told(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await replace(vaulted, seconds=1)
        before = (await vaulted.resolve()).position.sequence
        async with asyncio.timeout(10):
            while await stored_versions(vaulted) != [2]:
                await asyncio.sleep(0.1)

        assert (await audited(vaulted))[0] == (DESTROY, 1, "keyvault")
        after = await vaulted.resolve()
        assert after.position.sequence == before + 1
        assert after.accounts[0].keys[0].secret == NEW_KEY

    async def test_replicas_that_end_it_at_once_destroy_it_once(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await replace(vaulted, seconds=1)
        store = Database(vaulted.dsn, application_name="replicas")
        await store.open()
        async with database(vaulted.dsn) as connection:
            await connection.execute(
                "UPDATE key_versions SET expire_time = clock_timestamp() WHERE version = 1"
            )
        end = EndOverlaps(PostgresKeyStore(store), clock=ManualClock())
        await asyncio.gather(*(end() for _ in range(5)))
        await store.close()

        assert await stored_versions(vaulted) == [2]
        assert [entry for entry in await audited(vaulted) if entry[0] == DESTROY] == [
            (DESTROY, 1, "keyvault")
        ]

    @pytest.mark.parametrize(("seconds", "left"), [(600, [2, 3]), (None, [3])])
    async def test_another_replacement_ends_it(
        self, vaulted: RunningKeyvault, seconds: int | None, left: list[int]
    ) -> None:
        await vaulted.create(key_id="main")
        await replace(vaulted, seconds=600)
        await replace(vaulted, NEWEST_KEY, seconds=seconds)
        item = await resolved(vaulted)

        assert await stored_versions(vaulted) == left
        assert item.secret == NEWEST_KEY
        assert item.previous.secret == (NEW_KEY if seconds else "")
        destroyed = {entry[1] for entry in await audited(vaulted) if entry[0] == DESTROY}
        assert destroyed == {1, 2, 3} - set(left)

    async def test_a_disabled_key_gives_neither_and_a_deleted_one_keeps_neither(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await replace(vaulted)
        await vaulted.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        item = await resolved(vaulted)
        assert (item.secret, item.HasField("previous")) == ("", False)

        await vaulted.stub.DeleteKey(
            service_pb2.DeleteKeyRequest(name=MAIN, request_id=new_request_id())
        )
        assert await stored_versions(vaulted) == []

    async def test_a_damaged_old_record_costs_the_new_one_nothing(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await replace(vaulted)
        async with database(vaulted.dsn) as connection:
            await connection.execute("UPDATE key_secrets SET generation = 9 WHERE version = 1")
        item = await resolved(vaulted)

        assert (item.secret, item.HasField("previous")) == (NEW_KEY, False)

    @pytest.mark.parametrize("seconds", [0, -1, 604_801])
    async def test_a_time_out_of_range_is_refused(
        self, vaulted: RunningKeyvault, seconds: int
    ) -> None:
        await vaulted.create(key_id="main")
        status = await refusal(replace(vaulted, seconds=seconds))

        assert status.metadata["field"] == "overlap_seconds"
        assert (await resolved(vaulted)).secret == OPENAI_KEY
