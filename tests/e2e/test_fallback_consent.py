# SPDX-License-Identifier: Apache-2.0
"""
When credits may stand in for an own key: every consent against every trouble of the key.

Consents nest: NEVER, RATE_LIMIT, KEY_FAILURE, ANY. A matching `always_use` key forbids it for the
whole request. A key that is disabled, not stored or not for the model is no trouble: credits pay as
for anyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.status import RichStatus
from tests.e2e import support
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
    return await support.add_key(clients, account, fault="nocredit", always_use=always_use)


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


async def new_account(clients: Clients, consent: str, *, daily_cap: int | None = None) -> str:
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


def assert_failed_on(
    attempts: list[attempt_pb2.Attempt], trouble: Trouble, key: StoredKey
) -> None:
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


async def assert_untouched(clients: Clients, account: str) -> None:
    after = await support.balance(clients, account)
    assert after.posted_nano_credits == GRANT_NANO_CREDITS
    assert after.reserved_nano_credits == 0


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
    async def test_whole(
        self, clients: Clients, name: str, consent: str, always_use: bool
    ) -> None:
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
                await assert_untouched(clients, account)

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
            await assert_untouched(clients, account)


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
            await assert_untouched(clients, account)
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
        account = await support.new_account(
            clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST
        )
        key = await support.add_key(clients, account)
        async with support.fault(clients, key.secret, "error500"):
            answer = await support.generate(clients, account)
        await assert_fell_back(
            clients, account, answer.receipt, model=support.MODELS["openai"]
        )


@pytest.mark.requirement("R9")
class TestDailyCap:
    """Fallbacks of one day take no more than the account's cap, holds included."""

    async def test_what_does_not_fit_under_the_cap_is_refused(self, clients: Clients) -> None:
        account = await new_account(clients, "ANY", daily_cap=0)
        key = await support.add_key(clients, account)
        async with support.fault(clients, key.secret, "error500"):
            status = await support.refusal(support.generate(clients, account))
        assert status.reason == "PROVIDER_DOWN"
        assert status.metadata["fallback_refused"] == "FALLBACK_CAP_REACHED"
        assert "cap" in status.message
        await assert_untouched(clients, account)

    async def test_the_cap_counts_what_was_charged_not_what_was_held(
        self, clients: Clients
    ) -> None:
        probe = await new_account(clients, "ANY")
        await _out_of_money(clients, probe, False)
        served = (await support.generate(clients, probe)).receipt
        [attempt] = await support.authorizations(clients, probe)
        charge, held = served.charged_nano_credits, attempt.held_nano_credits
        assert held > 2 * charge
        # Room for one worst case beside one charge, but not beside two.
        account = await new_account(clients, "ANY", daily_cap=held + charge)
        await _out_of_money(clients, account, False)
        for _ in range(2):
            answer = await support.generate(clients, account)
            assert answer.receipt.charged_nano_credits == charge
        status = await support.refusal(support.generate(clients, account))
        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "FALLBACK_CAP_REACHED",
        )
        assert status.metadata["cap_nano_credits"] == str(held + charge)
        assert status.metadata["used_nano_credits"] == str(2 * charge)
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - 2 * charge

    async def test_credits_that_are_no_fallback_know_no_cap(self, clients: Clients) -> None:
        account = await new_account(clients, "ANY", daily_cap=0)
        plain = await support.generate(clients, account)
        assert (plain.receipt.payer, plain.receipt.fallback) == (CREDITS, False)
        await _out_of_money(clients, account, True)
        asked = await support.generate(clients, account, source=attempt_pb2.SOURCE_CREDITS)
        assert (asked.receipt.payer, asked.receipt.fallback) == (CREDITS, False)


@pytest.mark.requirement("R9", "R11")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
class TestTheRequestsOwnFault:
    """400, 404 and 422 are the request's fault: no other key, no credits, no retry."""

    async def test_a_model_the_provider_does_not_know(
        self, clients: Clients, streamed: bool
    ) -> None:
        account = await new_account(clients, "ANY")
        key = await support.add_key(clients, account)
        status = await self._refused(clients, account, streamed, model="openai/gpt-unheard-of")
        assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        await self._assert_one_attempt_on(clients, account, key, status, 404)

    async def test_a_request_the_provider_does_not_take(
        self, clients: Clients, streamed: bool
    ) -> None:
        account = await new_account(clients, "ANY")
        # Claude takes no temperature above 1, https://platform.claude.com/docs/en/api/messages
        key = await support.add_key(clients, account, provider="anthropic")
        status = await self._refused(
            clients,
            account,
            streamed,
            model=support.MODELS["anthropic"],
            text_input=support.question(temperature=1.5),
        )
        assert (status.code, status.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PROVIDER_BAD_REQUEST",
        )
        await self._assert_one_attempt_on(clients, account, key, status, 400)

    async def _refused(
        self, clients: Clients, account: str, streamed: bool, **settings: object
    ) -> RichStatus:
        if streamed:
            got = await support.stream(clients, account, **settings)
            assert got.error is not None
            assert got.events == []
            return got.error
        return await support.refusal(support.generate(clients, account, **settings))  # type: ignore[arg-type]

    async def _assert_one_attempt_on(
        self,
        clients: Clients,
        account: str,
        key: StoredKey,
        status: RichStatus,
        http_status: int,
    ) -> None:
        [attempt] = support.attempts_of(status)
        assert (attempt.funding, attempt.key) == (OWN_KEY, key.name)
        assert attempt.http_status == http_status
        assert attempt.billed == attempt_pb2.BILLED_REFUSED
        await assert_untouched(clients, account)


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
            await assert_untouched(clients, account)
            if with_key:
                await self._served_again(clients, account)

    async def test_a_key_that_served_a_moment_ago_is_not_taken_for_granted(
        self, breakable: Suite
    ) -> None:
        async with support.clients_of(breakable) as clients:
            account = await new_account(clients, "ANY")
            await support.add_key(clients, account)
            await support.generate(clients, account)
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
            await assert_untouched(clients, account)

    async def _served_again(self, clients: Clients, account: str) -> None:
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
            account = await new_account(clients, "ANY")
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
