# SPDX-License-Identifier: Apache-2.0
"""An own key's monthly spending limit, and the secret before a replacement while they overlap."""

from __future__ import annotations

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.clients import Clients
from services.shared.ids import new_id
from services.shared.status import from_rpc_error
from tests.e2e import support
from tests.e2e.support import CREDITS, NANO, OWN_KEY, StoredKey

ANY = account_pb2.FALLBACK_CONSENT_ANY
KEY_FAILURE = account_pb2.FALLBACK_CONSENT_KEY_FAILURE
OWN_KEY_FIRST = account_pb2.BILLING_MODE_OWN_KEY_FIRST
OWN_KEY_ONLY = account_pb2.BILLING_MODE_OWN_KEY_ONLY
NO_ROOM_NANO_USD = 1


async def limit(clients: Clients, key: StoredKey, nano_usd: int | None) -> None:
    """Set or lift a key's limit."""
    await clients.keyvault.UpdateKey(
        keyvault_service_pb2.UpdateKeyRequest(
            key=key_pb2.Key(name=key.name, monthly_limit_nano_usd=nano_usd),
            update_mask={"paths": ["monthly_limit_nano_usd"]},
            request_id=new_id(),
        ),
        timeout=10,
    )


@pytest.mark.requirement("K1", "L8", "R9")
class TestLimit:
    async def test_credits_pay_where_the_account_consents_and_the_key_again_when_it_is_raised(
        self, clients: Clients
    ) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_FIRST, consent=ANY)
        key = await support.add_key(clients, account, monthly_limit_nano_usd=NO_ROOM_NANO_USD)

        async def pays(payer: attempt_pb2.Funding.ValueType) -> bool:
            receipt = (await support.generate(clients, account)).receipt
            return (receipt.payer, receipt.fallback) == (payer, payer == CREDITS)

        assert await pays(CREDITS)
        for nano_usd, payer in ((NANO, OWN_KEY), (NO_ROOM_NANO_USD, CREDITS), (None, OWN_KEY)):
            await limit(clients, key, nano_usd)
            # A router may go by what it knew for a second more.
            await support.eventually(lambda payer=payer: pays(payer))

    async def test_what_was_spent_counts_across_the_keys_versions(self, clients: Clients) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_ONLY)
        key = await support.add_key(clients, account, monthly_limit_nano_usd=NANO)
        spent = (await support.generate(clients, account)).receipt.attempts[0].cost_nano_usd
        assert spent > 0
        await clients.keyvault.ReplaceKey(
            keyvault_service_pb2.ReplaceKeyRequest(
                name=key.name, secret=support.new_secret(), request_id=new_id()
            ),
            timeout=10,
        )
        await limit(clients, key, spent)

        async def refused() -> bool:
            try:
                await support.generate(clients, account)
            except grpc.aio.AioRpcError as failure:
                status = from_rpc_error(failure)
            else:
                return False
            assert (status.reason, status.metadata["own_key_state"]) == (
                "NO_USABLE_OWN_KEY",
                "LIMIT_REACHED",
            )
            return True

        # A router may go by what it knew for a second more.
        await support.eventually(refused)

    @pytest.mark.parametrize(
        ("mode", "source", "reason"),
        [
            (OWN_KEY_FIRST, attempt_pb2.SOURCE_AUTO, "FALLBACK_NOT_ALLOWED"),
            (OWN_KEY_FIRST, attempt_pb2.SOURCE_OWN_KEY, "NO_USABLE_OWN_KEY"),
            (OWN_KEY_ONLY, attempt_pb2.SOURCE_AUTO, "NO_USABLE_OWN_KEY"),
        ],
    )
    async def test_without_consent_the_refusal_says_what_to_do_and_nothing_is_charged(
        self,
        clients: Clients,
        mode: account_pb2.BillingMode.ValueType,
        source: attempt_pb2.Source.ValueType,
        reason: str,
    ) -> None:
        account = await support.new_account(clients, mode=mode, consent=KEY_FAILURE)
        key = await support.add_key(clients, account, monthly_limit_nano_usd=NO_ROOM_NANO_USD)
        before = len(await support.recorded_requests(clients, key.secret))
        status = await support.refusal(support.generate(clients, account, source=source))

        assert (status.reason, status.metadata["own_key_state"]) == (reason, "LIMIT_REACHED")
        assert "limit" in status.message
        assert len(await support.recorded_requests(clients, key.secret)) == before
        await support.assert_untouched(clients, account)


@pytest.mark.requirement("K7", "R9")
async def test_in_an_overlap_the_old_secret_serves_where_the_new_one_is_not_known_yet(
    clients: Clients,
) -> None:
    account = await support.new_account(clients, mode=OWN_KEY_ONLY)
    key = await support.add_key(clients, account)
    fresh = support.new_secret()
    await clients.keyvault.ReplaceKey(
        keyvault_service_pb2.ReplaceKeyRequest(
            name=key.name, secret=fresh, request_id=new_id(), overlap_seconds=60
        ),
        timeout=10,
    )
    before = len(await support.recorded_requests(clients, key.secret))
    async with support.fault(clients, fresh, "revoked", count=1):
        receipt = (await support.generate(clients, account)).receipt

    assert receipt.payer == OWN_KEY
    assert [attempt.key for attempt in receipt.attempts] == [key.name, key.name]
    refused, served = receipt.attempts
    assert refused.outcome == attempt_pb2.OUTCOME_INVALID_KEY
    assert served.outcome == attempt_pb2.OUTCOME_OK
    assert len(await support.recorded_requests(clients, key.secret)) == before + 1
