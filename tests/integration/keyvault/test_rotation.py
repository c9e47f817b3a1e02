# SPDX-License-Identifier: Apache-2.0
"""Rotating the key-encryption key while keys are in use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ownkey.keyvault.v1 import audit_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from deploy.local.vault import TRANSIT_KEY, LocalVault
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
    running_keyvault,
)
from tests.support.vault_transit import vault_environ


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
        assert (status.current_version, versions(status)) == (5, {1: 1, 2: 1, 3: 1, 4: 1})
        assert (await rotate(vaulted, request_id)).current_version == 5

        progress = await rewrap(vaulted, records_per_second_max=100_000)
        request = service_pb2.GetKekStatusRequest()
        answer = await vaulted.stub.GetKekStatus(request, metadata=vaulted.as_operator)

        last = progress[-1]
        assert (last.done_count, last.remaining_count, last.failed_count) == (4, 0, 0)
        assert versions(answer.status) == {5: 4}
        assert await secrets(vaulted, 4) == [OPENAI_KEY] * 4
        assert [step.done_count for step in await rewrap(vaulted)] == [0]
        events = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/platform"),
            metadata=vaulted.as_operator,
        )
        assert [event.action for event in events.audit_events] == [
            audit_pb2.AUDIT_ACTION_ROTATE_KEK
        ] * 4

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

        assert (resumed[-1].done_count, resumed[-1].failed_count) == (1, 1)
        [first] = (await vaulted.resolve("account-0")).accounts
        assert first.keys[0].secret == OPENAI_KEY
        assert (await refusal(vaulted.resolve("account-1"))).reason == "RECORD_REFUSED"

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
            assert (await rewrap(vaulted))[-1].done_count == 1
            await asyncio.to_thread(
                transit.update_key_configuration,
                TRANSIT_KEY,
                min_decryption_version=2,
                min_encryption_version=0,
            )
            assert await secrets(vaulted, 1) == [OPENAI_KEY]
