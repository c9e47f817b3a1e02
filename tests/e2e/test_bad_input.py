# SPDX-License-Identifier: Apache-2.0
"""What every service says to calls that leave no time, or are no message at all."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import grant_pb2

from deploy.local.suite import Suite
from services.shared.ids import new_id
from services.shared.status import from_rpc_error
from tests.e2e.bad_input import (
    INVALID,
    NANO,
    Scene,
)
from tests.e2e.witness import domain, hold_to_the_rules, refused, whole

TINY_DEADLINE_SECONDS = 0.015
TINY_DEADLINE_TRIES_MAX = 100
"""A client may notice its own deadline before the service's word of it arrives."""


@pytest.mark.requirement("R11", "L11", "O3")
class TestEverywhere:
    @pytest.mark.parametrize("service", ["keyvault", "ledger"])
    async def test_a_deadline_too_short_to_try_changes_nothing(
        self, scene: Scene, service: str
    ) -> None:
        """What arrives with hardly any time left is refused before anything is tried."""
        before = await whole(scene.clients, scene.account)
        for _ in range(TINY_DEADLINE_TRIES_MAX):
            try:
                if service == "keyvault":
                    await scene.clients.keyvault.DisableKey(
                        kv.DisableKeyRequest(name=scene.key, request_id=new_id()),
                        timeout=TINY_DEADLINE_SECONDS,
                    )
                else:
                    await scene.clients.ledger.GrantCredits(
                        grant_pb2.GrantCreditsRequest(
                            request_id=new_id(),
                            account=scene.account,
                            kind=grant_pb2.GRANT_KIND_PURCHASED,
                            amount_nano_credits=NANO,
                        ),
                        timeout=TINY_DEADLINE_SECONDS,
                    )
            except grpc.aio.AioRpcError as fault:
                if fault.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                status = from_rpc_error(fault)
                if status.reason:
                    break
            else:
                pytest.fail("a call with no time left was carried out")
        assert status.reason == "DEADLINE_TOO_SHORT"
        hold_to_the_rules(status)
        assert before.differences(await whole(scene.clients, scene.account)) == []

    @pytest.mark.parametrize(
        "method",
        [
            "/ownkey.keyvault.v1.KeyvaultService/CreateKey",
            "/ownkey.router.v1.RouterService/GenerateText",
            "/ownkey.ledger.v1.LedgerService/GrantCredits",
        ],
    )
    async def test_bytes_that_are_no_message_are_refused(self, suite: Suite, method: str) -> None:
        name = method.split(".")[1]
        address = getattr(suite.addresses, name)
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(method)
            status = await refused(call(b"\xff\xff\xff\xff not a message at all", timeout=5))
        assert (status.code, status.reason) == INVALID
        assert domain(status) == f"{name}.ownkey"
