# SPDX-License-Identifier: Apache-2.0
"""
Requests while another part of the suite is away: nobody is billed by a guess.

These tests stop parts, so they run on a suite of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from ownkey.ledger.v1 import account_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.status import RichStatus
from tests.e2e import support
from tests.e2e.support import OWN_KEY

OWN_KEY_FIRST = account_pb2.BILLING_MODE_OWN_KEY_FIRST


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of this module's own, to stop parts of."""
    with support.running_suite(tmp_path_factory.mktemp("breakable") / "state") as running:
        yield running


@pytest.mark.requirement("R9", "K15")
class TestKeyvaultAway:
    """Not to know the own keys is never read as having none."""

    @pytest.mark.parametrize("mode", ["OWN_KEY_FIRST", "OWN_KEY_ONLY"])
    @pytest.mark.parametrize("with_key", [True, False], ids=["with a key", "without a key"])
    async def test_the_request_waits_for_the_keyvault_and_nobody_is_charged(
        self, breakable: Suite, mode: str, with_key: bool
    ) -> None:
        async with support.clients_of(breakable) as clients:
            account = await support.new_account(
                clients, mode=account_pb2.BillingMode.Value(f"BILLING_MODE_{mode}")
            )
            if with_key:
                await support.add_key(clients, account)
            breakable.process("keyvault").kill()
            try:
                whole = await support.refusal(support.generate(clients, account))
                streamed = (await support.stream(clients, account)).error
            finally:
                breakable.start_part("keyvault")
            for status in (whole, streamed):
                assert status is not None
                assert status.code is grpc.StatusCode.UNAVAILABLE
                assert status.reason in {"PEER_UNAVAILABLE", "OWN_KEYS_UNKNOWN"}
                assert status.retry_after_seconds is not None
                assert support.attempts_of(status) == []
            await support.assert_untouched(clients, account)
            if with_key:
                await self._served(clients, account)

    async def test_a_key_that_served_a_moment_ago_is_not_taken_for_granted(
        self, breakable: Suite
    ) -> None:
        async with support.clients_of(breakable) as clients:
            account = await support.new_account(clients, mode=OWN_KEY_FIRST)
            await support.add_key(clients, account)
            await self._served(clients, account)
            breakable.process("keyvault").kill()
            try:
                # Within the lease the key may still serve; past it the router fails closed.
                refused: list[RichStatus] = []

                async def fails_closed() -> bool:
                    try:
                        answer = await support.generate(clients, account)
                    except grpc.aio.AioRpcError as failure:
                        refused.append(support.from_rpc_error(failure))
                        return True
                    assert answer.receipt.payer == OWN_KEY
                    return False

                await support.eventually(fails_closed, seconds=5)
            finally:
                breakable.start_part("keyvault")
            [status] = refused
            assert status.code is grpc.StatusCode.UNAVAILABLE
            await support.assert_untouched(clients, account)

    async def _served(self, clients: Clients, account: str) -> None:
        """Waits until the own key serves: it takes a moment to find a keyvault that is back."""

        async def serves() -> bool:
            try:
                answer = await support.generate(clients, account)
            except grpc.aio.AioRpcError:
                return False
            return answer.receipt.payer == OWN_KEY

        await support.eventually(serves)


@pytest.mark.requirement("R9", "L13")
class TestLedgerAway:
    """Without the ledger nobody knows who pays, so nothing is sent."""

    async def test_nothing_is_sent(self, breakable: Suite) -> None:
        async with support.clients_of(breakable) as clients:
            account = await support.new_account(clients, mode=OWN_KEY_FIRST)
            key = await support.add_key(clients, account)
            before = await support.recorded_requests(clients, key.secret)
            breakable.process("ledger").kill()
            try:
                status = await support.refusal(
                    support.generate(clients, account, timeout_seconds=5)
                )
                after = await support.recorded_requests(clients, key.secret)
            finally:
                breakable.start_part("ledger")
            assert status.code is grpc.StatusCode.UNAVAILABLE
            assert status.reason in {"PEER_UNAVAILABLE", "STORE_UNAVAILABLE"}
            assert after == before
