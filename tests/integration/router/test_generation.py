# SPDX-License-Identifier: Apache-2.0
"""Generating text through a real router against the simulated providers."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as ledger_pb2
from ownkey.router.v1 import attempt_pb2, text_pb2

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, attempts_of, text_input
from tests.support.simulated_providers import KEYS, faulty_key

OWN, CREDITS = attempt_pb2.FUNDING_OWN_KEY, attempt_pb2.FUNDING_CREDITS
MODELS = {
    "openai": "openai/gpt-4o-mini",
    "openrouter": "anthropic/claude-3-haiku",
    "anthropic": "anthropic/claude-sonnet-4-6",
    "gemini": "google/gemini-3.1-flash-lite",
}


def use_key(router: RouterUnderTest, provider: str, fault: str = "", **fields: object) -> None:
    """Store one own key of a provider."""
    secret = faulty_key(provider, fault) if fault else KEYS[provider]
    router.keyvault.put("demo", stored_key("demo", "main", provider, secret, **fields))


class TestOwnKey:
    @pytest.mark.requirement("R1", "R5", "R12")
    async def test_text_is_generated_on_the_own_key(self, router: RouterUnderTest) -> None:
        """The answer comes with who paid, who served, what it cost, and the key's hint."""
        response = await router.generate()
        receipt = response.receipt
        assert response.text.startswith("Simulated answer of gpt-4o-mini")
        assert response.finish_reason == text_pb2.FINISH_REASON_STOP
        assert receipt.payer == OWN
        assert (receipt.provider, receipt.model) == ("openai", "openai/gpt-4o-mini")
        assert receipt.key_hint == "sk-…ghij"
        usage = receipt.usage
        assert usage.input_token_count > 0
        expected = usage.input_token_count * 150 + usage.output_token_count * 600
        assert receipt.cost_nano_usd == expected
        assert receipt.charged_nano_credits == 0
        assert receipt.settlement_state == attempt_pb2.SETTLEMENT_STATE_SETTLED
        assert [attempt.outcome for attempt in receipt.attempts] == [attempt_pb2.OUTCOME_OK]

    @pytest.mark.requirement("R4", "R5")
    @pytest.mark.parametrize("provider", sorted(MODELS))
    async def test_every_provider_serves_both_ways(
        self, router: RouterUnderTest, provider: str
    ) -> None:
        """A whole answer and a stream are the same answer at the same cost."""
        use_key(router, provider)
        whole = await router.generate(model=MODELS[provider])
        messages, failure = await router.stream(model=MODELS[provider])
        assert failure is None
        text = "".join(message.text_delta for message in messages)
        finish = messages[-1].finish
        assert text == whole.text
        assert finish.receipt.cost_nano_usd == whole.receipt.cost_nano_usd > 0
        assert finish.receipt.provider == whole.receipt.provider == provider

    @pytest.mark.requirement("R5")
    async def test_a_request_without_a_model_is_served_by_the_keys_default(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "anthropic")
        response = await router.generate(model="")
        assert response.receipt.model == "anthropic/claude-sonnet-4-6"

    @pytest.mark.requirement("R5")
    async def test_a_model_outside_the_catalogue_passes_through_unpriced(
        self, router: RouterUnderTest
    ) -> None:
        """The ledger is told so with an empty price id; the answer has no cost."""
        response = await router.generate(model="openai/o3-mini")
        assert response.text
        assert not response.receipt.HasField("price")
        assert not response.receipt.HasField("cost_nano_usd")
        assert router.ledger.asked[0].own_key.price.price_id == ""
        assert not router.ledger.asked[0].HasField("credits")

    @pytest.mark.requirement("R7")
    async def test_tier_has_no_effect_on_an_own_key_and_the_answer_says_so(
        self, router: RouterUnderTest
    ) -> None:
        response = await router.generate(model="", tier=text_pb2.TIER_QUALITY)
        assert response.receipt.model == "openai/gpt-4o-mini"
        assert any("tier" in note for note in response.receipt.notes)


class TestStream:
    @pytest.mark.requirement("R2", "R12")
    async def test_a_stream_is_start_then_deltas_then_one_finish(
        self, router: RouterUnderTest
    ) -> None:
        messages, failure = await router.stream()
        kinds = [message.WhichOneof("event") for message in messages]
        assert failure is None
        assert kinds[0] == "start"
        assert kinds[-1] == "finish"
        assert set(kinds[1:-1]) == {"text_delta"}
        assert messages[0].start.payer == OWN
        assert messages[0].start.key_hint == "sk-…ghij"

    @pytest.mark.requirement("R2", "L9")
    @pytest.mark.parametrize("provider", sorted(MODELS))
    @pytest.mark.parametrize("fault", ["cut", "midstream"])
    async def test_a_broken_stream_is_an_error_never_a_success(
        self, router: RouterUnderTest, provider: str, fault: str
    ) -> None:
        """Whatever was sent before, no finish follows and the reason says it broke."""
        use_key(router, provider, fault)
        messages, failure = await router.stream(model=MODELS[provider])
        assert failure is not None
        assert all(message.WhichOneof("event") != "finish" for message in messages)
        if messages:
            assert failure.reason == "STREAM_BROKEN"
        assert attempts_of(failure)[0].billed == attempt_pb2.BILLED_MAYBE

    @pytest.mark.requirement("R2", "L9")
    async def test_a_caller_that_leaves_is_settled_by_the_stated_estimate(
        self, router: RouterUnderTest
    ) -> None:
        """OpenAI stops billing, so the call is cancelled; nothing was delivered, nothing is due."""
        use_key(router, "openai", "slow")
        call = router.stub.StreamText(
            text_pb2.StreamTextRequest(
                account="accounts/demo",
                request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
                model="openai/gpt-4o-mini",
                input=text_input(),
            ),
            timeout=10,
        )
        async with asyncio.timeout(5):
            while not await router.calls():
                await asyncio.sleep(0.01)
            call.cancel()
            while not router.ledger.settled:
                await asyncio.sleep(0.01)
        capture = router.ledger.settled[0].capture
        assert not capture.end.succeeded
        assert not capture.capture.delivered
        assert capture.capture.basis == ledger_pb2.USAGE_BASIS_ESTIMATED


class TestCredits:
    @pytest.mark.requirement("R7", "L3")
    async def test_credits_asked_for_are_charged_exactly(self, router: RouterUnderTest) -> None:
        """The hold is the worst case; the charge is the cost; the rest comes back."""
        before = router.ledger.balance
        response = await router.generate(source=attempt_pb2.SOURCE_CREDITS)
        receipt = response.receipt
        assert receipt.payer == CREDITS
        assert not receipt.fallback
        assert receipt.key_hint == ""
        assert receipt.attempts[0].key == ""
        assert receipt.charged_nano_credits == receipt.cost_nano_usd > 0
        assert router.ledger.balance == before - receipt.charged_nano_credits

    @pytest.mark.requirement("R7")
    async def test_the_mode_credits_never_touches_the_own_key(
        self, router: RouterUnderTest
    ) -> None:
        """The ledger decides: the ask says READY, the grant says credits."""
        router.ledger.mode = "CREDITS"
        response = await router.generate()
        assert response.receipt.payer == CREDITS
        assert router.ledger.asked[0].own_key_state == ledger_pb2.OWN_KEY_STATE_READY

    @pytest.mark.requirement("R7")
    @pytest.mark.parametrize(
        ("tier", "model"),
        [
            (text_pb2.TIER_UNSPECIFIED, "openai/gpt-4o-mini"),
            (text_pb2.TIER_SPEED, "openai/gpt-4.1-nano"),
        ],
    )
    async def test_the_tier_picks_the_model_on_credits(
        self, router: RouterUnderTest, tier: text_pb2.Tier, model: str
    ) -> None:
        router.keyvault.put("demo")
        response = await router.generate(model="", tier=tier)
        assert response.receipt.model == model

    @pytest.mark.requirement("L9")
    async def test_an_empty_answer_on_credits_is_free(self, router: RouterUnderTest) -> None:
        shared = stored_key("platform", "one", "openai", faulty_key("openai", "empty"))
        router.keyvault.put("platform", shared)
        response = await router.generate(source=attempt_pb2.SOURCE_CREDITS)
        assert response.text == ""
        assert response.receipt.charged_nano_credits == 0

    @pytest.mark.requirement("R10", "R11", "K16")
    async def test_a_limited_shared_key_is_moved_on_from(self, router: RouterUnderTest) -> None:
        """One shared key answers 429: another one serves, whatever the spread chose first."""
        router.keyvault.put(
            "platform",
            stored_key("platform", "one", "openai", faulty_key("openai", "ratelimited-seconds30")),
            stored_key("platform", "two", "openai", KEYS["openai"], active=False),
        )
        for _ in range(4):
            response = await router.generate(source=attempt_pb2.SOURCE_CREDITS)
            assert response.receipt.attempts[-1].outcome == attempt_pb2.OUTCOME_OK

    @pytest.mark.requirement("R11")
    @pytest.mark.parametrize("fault", ["revoked", "nocredit", "ratelimited-seconds30"])
    async def test_failing_shared_keys_read_as_lack_of_capacity(
        self, router: RouterUnderTest, fault: str
    ) -> None:
        shared = stored_key("platform", "one", "openai", faulty_key("openai", fault))
        router.keyvault.put("platform", shared)
        before = router.ledger.balance
        failure = await router.refused(source=attempt_pb2.SOURCE_CREDITS)
        assert failure.reason == "SERVICE_CAPACITY"
        assert failure.retry_after_seconds
        assert router.ledger.balance == before

    @pytest.mark.requirement("R11")
    async def test_no_shared_key_reads_as_lack_of_capacity(self, router: RouterUnderTest) -> None:
        router.keyvault.put("platform")
        failure = await router.refused(source=attempt_pb2.SOURCE_CREDITS)
        assert failure.reason == "SERVICE_CAPACITY"


class TestFallback:
    @pytest.mark.requirement("R9", "R12")
    async def test_a_rate_limited_own_key_falls_back_and_says_so(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "openai", "ratelimited-seconds30")
        response = await router.generate()
        receipt = response.receipt
        assert receipt.payer == CREDITS
        assert receipt.fallback
        assert [a.funding for a in receipt.attempts] == [OWN, CREDITS]
        assert receipt.attempts[0].outcome == attempt_pb2.OUTCOME_RATE_LIMITED
        assert router.ledger.asked[-1].own_key_state == ledger_pb2.OWN_KEY_STATE_COOLING
        assert router.ledger.asked[-1].settlement.HasField("release")

    @pytest.mark.requirement("R9", "R11")
    async def test_always_use_fails_with_the_reason_instead(self, router: RouterUnderTest) -> None:
        use_key(router, "openai", "ratelimited-seconds30", always_use=True)
        failure = await router.refused()
        assert failure.reason == "RATE_LIMITED"
        assert failure.metadata["fallback_refused"] == "FALLBACK_NOT_ALLOWED"
        assert failure.retry_after_seconds == pytest.approx(30, abs=5)
        assert len(attempts_of(failure)) == 1

    @pytest.mark.requirement("R9", "R11")
    @pytest.mark.parametrize(
        ("fault", "reason", "consent"),
        [
            ("ratelimited-seconds30", "RATE_LIMITED", "RATE_LIMIT"),
            ("revoked", "KEY_INVALID", "KEY_FAILURE"),
            ("nocredit", "KEY_NO_CREDIT", "KEY_FAILURE"),
            ("forbidden", "KEY_FORBIDDEN", "KEY_FAILURE"),
            ("error500", "PROVIDER_DOWN", "ANY"),
            ("overloaded", "PROVIDER_DOWN", "ANY"),
            ("down", "PROVIDER_DOWN", "ANY"),
        ],
    )
    @pytest.mark.parametrize("given", ["NEVER", "RATE_LIMIT", "KEY_FAILURE", "ANY"])
    async def test_consents_nest(
        self, router: RouterUnderTest, fault: str, reason: str, consent: str, given: str
    ) -> None:
        """Each failure falls back exactly where its consent is given."""
        order = ["NEVER", "RATE_LIMIT", "KEY_FAILURE", "ANY"]
        router.ledger.consent = given
        use_key(router, "openai", fault)
        if order.index(given) >= order.index(consent):
            response = await router.generate()
            assert response.receipt.payer == CREDITS
            assert response.receipt.fallback
        else:
            failure = await router.refused()
            assert failure.reason == reason
            assert failure.metadata["fallback_refused"] == "FALLBACK_NOT_ALLOWED"

    @pytest.mark.requirement("R9")
    async def test_filtered_content_is_an_answer_and_never_falls_back(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "openai", "filtered")
        response = await router.generate()
        assert response.finish_reason == text_pb2.FINISH_REASON_CONTENT_FILTER
        assert response.receipt.payer == OWN
        assert len(await router.calls()) == 1

    @pytest.mark.requirement("R9", "R11")
    async def test_an_unknown_model_of_the_provider_never_falls_back(
        self, router: RouterUnderTest
    ) -> None:
        failure = await router.refused(model="openai/gpt-nonsense")
        assert failure.code is grpc.StatusCode.NOT_FOUND
        assert failure.reason == "MODEL_NOT_FOUND"
        assert len(router.ledger.asked) == 1

    @pytest.mark.requirement("R10")
    async def test_a_short_hint_is_waited_out_on_the_own_key(self, router: RouterUnderTest) -> None:
        """One 429 with a hint of 0.2 s: the own key serves after it; credits are not touched."""
        use_key(router, "openai", "ratelimited-ms200")
        router.ledger.consent = "NEVER"
        failure = await router.refused(timeout=5)
        assert failure.reason == "RATE_LIMITED"
        assert len(attempts_of(failure)) > 1
        assert {attempt.funding for attempt in attempts_of(failure)} == {OWN}

    @pytest.mark.requirement("R9", "K14")
    async def test_what_was_found_out_is_reported_once_to_keyvault(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "openai", "revoked")
        await router.generate()
        async with asyncio.timeout(5):
            while not router.keyvault.reports:
                await asyncio.sleep(0.01)
        assert [report.version for report in router.keyvault.reports] == [1]
