# SPDX-License-Identifier: Apache-2.0
"""
When credits may stand in for an own key: every consent against every trouble of the key.

Consents nest: NEVER, RATE_LIMIT, KEY_FAILURE, ANY. A matching `always_use` key forbids it for the
whole request. A key that is disabled, not stored or not for the model is no trouble: credits pay as
for anyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.clients import Clients
from services.shared.status import RichStatus
from tests.e2e import support
from tests.e2e.fallback import assert_fell_back, new_account, out_of_money
from tests.e2e.support import CREDITS, GRANT_NANO_CREDITS, OWN_KEY, StoredKey

CONSENTS = ("NEVER", "RATE_LIMIT", "KEY_FAILURE", "ANY")
"""From the narrowest to the widest; each includes those before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """
    An own key failing in the request.

    Args:
        fault: What the simulator does to it.
        needs: The narrowest consent that covers it.
        outcome: What the attempt came to.
        http_status: What the provider answered; 0 for nothing.
        reason: What the caller is told where credits may not stand in.
        remedy: A word of the sentence that says what to do.
        provider: Where the key is from.
    """

    fault: str
    needs: str
    outcome: str
    http_status: int
    reason: str
    remedy: str
    provider: str = "openai"


IN_THE_REQUEST = {
    "429": Trouble(
        fault="ratelimited-seconds60",
        needs="RATE_LIMIT",
        outcome="RATE_LIMITED",
        http_status=429,
        reason="RATE_LIMITED",
        remedy="wait",
    ),
    "401": Trouble(
        fault="revoked",
        needs="KEY_FAILURE",
        outcome="INVALID_KEY",
        http_status=401,
        reason="KEY_INVALID",
        remedy="replace",
    ),
    "402": Trouble(
        fault="nocredit",
        needs="KEY_FAILURE",
        outcome="INSUFFICIENT_CREDIT",
        http_status=402,
        reason="KEY_NO_CREDIT",
        remedy="top up",
        provider="openrouter",
    ),
    "no credit told as 429": Trouble(
        fault="nocredit",
        needs="KEY_FAILURE",
        outcome="INSUFFICIENT_CREDIT",
        http_status=429,
        reason="KEY_NO_CREDIT",
        remedy="top up",
    ),
    "403": Trouble(
        fault="forbidden",
        needs="KEY_FAILURE",
        outcome="PERMISSION_DENIED",
        http_status=403,
        reason="KEY_FORBIDDEN",
        remedy="permission",
    ),
    "500": Trouble(
        fault="error500",
        needs="ANY",
        outcome="SERVER_ERROR",
        http_status=500,
        reason="PROVIDER_DOWN",
        remedy="try again",
    ),
    "503": Trouble(
        fault="overloaded",
        needs="ANY",
        outcome="OVERLOADED",
        http_status=503,
        reason="PROVIDER_DOWN",
        remedy="try again",
    ),
    "529": Trouble(
        fault="overloaded",
        needs="ANY",
        outcome="OVERLOADED",
        http_status=529,
        reason="PROVIDER_DOWN",
        remedy="try again",
        provider="anthropic",
    ),
    "connection reset": Trouble(
        fault="down",
        needs="ANY",
        outcome="NETWORK",
        http_status=0,
        reason="PROVIDER_DOWN",
        remedy="try again",
    ),
}
STREAMED = ("429", "401", "500", "connection reset")
"""The troubles that are also tried on streams: one of each consent, and one without any answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownState:
    """
    What is known of the own key before the request.

    Args:
        arrange: Stores a key in it; takes `always_use`.
        state: What a refusal calls it.
        health: What the keyvault shows.
        needs: The narrowest consent that covers it.
        remedy: A word of the sentence that says what to do.
    """

    arrange: Callable[[Clients, str, bool], Awaitable[StoredKey]]
    state: str
    health: key_pb2.HealthState.ValueType
    needs: str
    remedy: str


async def _cooling(clients: Clients, account: str, always_use: bool) -> StoredKey:
    return await support.add_key(
        clients, account, fault="ratelimited-seconds300", always_use=always_use
    )


async def _out_of_money(clients: Clients, account: str, always_use: bool) -> StoredKey:
    return await out_of_money(clients, account, always_use=always_use)


async def _rejected(clients: Clients, account: str, always_use: bool) -> StoredKey:
    key = await support.add_key(clients, account, always_use=always_use)
    async with support.fault(clients, key.secret, "revoked"):
        await support.check_key(clients, key)
    return key


KNOWN_BEFORE = {
    "COOLING": KnownState(
        arrange=_cooling,
        state="COOLING",
        health=key_pb2.HEALTH_STATE_COOLING,
        needs="RATE_LIMIT",
        remedy="wait",
    ),
    "REJECTED": KnownState(
        arrange=_rejected,
        state="REJECTED",
        health=key_pb2.HEALTH_STATE_REJECTED,
        needs="KEY_FAILURE",
        remedy="replace",
    ),
    "NO_CREDIT": KnownState(
        arrange=_out_of_money,
        state="NO_CREDIT",
        health=key_pb2.HEALTH_STATE_NO_CREDIT,
        needs="KEY_FAILURE",
        remedy="top it up",
    ),
}


async def _disabled(clients: Clients, account: str, always_use: bool) -> None:
    key = await support.add_key(clients, account, always_use=always_use)
    await support.disable_key(clients, key)


async def _none_stored(clients: Clients, account: str, always_use: bool) -> None:
    del clients, account, always_use


async def _none_for_the_model(clients: Clients, account: str, always_use: bool) -> None:
    allowed = ["openai/gpt-4.1-mini"]
    await support.add_key(clients, account, allowed_models=allowed, always_use=always_use)


NO_MATCHING_KEY = {
    "disabled": _disabled,
    "none stored": _none_stored,
    "none for the model": _none_for_the_model,
}


def covers(consent: str, needs: str, *, always_use: bool) -> bool:
    return not always_use and CONSENTS.index(consent) >= CONSENTS.index(needs)


def assert_failed_on(attempts: list[attempt_pb2.Attempt], trouble: Trouble, key: StoredKey) -> None:
    assert attempts
    for attempt in attempts:
        assert (attempt.funding, attempt.fallback) == (OWN_KEY, False)
        assert (attempt.key, attempt.key_hint) == (key.name, key.hint)
        assert attempt_pb2.Outcome.Name(attempt.outcome) == f"OUTCOME_{trouble.outcome}"
        assert attempt.http_status == trouble.http_status
        assert attempt.charged_nano_credits == 0


def assert_told(status: RichStatus, trouble: Trouble, key: StoredKey, *, always_use: bool) -> None:
    """The key's own trouble is told, with what kept credits from standing in."""
    assert status.reason == trouble.reason
    assert status.metadata["provider"] == trouble.provider
    assert status.metadata["key"] == key.name
    assert status.metadata["fallback_refused"] == "FALLBACK_NOT_ALLOWED"
    assert trouble.remedy in status.message
    assert key.hint in status.message
    assert ("always_use" in status.message) == always_use
    assert key.secret not in str(status.status)
    assert_failed_on(support.attempts_of(status), trouble, key)


every_consent = pytest.mark.parametrize("consent", CONSENTS)
with_and_without_always_use = pytest.mark.parametrize(
    "always_use", [False, True], ids=["", "always_use"]
)


@pytest.mark.requirement("R9", "R11", "R12", "L13")
@every_consent
@with_and_without_always_use
class TestKeyFailsInTheRequest:
    """A key that was ready fails while it serves."""

    @pytest.mark.parametrize("name", IN_THE_REQUEST)
    async def test_whole(self, clients: Clients, name: str, consent: str, always_use: bool) -> None:
        trouble = IN_THE_REQUEST[name]
        model = support.MODELS[trouble.provider]
        account = await new_account(clients, consent)
        key = await support.add_key(
            clients, account, provider=trouble.provider, always_use=always_use
        )
        async with support.fault(clients, key.secret, trouble.fault):
            call = support.generate(clients, account, model=model)
            if covers(consent, trouble.needs, always_use=always_use):
                answer = await call
                assert_failed_on(list(answer.receipt.attempts[:-1]), trouble, key)
                await assert_fell_back(clients, account, answer.receipt, model=model)
            else:
                status = await support.refusal(call)
                assert_told(status, trouble, key, always_use=always_use)
                await support.assert_untouched(clients, account)

    @pytest.mark.parametrize("name", STREAMED)
    async def test_streamed(
        self, clients: Clients, name: str, consent: str, always_use: bool
    ) -> None:
        trouble = IN_THE_REQUEST[name]
        model = support.MODELS[trouble.provider]
        account = await new_account(clients, consent)
        key = await support.add_key(
            clients, account, provider=trouble.provider, always_use=always_use
        )
        async with support.fault(clients, key.secret, trouble.fault):
            got = await support.stream(clients, account, model=model)
        if covers(consent, trouble.needs, always_use=always_use):
            assert got.start is not None
            assert (got.start.payer, got.start.fallback) == (CREDITS, True)
            assert got.text == support.predicted_text(trouble.provider)
            assert_failed_on(list(got.receipt.attempts[:-1]), trouble, key)
            await assert_fell_back(clients, account, got.receipt, model=model)
        else:
            assert got.error is not None
            assert got.events == []
            assert_told(got.error, trouble, key, always_use=always_use)
            await support.assert_untouched(clients, account)


@pytest.mark.requirement("R9", "K14", "L13")
@every_consent
@with_and_without_always_use
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", KNOWN_BEFORE)
class TestTroubleIsKnownBefore:
    """A key that is known not to serve is still a reason to ask for consent; it is not called."""

    async def test_it_is_a_fallback_like_any_other(
        self, clients: Clients, name: str, consent: str, always_use: bool, streamed: bool
    ) -> None:
        known = KNOWN_BEFORE[name]
        account = await new_account(clients, consent)
        key = await known.arrange(clients, account, always_use)
        [stored] = await support.list_keys(clients, account)
        assert stored.health[0].state == known.health
        before = await support.recorded_requests(clients, key.secret)
        if covers(consent, known.needs, always_use=always_use):
            if streamed:
                receipt = (await support.stream(clients, account)).receipt
            else:
                receipt = (await support.generate(clients, account)).receipt
            assert len(receipt.attempts) == 1
            await assert_fell_back(clients, account, receipt, model=support.MODELS["openai"])
        else:
            if streamed:
                status = (await support.stream(clients, account)).error
            else:
                status = await support.refusal(support.generate(clients, account))
            assert status is not None
            assert (status.code, status.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "FALLBACK_NOT_ALLOWED",
            )
            assert status.metadata["own_key_state"] == known.state
            assert status.metadata["fallback_consent"] == consent
            assert status.metadata["always_use"] == str(always_use).lower()
            assert known.remedy in status.message
            assert "ask for CREDITS" in status.message
            assert support.attempts_of(status) == []
            await support.assert_untouched(clients, account)
        assert await support.recorded_requests(clients, key.secret) == before


@pytest.mark.requirement("R9", "K6", "L13")
@every_consent
@with_and_without_always_use
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", NO_MATCHING_KEY)
class TestNoKeyMatches:
    """Where no enabled key matches, nothing falls back: credits pay as for anyone."""

    async def test_credits_pay_whatever_the_consent(
        self, clients: Clients, name: str, consent: str, always_use: bool, streamed: bool
    ) -> None:
        account = await new_account(clients, consent)
        await NO_MATCHING_KEY[name](clients, account, always_use)
        if streamed:
            receipt = (await support.stream(clients, account)).receipt
        else:
            receipt = (await support.generate(clients, account)).receipt
        charge = support.credit_price(support.predicted_cost(receipt.price, "openai"))
        assert (receipt.payer, receipt.fallback) == (CREDITS, False)
        assert receipt.charged_nano_credits == charge
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - charge


@pytest.mark.requirement("R9")
class TestDefaultConsent:
    """An account that says nothing about it consents to any fallback."""

    async def test_it_is_any(self, clients: Clients) -> None:
        account = await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        key = await support.add_key(clients, account)
        async with support.fault(clients, key.secret, "error500"):
            answer = await support.generate(clients, account)
        await assert_fell_back(clients, account, answer.receipt, model=support.MODELS["openai"])
