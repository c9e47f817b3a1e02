# SPDX-License-Identifier: Apache-2.0
"""A router whose peers are away: it serves, and says so."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from deploy.local.processes import grpc_serving
from deploy.local.suite import Suite
from tests.e2e import support


@pytest.mark.requirement("O7")
class TestReadiness:
    """Readiness that depended on others would take a whole suite down with one of its parts."""

    async def test_a_router_starts_and_stays_ready_while_those_it_calls_are_away(
        self, suite: Suite
    ) -> None:
        """The ledger and the keyvault start before what they call or are called by is there."""
        nobody = dict.fromkeys(("KEYVAULT_ADDRESS", "LEDGER_ADDRESS"), "127.0.0.1:1")
        async with (
            support.clients_of(suite) as clients,
            support.router_beside(suite, **nobody) as lonely,
        ):
            account = await support.new_account(clients)
            status = await support.refusal(support.generate(clients, account, router=lonely.router))
            assert status.code is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(grpc_serving(lonely.address))
