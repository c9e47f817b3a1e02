# SPDX-License-Identifier: Apache-2.0
"""What every service says to calls that leave no time, or are no message at all."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc.aio
import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import grant_pb2

from deploy.local.suite import Suite
from services.shared.ids import new_id
from tests.e2e.bad_input import INVALID, NANO, Scene, told
from tests.e2e.witness import domain, refused, whole

TINY_DEADLINE_SECONDS = 0.015


@pytest.mark.requirement("R11", "L11", "O3")
class TestEverywhere:
    @pytest.mark.parametrize("service", ["keyvault", "ledger"])
    async def test_a_deadline_too_short_to_try_changes_nothing(
        self, scene: Scene, service: str
    ) -> None:
        """What arrives with hardly any time left is refused before anything is tried."""
        before = await whole(scene.clients, scene.account)

        def call() -> Awaitable[object]:
            if service == "keyvault":
                request = kv.DisableKeyRequest(name=scene.key, request_id=new_id())
                disable: Any = scene.clients.keyvault.DisableKey
                return disable(request, timeout=TINY_DEADLINE_SECONDS)
            grant: Any = scene.clients.ledger.GrantCredits
            return grant(
                grant_pb2.GrantCreditsRequest(
                    request_id=new_id(),
                    account=scene.account,
                    kind=grant_pb2.GRANT_KIND_PURCHASED,
                    amount_nano_credits=NANO,
                ),
                timeout=TINY_DEADLINE_SECONDS,
            )

        assert (await told(call)).reason == "DEADLINE_TOO_SHORT"
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
