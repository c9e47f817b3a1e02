# SPDX-License-Identifier: Apache-2.0
"""Rotating the key-encryption key while keys are in use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from ownkey.keyvault.v1 import audit_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from deploy.local.vault import TRANSIT_KEY, LocalVault
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    SlowRouter,
    database,
    new_request_id,
    refusal,
    running_keyvault,
)
from tests.support.vault_transit import vault_environ

RECORDS = (
    "SELECT generation, wrapped_dek, nonce, ciphertext, commitment FROM key_secrets"
    " ORDER BY account_id"
)


async def rotate(vaulted: RunningKeyvault, request_id: str = "") -> Any:
    request = service_pb2.RotateKekRequest(request_id=request_id or new_request_id())
    return (await vaulted.stub.RotateKek(request, metadata=vaulted.as_operator)).status


async def rewrap(vaulted: RunningKeyvault, **arguments: Any) -> list[Any]:
    request = service_pb2.RewrapKeysRequest(**arguments)
    call = vaulted.stub.RewrapKeys(request, metadata=vaulted.as_operator)
    return [answer.progress async for answer in call]


async def secrets(vaulted: RunningKeyvault, count: int) -> list[str]:
    accounts = [f"account-{number}" for number in range(count)]
    resolved = await vaulted.resolve(*accounts)
    return [item.secret for account in resolved.accounts for item in account.keys]


async def reencrypt(vaulted: RunningKeyvault, **arguments: Any) -> list[Any]:
    request = service_pb2.ReencryptKeysRequest(**arguments)
    call = vaulted.stub.ReencryptKeys(request, metadata=vaulted.as_operator)
    return [answer.progress async for answer in call]


async def retire(vaulted: RunningKeyvault, lowest: int, request_id: str = "") -> Any:
    request = service_pb2.RetireKekVersionsRequest(
        lowest_version=lowest, request_id=request_id or new_request_id()
    )
    answer = await vaulted.stub.RetireKekVersions(request, metadata=vaulted.as_operator)
    return answer.status


async def own_keys(vaulted: RunningKeyvault) -> int:
    """Count keyvault's own wrapped keys, which every run does besides."""
    async with database(vaulted.dsn) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM service_keys"))


def versions(status: Any) -> dict[int, int]:
    return {item.version: item.record_count for item in status.versions}


@pytest.mark.requirement("K12")
class TestRotation:
    async def test_three_rotations_and_a_rewrap_leave_every_key_readable(
        self, vaulted: RunningKeyvault
    ) -> None:
        for number in range(4):
            await vaulted.create(account=f"account-{number}", key_id="main")
            if number < 3:
                await rotate(vaulted)
        status = await rotate(vaulted, request_id := new_request_id())
        own = await own_keys(vaulted)
        assert (status.current_version, versions(status)) == (5, {1: 1 + own, 2: 1, 3: 1, 4: 1})
        assert (await rotate(vaulted, request_id)).current_version == 5

        progress = await rewrap(vaulted, records_per_second_max=100_000)
        request = service_pb2.GetKekStatusRequest()
        answer = await vaulted.stub.GetKekStatus(request, metadata=vaulted.as_operator)

        last = progress[-1]
        assert (last.done_count, last.remaining_count, last.failed_count) == (4 + own, 0, 0)
        assert versions(answer.status) == {5: 4 + own}
        assert await secrets(vaulted, 4) == [OPENAI_KEY] * 4
        assert [step.done_count for step in await rewrap(vaulted)] == [0]
        events = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/platform"),
            metadata=vaulted.as_operator,
        )
        assert [event.action for event in events.audit_events] == [
            *[audit_pb2.AUDIT_ACTION_REWRAP] * 2,
            *[audit_pb2.AUDIT_ACTION_ROTATE_KEK] * 4,
        ]
        assert {event.actor for event in events.audit_events} == {"operator"}
        assert dict(events.audit_events[0].details)["version"] == "5"

    async def test_a_run_goes_on_where_it_ended_and_counts_what_it_cannot_do(
        self, vaulted: RunningKeyvault
    ) -> None:
        for number in range(3):
            await vaulted.create(account=f"account-{number}", key_id="main")
        await rotate(vaulted)
        async with database(vaulted.dsn) as connection:
            await connection.execute(
                "UPDATE key_secrets SET commitment = nonce || nonce || substr(nonce, 1, 8),"
                " wrapped_dek = set_byte(wrapped_dek, 40, get_byte(wrapped_dek, 40) # 1)"
                " WHERE account_id = 'account-1'"
            )
        resumed = await rewrap(vaulted, resume_token="account-0/main/1")

        own = await own_keys(vaulted)
        assert (resumed[-1].done_count, resumed[-1].failed_count) == (1 + own, 1)
        [first] = (await vaulted.resolve("account-0")).accounts
        assert first.keys[0].secret == OPENAI_KEY
        [damaged] = (await vaulted.resolve("account-1")).accounts
        assert damaged.keys[0].secret == ""

    async def test_three_rotations_under_load_cost_no_read_and_no_write(
        self, tmp_path: Any, keyvault_dsn: str
    ) -> None:
        """Every read opens its record anew; the versions that are left behind are destroyed."""
        async with running_keyvault(tmp_path, keyvault_dsn, CACHE_SECONDS="0") as vaulted:
            for number in range(5):
                await vaulted.create(account=f"account-{number}", key_id="main")
            over = asyncio.Event()

            async def read() -> int:
                count = 0
                while not over.is_set():
                    assert await secrets(vaulted, 5) == [OPENAI_KEY] * 5
                    count += 1
                return count

            async def write() -> int:
                count = 0
                while not over.is_set():
                    await vaulted.create(account=f"written-{count}")
                    count += 1
                return count

            work = [asyncio.create_task(task) for task in (read(), read(), write())]
            for _ in range(3):
                await rotate(vaulted)
                progress = await rewrap(vaulted, records_per_second_max=100_000)
                assert progress[-1].failed_count == 0
                await reencrypt(vaulted, records_per_second_max=100_000)
            status = await retire(vaulted, 4)
            over.set()
            counts = await asyncio.gather(*work)

            assert all(counts)
            assert (status.lowest_version, list(versions(status))) == (4, [4])
            assert await secrets(vaulted, 5) == [OPENAI_KEY] * 5
            accounts = [f"written-{number}" for number in range(min(64, counts[2]))]
            written = (await vaulted.resolve(*accounts)).accounts
            assert {account.keys[0].secret for account in written} == {OPENAI_KEY}

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"resume_token": "nonsense"}, "resume_token"),
            ({"records_per_second_max": -1}, "records_per_second_max"),
            ({"records_per_second_max": 100_001}, "records_per_second_max"),
        ],
    )
    async def test_bad_arguments_are_named(
        self, vaulted: RunningKeyvault, arguments: Any, field: str
    ) -> None:
        assert (await refusal(rewrap(vaulted, **arguments))).metadata["field"] == field

    async def test_on_vault_an_operator_rotates_and_keyvault_rewraps(
        self, tmp_path: Any, keyvault_dsn: str, own_vault: LocalVault
    ) -> None:
        settings = vault_environ(own_vault)
        async with running_keyvault(tmp_path, keyvault_dsn, **settings) as vaulted:
            await vaulted.create(account="account-0")
            status = await refusal(rotate(vaulted))
            assert status.reason == "NOT_SERVED"
            assert "vault write -f transit/keys/ownkey/rotate" in status.message

            transit = own_vault.admin().secrets.transit
            await asyncio.to_thread(transit.rotate_key, TRANSIT_KEY)
            assert (await refusal(retire(vaulted, 2))).reason == "KEK_VERSION_IN_USE"
            assert (await rewrap(vaulted))[-1].done_count == 1 + await own_keys(vaulted)
            status = await refusal(retire(vaulted, 2))
            assert status.reason == "NOT_SERVED"
            assert "transit/keys/ownkey/config min_decryption_version=2" in status.message
            await asyncio.to_thread(
                transit.update_key_configuration,
                TRANSIT_KEY,
                min_decryption_version=2,
                min_encryption_version=0,
            )
            assert await secrets(vaulted, 1) == [OPENAI_KEY]


@pytest.mark.requirement("K12")
class TestRetirement:
    async def test_versions_in_use_stay_and_are_counted(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(account="account-0")
        await rotate(vaulted)
        status = await refusal(retire(vaulted, 2))

        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "KEK_VERSION_IN_USE",
        )
        counted = str(1 + await own_keys(vaulted))
        assert status.metadata["record_count"] == counted
        assert status.metadata["lowest_version"] == "2"
        assert await secrets(vaulted, 1) == [OPENAI_KEY]

    async def test_it_is_done_once_and_is_in_the_trail(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(account="account-0")
        await rotate(vaulted)
        await rewrap(vaulted)
        request_id = new_request_id()
        for _ in range(2):
            status = await retire(vaulted, 2, request_id)
            assert (status.lowest_version, status.current_version) == (2, 2)

        assert await secrets(vaulted, 1) == [OPENAI_KEY]
        events = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/platform"),
            metadata=vaulted.as_operator,
        )
        assert [event.action for event in events.audit_events] == [
            audit_pb2.AUDIT_ACTION_RETIRE_KEK,
            audit_pb2.AUDIT_ACTION_REWRAP,
            audit_pb2.AUDIT_ACTION_ROTATE_KEK,
        ]

    @pytest.mark.parametrize("lowest", [-1, 0, 2])
    async def test_only_versions_that_are_there_can_stay(
        self, vaulted: RunningKeyvault, lowest: int
    ) -> None:
        assert (await refusal(retire(vaulted, lowest))).metadata["field"] == "lowest_version"

    async def test_what_was_wrapped_before_and_arrives_after_is_refused(
        self, tmp_path: Path, keyvault_dsn: str
    ) -> None:
        """Its live test took longer than the rotation, the rewrap and the retirement."""
        router = SlowRouter()
        async with running_keyvault(tmp_path, keyvault_dsn, router=router) as vaulted:
            late = asyncio.create_task(vaulted.create(account="late", request_id=new_request_id()))
            await router.reached.wait()
            await rotate(vaulted)
            await rewrap(vaulted)
            await retire(vaulted, 2)
            router.go.set()
            status = await refusal(late)

            assert (status.code, status.metadata["cause"]) == (
                grpc.StatusCode.UNAVAILABLE,
                "RETIRED",
            )
            await vaulted.create(account="late")
            [account] = (await vaulted.resolve("late")).accounts
            assert [item.secret for item in account.keys] == [OPENAI_KEY]


@pytest.mark.requirement("K9", "K12")
class TestReencryption:
    async def test_every_secret_gets_a_fresh_data_key_and_a_higher_generation(
        self, vaulted: RunningKeyvault
    ) -> None:
        for number in range(3):
            await vaulted.create(account=f"account-{number}", key_id="main")
        async with database(vaulted.dsn) as connection:
            before = await connection.fetch(RECORDS)
            progress = await reencrypt(vaulted)
            after = await connection.fetch(RECORDS)

        last = progress[-1]
        assert (last.done_count, last.remaining_count, last.failed_count) == (3, 0, 0)
        assert [row["generation"] for row in (*before, *after)] == [1, 1, 1, 2, 2, 2]
        for old, new in zip(before, after, strict=True):
            for column in ("wrapped_dek", "nonce", "ciphertext", "commitment"):
                assert old[column] != new[column]
        assert await secrets(vaulted, 3) == [OPENAI_KEY] * 3

    async def test_a_row_from_before_put_back_is_refused(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(account="account-0", key_id="main")
        async with database(vaulted.dsn) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT * FROM key_secrets")
            await reencrypt(vaulted)
            await connection.execute("DELETE FROM key_secrets")
            await connection.execute("INSERT INTO key_secrets SELECT * FROM kept")
            assert await secrets(vaulted, 1) == [""]
            # Nor does it open as what it is not.
            await connection.execute("UPDATE key_secrets SET generation = 2")
            assert await secrets(vaulted, 1) == [""]

    async def test_a_run_goes_on_where_it_ended_and_leaves_what_does_not_open(
        self, vaulted: RunningKeyvault
    ) -> None:
        for number in range(3):
            await vaulted.create(account=f"account-{number}", key_id="main")
        async with database(vaulted.dsn) as connection:
            await connection.execute(
                "UPDATE key_secrets SET nonce = '000000000000' WHERE account_id = 'account-1'"
            )
            before = await connection.fetchrow(f"{RECORDS} LIMIT 1 OFFSET 1")
            [*_, last] = await reencrypt(vaulted, resume_token="account-0/main/1")
            after = await connection.fetchrow(f"{RECORDS} LIMIT 1 OFFSET 1")
            generations = [row["generation"] for row in await connection.fetch(RECORDS)]

        assert (last.done_count, last.failed_count) == (1, 1)
        assert generations == [1, 1, 2]
        assert before == after
        assert (await reencrypt(vaulted, resume_token=last.resume_token))[-1].done_count == 0

    async def test_one_account_alone_can_be_done_and_it_is_in_its_trail(
        self, vaulted: RunningKeyvault
    ) -> None:
        for number in range(2):
            await vaulted.create(account=f"account-{number}", key_id="main")
        assert (await reencrypt(vaulted, account="accounts/account-1"))[-1].done_count == 1
        events = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/account-1")
        )

        assert events.audit_events[0].action == audit_pb2.AUDIT_ACTION_REENCRYPT
        assert events.audit_events[0].actor == "operator"

    async def test_on_vault_it_is_the_same(
        self, tmp_path: Path, keyvault_dsn: str, own_vault: LocalVault
    ) -> None:
        async with running_keyvault(tmp_path, keyvault_dsn, **vault_environ(own_vault)) as vaulted:
            for number in range(60):
                await vaulted.create(account=f"account-{number}", key_id="main")
            steps = await reencrypt(vaulted, records_per_second_max=100_000)

            assert [(step.done_count, step.remaining_count) for step in steps] == [
                (50, 10),
                (60, 0),
                (60, 0),
            ]
            assert await secrets(vaulted, 60) == [OPENAI_KEY] * 60

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"resume_token": "nonsense"}, "resume_token"),
            ({"records_per_second_max": -1}, "records_per_second_max"),
            ({"account": "nonsense"}, "account"),
        ],
    )
    async def test_bad_arguments_are_named(
        self, vaulted: RunningKeyvault, arguments: Any, field: str
    ) -> None:
        assert (await refusal(reencrypt(vaulted, **arguments))).metadata["field"] == field
