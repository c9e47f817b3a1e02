# SPDX-License-Identifier: Apache-2.0
"""What tests of falling back to credits share: accounts by consent, and the proof of a fallback."""

from __future__ import annotations

from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.clients import Clients
from tests.e2e import support
from tests.e2e.support import CREDITS, GRANT_NANO_CREDITS, StoredKey


async def new_account(clients: Clients, consent: str, *, daily_cap: int | None = None) -> str:
    """An account that tries its own keys first and consents to so much."""
    return await support.new_account(
        clients,
        mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST,
        consent=account_pb2.FallbackConsent.Value(f"FALLBACK_CONSENT_{consent}"),
        daily_cap=daily_cap,
    )


async def assert_fell_back(
    clients: Clients, account: str, receipt: attempt_pb2.Receipt, *, model: str
) -> None:
    """Credits paid in place of the own key, exactly once and exactly."""
    provider = next(p for p, m in support.MODELS.items() if m == model)
    cost = support.predicted_cost(receipt.price, provider)
    charge = support.credit_price(cost)
    assert (receipt.payer, receipt.fallback) == (CREDITS, True)
    assert (receipt.model, receipt.key_hint) == (model, "")
    assert receipt.settlement_state == attempt_pb2.SETTLEMENT_STATE_SETTLED
    assert receipt.charged_nano_credits == charge > 0
    assert [a.funding for a in receipt.attempts].count(CREDITS) == 1
    last = receipt.attempts[-1]
    assert (last.funding, last.fallback, last.outcome) == (CREDITS, True, attempt_pb2.OUTCOME_OK)
    assert (last.cost_nano_usd, last.charged_nano_credits) == (cost, charge)
    after = await support.balance(clients, account)
    assert after.posted_nano_credits == GRANT_NANO_CREDITS - charge
    assert after.reserved_nano_credits == 0


async def out_of_money(clients: Clients, account: str, *, always_use: bool = False) -> StoredKey:
    """Store a key that is known to be out of money."""
    return await support.add_key(clients, account, fault="nocredit", always_use=always_use)
