# SPDX-License-Identifier: Apache-2.0
"""
Streams: who pays first, then deltas, then exactly one end; and what an end that is none costs.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from ownkey.ledger.v1 import account_pb2, authorization_pb2
from ownkey.router.v1 import attempt_pb2, text_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.ids import new_id
from simulator.tokens import count_tokens, pieces
from tests.e2e import support
from tests.e2e.support import CREDITS, GRANT_NANO_CREDITS, MODELS, OWN_KEY, Streamed

OWN_KEY_FIRST = account_pb2.BILLING_MODE_OWN_KEY_FIRST
BYTES_PER_TOKEN_ESTIMATE = 4
"""The stated estimate where a provider reported no usage."""
STALLED_DELTAS = {"openai": 6}
"""How many deltas the simulator sends before it stalls."""
LEAVING_TIMEOUT_SECONDS = 1.0
TOLD_TRIES_MAX = 20
"""A client may notice its own deadline before the router's word of it arrives."""

every_provider = pytest.mark.parametrize("provider", MODELS)
broken_inside = pytest.mark.parametrize("words", ["cut", "midstream"])


async def price_of(clients: Clients, provider: str) -> attempt_pb2.PriceUsed:
    """The price of a provider's model, from an answer of another account."""
    account = await support.new_account(clients)
    answer = await support.generate(clients, account, model=MODELS[provider])
    assert answer.receipt.provider == provider
    return answer.receipt.price


@pytest.mark.requirement("R2", "R12")
class TestForm:
    """A stream that succeeds."""

    @pytest.mark.parametrize("payer", [OWN_KEY, CREDITS], ids=["own key", "credits"])
    async def test_start_deltas_one_finish(
        self, clients: Clients, payer: attempt_pb2.Funding.ValueType
    ) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_FIRST)
        key = await support.add_key(clients, account) if payer == OWN_KEY else None
        got = await support.stream(clients, account)
        assert got.start is not None
        assert got.start == text_pb2.TextStart(
            payer=payer,
            provider="openai",
            model=MODELS["openai"],
            key_hint=key.hint if key else "",
            fallback=False,
        )
        assert set(got.events[1:-1]) == {"text_delta"}
        assert got.text == support.predicted_text("openai")
        [finish] = got.finishes
        assert finish.finish_reason == text_pb2.FINISH_REASON_STOP
        assert got.receipt.usage.basis == attempt_pb2.USAGE_BASIS_EXACT
        assert got.receipt.cost_nano_usd == support.predicted_cost(got.receipt.price, "openai")

    async def test_tool_calls_come_in_pieces_and_are_charged(self, clients: Clients) -> None:
        account = await support.new_account(clients)
        schema = '{"type":"object","properties":{"city":{"type":"string"}}}'
        tool = text_pb2.Tool(name="weather", parameters_json=schema)
        arguments, names = "", []
        finish = None
        async for message in support.open_stream(
            clients, account, text_input=support.question(tools=[tool])
        ):
            if message.WhichOneof("event") == "tool_call_delta":
                arguments += message.tool_call_delta.arguments_json
                names.append(message.tool_call_delta.name)
            elif message.WhichOneof("event") == "finish":
                finish = message.finish
        assert finish is not None
        assert finish.finish_reason == text_pb2.FINISH_REASON_TOOL_CALLS
        assert (arguments, names[0]) == ('{"city":"simulated"}', "weather")
        cost = support.vendor_cost(
            finish.receipt.price, count_tokens(support.QUESTION), 1 + count_tokens(arguments)
        )
        charge = support.credit_price(cost)
        assert finish.receipt.charged_nano_credits == charge > 0
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - charge


@pytest.mark.requirement("R2", "R11", "L9", "L13")
class TestBrokenUpstream:
    """A stream that breaks off at the provider is an error, never a success."""

    @every_provider
    @broken_inside
    async def test_on_an_own_key(self, clients: Clients, provider: str, words: str) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_FIRST)
        key = await support.add_key(clients, account, provider=provider)
        async with support.fault(clients, key.secret, words):
            got = await support.stream(clients, account, model=MODELS[provider])
        # The consent is ANY, but content has gone out: no other side may go on with it.
        self._assert_broken(got, provider, OWN_KEY)
        await support.assert_untouched(clients, account)

    @every_provider
    @broken_inside
    async def test_on_credits_nothing_is_charged(
        self, clients: Clients, provider: str, words: str
    ) -> None:
        account = await support.new_account(clients)
        # The model of OpenRouter's key is OpenAI's first, so the request asks for its provider.
        shared = support.shared_secret(clients.addresses.simulator, provider)
        async with support.fault(clients, shared, words, count=1):
            got = await support.stream(
                clients,
                account,
                model=MODELS[provider],
                route=text_pb2.RoutePreferences(only=[provider]),
            )
        self._assert_broken(got, provider, CREDITS)
        await support.assert_untouched(clients, account)
        [attempt] = await support.authorizations(clients, account)
        assert attempt.state == authorization_pb2.AUTHORIZATION_STATE_CAPTURED
        assert attempt.charged_nano_credits == 0

    async def test_a_whole_answer_that_was_cut_is_asked_for_once_more_and_charged_once(
        self, clients: Clients
    ) -> None:
        account = await support.new_account(clients)
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        async with support.fault(clients, shared, "cut", count=1):
            answer = await support.generate(clients, account)
        assert answer.text == support.predicted_text("openai")
        first, second = answer.receipt.attempts
        assert (first.outcome, first.billed) == (
            attempt_pb2.OUTCOME_NETWORK,
            attempt_pb2.BILLED_MAYBE,
        )
        assert first.charged_nano_credits == 0
        charge = support.credit_price(support.predicted_cost(answer.receipt.price, "openai"))
        assert second.charged_nano_credits == answer.receipt.charged_nano_credits == charge
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - charge

    def _assert_broken(
        self, got: support.Streamed, provider: str, payer: attempt_pb2.Funding.ValueType
    ) -> None:
        assert got.events[0] == "start"
        assert got.events.count("start") == 1
        assert got.finishes == []
        assert got.text
        assert support.predicted_text(provider).startswith(got.text)
        assert got.error is not None
        assert (got.error.code, got.error.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "STREAM_BROKEN",
        )
        assert got.error.metadata["provider"] == provider
        assert "new request id" in got.error.message
        [attempt] = support.attempts_of(got.error)
        assert (attempt.provider, attempt.funding) == (provider, payer)
        assert attempt.outcome in {
            attempt_pb2.OUTCOME_NETWORK,
            attempt_pb2.OUTCOME_SERVER_ERROR,
            attempt_pb2.OUTCOME_OVERLOADED,
        }
        assert attempt.charged_nano_credits == 0


@pytest.mark.requirement("R2", "R8")
class TestFirstContent:
    """Before the first content another candidate may serve; the start names the one that does."""

    async def test_the_start_names_the_key_that_serves_not_the_one_that_failed(
        self, clients: Clients
    ) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_FIRST)
        refused = await support.add_key(clients, account, provider="openai")
        serving = await support.add_key(clients, account, provider="openrouter")
        async with support.fault(clients, refused.secret, "revoked"):
            got = await support.stream(clients, account)
        assert got.start is not None
        assert (got.start.payer, got.start.provider, got.start.key_hint) == (
            OWN_KEY,
            "openrouter",
            serving.hint,
        )
        assert [a.key_hint for a in got.receipt.attempts] == [refused.hint, serving.hint]
        await support.assert_untouched(clients, account)

    async def test_on_credits_the_next_shared_key_serves(self, clients: Clients) -> None:
        account = await support.new_account(clients)
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        async with support.fault(clients, shared, "overloaded"):
            got = await support.stream(clients, account)
        assert got.start is not None
        assert (got.start.payer, got.start.provider) == (CREDITS, "openrouter")
        assert got.text == support.predicted_text("openrouter")
        assert {a.funding for a in got.receipt.attempts} == {CREDITS}
        charge = support.credit_price(support.predicted_cost(got.receipt.price, "openrouter"))
        assert got.receipt.charged_nano_credits == charge
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - charge


@pytest.mark.requirement("L9", "R2")
class TestNothingDelivered:
    """On credits an answer without any output costs nothing."""

    @pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    async def test_an_empty_answer(self, clients: Clients, provider: str, streamed: bool) -> None:
        account = await support.new_account(clients)
        shared = support.shared_secret(clients.addresses.simulator, provider)
        async with support.fault(clients, shared, "empty", count=1):
            if streamed:
                got = await support.stream(clients, account, model=MODELS[provider])
                assert got.events == ["start", "finish"]
                receipt = got.receipt
            else:
                answer = await support.generate(clients, account, model=MODELS[provider])
                assert answer.text == ""
                receipt = answer.receipt
        assert (receipt.payer, receipt.charged_nano_credits) == (CREDITS, 0)
        assert receipt.usage.output_token_count == 0
        assert receipt.usage.input_token_count == count_tokens(support.QUESTION)
        await support.assert_untouched(clients, account)

    @pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
    async def test_an_answer_that_was_filtered(self, clients: Clients, provider: str) -> None:
        account = await support.new_account(clients)
        shared = support.shared_secret(clients.addresses.simulator, provider)
        async with support.fault(clients, shared, "filtered", count=1):
            got = await support.stream(clients, account, model=MODELS[provider])
        assert got.text == ""
        if got.error is None:
            [finish] = got.finishes
            assert finish.finish_reason == text_pb2.FINISH_REASON_CONTENT_FILTER
        else:
            assert (got.error.code, got.error.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "CONTENT_FILTERED",
            )
        await support.assert_untouched(clients, account)


@pytest.mark.requirement("L9", "L3", "L13")
class TestTheCallerLeaves:
    """What had been delivered is settled exactly, soon, and no hold is left."""

    @pytest.mark.parametrize("payer", [OWN_KEY, CREDITS], ids=["own key", "credits"])
    async def test_before_the_first_content_nothing_is_charged(
        self, clients: Clients, payer: attempt_pb2.Funding.ValueType
    ) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_FIRST)
        secret = support.shared_secret(clients.addresses.simulator, "openai")
        if payer == OWN_KEY:
            secret = (await support.add_key(clients, account)).secret
        request_id = new_id()
        async with support.fault(clients, secret, "slow", count=1):
            call = support.open_stream(clients, account, request_id=request_id)
            await self._sent(clients, account)
            call.cancel()
            await self._settled(clients, account)
        await support.assert_untouched(clients, account)
        [attempt] = await support.authorizations(clients, account)
        assert attempt.charged_nano_credits == 0
        if payer == CREDITS:
            # Nothing was charged, so the same request may run anew.
            again = await support.stream(clients, account, request_id=request_id)
            assert again.text == support.predicted_text("openai")

    async def test_a_whole_answer_that_nobody_waits_for(self, clients: Clients) -> None:
        account = await support.new_account(clients)
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        async with support.fault(clients, shared, "slow", count=1):
            status = await support.refusal(
                support.generate(clients, account, timeout_seconds=LEAVING_TIMEOUT_SECONDS)
            )
            await self._settled(clients, account)
        assert status.code in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        await support.assert_untouched(clients, account)

    async def test_where_leaving_stops_the_bill_the_delivered_part_is_charged(
        self, clients: Clients
    ) -> None:
        price = await price_of(clients, "openai")
        account = await support.new_account(clients)
        request_id = new_id()
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        async with support.fault(clients, shared, "stall", count=1):
            call = support.open_stream(clients, account, request_id=request_id)
            delivered = await self._read_until_it_stalls(call)
            call.cancel()
            await self._settled(clients, account)
        await self._assert_charged_for(clients, account, price, delivered)
        status = await support.refusal(self._repeat(clients, account, request_id))
        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "REQUEST_ABANDONED",
        )

    async def test_a_deadline_that_passes_is_a_caller_that_leaves(self, clients: Clients) -> None:
        price = await price_of(clients, "openai")
        account, got = await self._told_in_time(clients, "openai")
        await self._settled(clients, account)
        assert got.text == self._stalled_text()
        await self._assert_charged_for(clients, account, price, got.text)

    async def test_where_it_does_not_the_answer_is_read_on_and_charged_exactly(
        self, suite: Suite, clients: Clients
    ) -> None:
        price = await price_of(clients, "gemini")
        account = await support.new_account(clients)
        request_id = new_id()
        shared = support.shared_secret(clients.addresses.simulator, "gemini")
        async with support.fault(clients, shared, "stall", count=1):
            call = support.open_stream(
                clients, account, request_id=request_id, model=MODELS["gemini"]
            )
            async for message in call:
                if message.WhichOneof("event") == "text_delta":
                    break
            call.cancel()
            await self._noticed(suite, request_id)
        await self._settled(clients, account)
        cost = support.predicted_cost(price, "gemini")
        [attempt] = await support.authorizations(clients, account)
        assert attempt.state == authorization_pb2.AUTHORIZATION_STATE_CAPTURED
        assert attempt.basis == authorization_pb2.USAGE_BASIS_EXACT
        assert attempt.vendor_cost_nano_usd == cost
        assert attempt.charged_nano_credits == support.credit_price(cost)
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - support.credit_price(cost)
        status = await support.refusal(
            self._repeat(clients, account, request_id, model=MODELS["gemini"])
        )
        assert status.reason == "REQUEST_ABANDONED"

    async def test_a_deadline_there_is_told_in_time_and_charged_exactly(
        self, clients: Clients
    ) -> None:
        """The caller hears of it at once; what its provider bills on is read on without it."""
        price = await price_of(clients, "gemini")
        account, _ = await self._told_in_time(clients, "gemini")
        await self._settled(clients, account)
        [attempt] = await support.authorizations(clients, account)
        assert attempt.basis == authorization_pb2.USAGE_BASIS_EXACT
        assert attempt.vendor_cost_nano_usd == support.predicted_cost(price, "gemini")

    async def test_on_an_own_key_nothing_is_charged_and_the_usage_is_on_record(
        self, clients: Clients
    ) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_FIRST)
        key = await support.add_key(clients, account)
        async with support.fault(clients, key.secret, "stall"):
            call = support.open_stream(clients, account)
            await self._read_until_it_stalls(call)
            call.cancel()
            await self._settled(clients, account)
        await support.assert_untouched(clients, account)
        [attempt] = await support.authorizations(clients, account)
        assert (attempt.funding, attempt.key) == (
            authorization_pb2.FUNDING_OWN_KEY,
            key.name,
        )
        assert attempt.vendor_cost_nano_usd > 0

    async def _told_in_time(self, clients: Clients, provider: str) -> tuple[str, Streamed]:
        """Lets the deadline of a stalled stream pass; gives its account, and what was told."""
        shared = support.shared_secret(clients.addresses.simulator, provider)
        for _ in range(TOLD_TRIES_MAX):
            account = await support.new_account(clients)
            async with support.fault(clients, shared, "stall", count=1):
                got = await support.stream(
                    clients,
                    account,
                    model=MODELS[provider],
                    timeout_seconds=LEAVING_TIMEOUT_SECONDS,
                )
            assert got.error is not None
            if got.error.reason and got.text:
                break
        assert got.error.reason == "PROVIDER_TIMEOUT"
        return account, got

    async def _noticed(self, suite: Suite, request_id: str) -> None:
        """Waits until the router knows that the caller of a request has left."""

        async def told() -> bool:
            lines = suite.process("router").log.read_text().splitlines()
            return any(request_id in line and "CANCELLED" in line for line in lines)

        await support.eventually(told)

    def _stalled_text(self) -> str:
        return "".join(pieces(support.predicted_text("openai"))[: STALLED_DELTAS["openai"]])

    async def _read_until_it_stalls(self, call: Any) -> str:
        text = ""
        async for message in call:
            if message.WhichOneof("event") == "text_delta":
                text += message.text_delta
            if text == self._stalled_text():
                return text
        raise AssertionError("the stream ended in place of stalling")

    async def _repeat(
        self, clients: Clients, account: str, request_id: str, **settings: Any
    ) -> None:
        async for _ in support.open_stream(clients, account, request_id=request_id, **settings):
            pass

    async def _sent(self, clients: Clients, account: str) -> None:
        async def open_attempt() -> bool:
            attempts = await support.authorizations(clients, account)
            return any(a.state == authorization_pb2.AUTHORIZATION_STATE_OPEN for a in attempts)

        await support.eventually(open_attempt)

    async def _settled(self, clients: Clients, account: str) -> None:
        async def no_hold() -> bool:
            attempts = await support.authorizations(clients, account)
            left = (await support.balance(clients, account)).reserved_nano_credits
            return left == 0 and all(
                a.state != authorization_pb2.AUTHORIZATION_STATE_OPEN for a in attempts
            )

        await support.eventually(no_hold)

    async def _assert_charged_for(
        self, clients: Clients, account: str, price: attempt_pb2.PriceUsed, delivered: str
    ) -> None:
        cost = support.vendor_cost(price, _estimate(support.QUESTION), _estimate(delivered))
        charge = support.credit_price(cost)
        [attempt] = await support.authorizations(clients, account)
        assert attempt.state == authorization_pb2.AUTHORIZATION_STATE_CAPTURED
        assert attempt.basis == authorization_pb2.USAGE_BASIS_ESTIMATED
        assert attempt.vendor_cost_nano_usd == cost
        assert attempt.charged_nano_credits == charge
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - charge


def _estimate(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN_ESTIMATE)
