# SPDX-License-Identifier: Apache-2.0
"""Sealing keys: shared by replicas, rotated with an overlap, rewrapped with all that is wrapped."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2
from ownkey.keyvault.v1 import sealing_pb2

from tests.support.client_held import HYBRID, X25519, hold, opened, opening, refused
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
    running_keyvault,
)


@pytest.mark.requirement("K10", "K12")
class TestSealingKeys:
    async def test_replicas_share_them(self, tmp_path: Path, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        # Another replica on the same database and keyring.
        async with running_keyvault(tmp_path, vaulted.dsn) as second:
            assert (await opened(second, opening(browser))).secret == OPENAI_KEY

    async def test_an_old_one_opens_on_and_the_key_comes_back_sealed_under_the_newest(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        await make_older(vaulted, days=31)
        answer = await opened(vaulted, opening(browser))
        browser.sealed = answer.resealed_key
        again = await opened(vaulted, opening(browser))

        assert answer.resealed_key.sealing_key == "sealingKeys/x25519-2"
        assert again.secret == OPENAI_KEY
        assert not again.HasField("resealed_key")

    async def test_past_its_time_one_opens_nothing_and_is_destroyed(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        await make_older(vaulted, days=30 + 366)
        found = await refused(vaulted, opening(browser))
        fresh = await vaulted.stub.GetSealingKey(service_pb2.GetSealingKeyRequest(suite=X25519))
        async with database(vaulted.dsn) as connection:
            rows = await connection.fetch(
                "SELECT purpose FROM service_keys WHERE purpose LIKE 'sealing/%'"
            )

        assert found == ("SEALED_KEY_REFUSED", "SEALING_KEY_GONE")
        assert fresh.sealing_key.name == "sealingKeys/x25519-2"
        assert [row["purpose"] for row in rows] == ["sealing/x25519-2"]

    async def test_of_many_that_make_the_first_one_at_once_all_get_the_same(
        self, vaulted: RunningKeyvault
    ) -> None:
        request = service_pb2.GetSealingKeyRequest(suite=X25519)
        answers = await asyncio.gather(*(vaulted.stub.GetSealingKey(request) for _ in range(8)))

        assert len({answer.sealing_key.public_key for answer in answers}) == 1

    async def test_they_are_rewrapped_with_the_rest_and_open_after_a_rotation(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        stub, operator = vaulted.stub, vaulted.as_operator
        await stub.RotateKek(
            service_pb2.RotateKekRequest(request_id=new_request_id()), metadata=operator
        )
        async for _ in stub.RewrapKeys(service_pb2.RewrapKeysRequest(), metadata=operator):
            pass
        await stub.RetireKekVersions(
            service_pb2.RetireKekVersionsRequest(request_id=new_request_id(), lowest_version=2),
            metadata=operator,
        )

        assert (await opened(vaulted, opening(browser))).secret == OPENAI_KEY

    async def test_a_public_key_tells_its_suite_and_its_end(self, vaulted: RunningKeyvault) -> None:
        found = {}
        for suite in (X25519, HYBRID):
            request = service_pb2.GetSealingKeyRequest(suite=suite)
            found[suite] = (await vaulted.stub.GetSealingKey(request)).sealing_key
            again = (await vaulted.stub.GetSealingKey(request)).sealing_key
            assert again == found[suite]
        unknown = service_pb2.GetSealingKeyRequest(suite=sealing_pb2.SEALING_SUITE_UNSPECIFIED)

        assert {suite: len(key.public_key) for suite, key in found.items()} == {
            X25519: 32,
            HYBRID: 1_216,
        }
        left = found[X25519].expire_time.ToDatetime(UTC) - datetime.now(UTC)
        assert timedelta(days=29) < left <= timedelta(days=30)
        assert (await refusal(vaulted.stub.GetSealingKey(unknown))).reason == "INVALID_ARGUMENT"


async def make_older(vaulted: RunningKeyvault, *, days: int) -> None:
    """Let every sealing key have been made that much earlier."""
    async with database(vaulted.dsn) as connection:
        await connection.execute(
            "UPDATE service_keys SET create_time = create_time - $1::interval"
            " WHERE purpose LIKE 'sealing/%'",
            timedelta(days=days),
        )
