# SPDX-License-Identifier: Apache-2.0
"""
When credits may stand in for an own key: every consent against every trouble of the key.

Consents nest: NEVER, RATE_LIMIT, KEY_FAILURE, ANY. A matching `always_use` key forbids it for the
whole request. A key that is disabled, not stored or not for the model is no trouble: credits pay as
for anyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

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


class Trouble(NamedTuple):
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


NO_MONEY = ("nocredit", "KEY_FAILURE", "INSUFFICIENT_CREDIT")
DOWN = ("PROVIDER_DOWN", "try again")
IN_THE_REQUEST = {
    "429": Trouble(
        "ratelimited-seconds60", "RATE_LIMIT", "RATE_LIMITED", 429, "RATE_LIMITED", "wait"
    ),
    "401": Trouble("revoked", "KEY_FAILURE", "INVALID_KEY", 401, "KEY_INVALID", "replace"),
    "402": Trouble(*NO_MONEY, 402, "KEY_NO_CREDIT", "top up", "openrouter"),
    "no credit told as 429": Trouble(*NO_MONEY, 429, "KEY_NO_CREDIT", "top up"),
    "403": Trouble(
        "forbidden", "KEY_FAILURE", "PERMISSION_DENIED", 403, "KEY_FORBIDDEN", "permission"
    ),
    "500": Trouble("error500", "ANY", "SERVER_ERROR", 500, *DOWN),
    "503": Trouble("overloaded", "ANY", "OVERLOADED", 503, *DOWN),
    "529": Trouble("overloaded", "ANY", "OVERLOADED", 529, *DOWN, "anthropic"),
    "connection reset": Trouble("down", "ANY", "NETWORK", 0, *DOWN),
}
FOR_EVERY = ("429", "401", "500")
"""One trouble for each consent that is needed: these are tried with every consent there is."""


class KnownState(NamedTuple):
    """
    What is known of the own key before the request.

    Args:
        arrange: Stores a key in it; takes `always_use`.
        health: What the keyvault shows.
        needs: The narrowest consent that covers it.
        remedy: A word of the sentence that says what to do.
    """

    arrange: Callable[[Clients, str, bool], Awaitable[StoredKey]]
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
    "COOLING": KnownState(_cooling, key_pb2.HEALTH_STATE_COOLING, "RATE_LIMIT", "wait"),
    "REJECTED": KnownState(_rejected, key_pb2.HEALTH_STATE_REJECTED, "KEY_FAILURE", "replace"),
    "NO_CREDIT": KnownState(
        _out_of_money, key_pb2.HEALTH_STATE_NO_CREDIT, "KEY_FAILURE", "top it up"
    ),
}
"""By what a refusal calls it."""


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


async def receipt_of(clients: Clients, account: str, *, streamed: bool) -> attempt_pb2.Receipt:
    """Generate, whole or streamed."""
    if streamed:
        return (await support.stream(clients, account)).receipt
    return (await support.generate(clients, account)).receipt


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


Case = tuple[str, str, bool]
"""A trouble, a consent, and whether the key is always to be used."""


def every(*names: str) -> list[Case]:
    """Every consent, with and without `always_use`."""
    return [(n, consent, always) for n in names for consent in CONSENTS for always in (False, True)]


def around(*names: str) -> list[Case]:
    """The narrowest consent that covers a trouble, and the one before it."""
    found: list[Case] = []
    for name in names:
        trouble = IN_THE_REQUEST.get(name) or KNOWN_BEFORE[name]
        at = CONSENTS.index(trouble.needs)
        found += [(name, consent, False) for consent in CONSENTS[at - 1 : at + 1]]
    return found


def cases(found: list[Case]) -> pytest.MarkDecorator:
    """A test of each."""
    return pytest.mark.parametrize(("name", "consent", "always_use"), found)


@pytest.mark.requirement("R9", "R11", "R12", "L13")
class TestKeyFailsInTheRequest:
    """A key that was ready fails while it serves."""

    @cases(every(*FOR_EVERY) + around(*(n for n in IN_THE_REQUEST if n not in FOR_EVERY)))
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

    @cases(every(*FOR_EVERY) + around("connection reset"))
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
class TestTroubleIsKnownBefore:
    """A key that is known not to serve is still a reason to ask for consent; it is not called."""

    @cases(every(*KNOWN_BEFORE))
    async def test_whole(self, clients: Clients, name: str, consent: str, always_use: bool) -> None:
        await self._is_a_fallback(clients, name, consent, always_use, streamed=False)

    @cases(around(*KNOWN_BEFORE))
    async def test_streamed(
        self, clients: Clients, name: str, consent: str, always_use: bool
    ) -> None:
        await self._is_a_fallback(clients, name, consent, always_use, streamed=True)

    async def _is_a_fallback(
        self, clients: Clients, name: str, consent: str, always_use: bool, *, streamed: bool
    ) -> None:
        known = KNOWN_BEFORE[name]
        account = await new_account(clients, consent)
        key = await known.arrange(clients, account, always_use)
        [stored] = await support.list_keys(clients, account)
        assert stored.health[0].state == known.health
        before = await support.recorded_requests(clients, key.secret)
        if covers(consent, known.needs, always_use=always_use):
            receipt = await receipt_of(clients, account, streamed=streamed)
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
            assert status.metadata["own_key_state"] == name
            assert status.metadata["fallback_consent"] == consent
            assert status.metadata["always_use"] == str(always_use).lower()
            assert known.remedy in status.message
            assert "ask for CREDITS" in status.message
            assert support.attempts_of(status) == []
            await support.assert_untouched(clients, account)
        assert await support.recorded_requests(clients, key.secret) == before


@pytest.mark.requirement("R9", "K6", "L13")
class TestNoKeyMatches:
    """Where no enabled key matches, nothing falls back: credits pay as for anyone."""

    @cases(every(*NO_MATCHING_KEY))
    async def test_credits_pay_whatever_the_consent(
        self, clients: Clients, name: str, consent: str, always_use: bool
    ) -> None:
        account = await new_account(clients, consent)
        await NO_MATCHING_KEY[name](clients, account, always_use)
        # The narrowest consent is where a fallback would show: it is tried on a stream.
        receipt = await receipt_of(clients, account, streamed=consent == "NEVER")
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
