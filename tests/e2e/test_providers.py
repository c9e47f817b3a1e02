# SPDX-License-Identifier: Apache-2.0
"""
Each provider on an own key: answers, exact cost, and what a live test finds.

Usage is predicted by the simulator's token rule, cost by that and the price in the receipt.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2, live_test_pb2
from ownkey.ledger.v1 import account_pb2, authorization_pb2, usage_pb2
from ownkey.router.v1 import attempt_pb2, text_pb2

from deploy.local.clients import Clients
from services.shared.ids import new_id
from simulator.tokens import IMAGE_TOKENS, REASONING_TOKENS, answer_text, count_tokens
from tests.e2e import support
from tests.e2e.support import GRANT_NANO_CREDITS, MODELS, OWN_KEY, PROVIDER_MODELS, StoredKey

SYSTEM = "You answer in one sentence and never more."
SCHEMA = '{"type":"object","properties":{"answer":{"type":"string"},"sure":{"type":"boolean"}}}'
SCHEMA_ANSWER = '{"answer":"simulated","sure":true}'
# The smallest PNG there is: one transparent pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)

UNLISTED_MODELS = {
    "openai": "openai/o3-mini",
    "openrouter": "meta-llama/llama-3.1-8b-instruct",
    "anthropic": "anthropic/claude-sonnet-4-20250514",
    "gemini": "google/gemini-2.0-flash",
}
"""Models that the providers serve and the catalogue does not list."""

every_provider = pytest.mark.parametrize("provider", MODELS)
whole_and_streamed = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


async def own_key_account(clients: Clients, provider: str) -> tuple[str, StoredKey]:
    """Credits are paused, so that only the own key can have served."""
    account = await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
    return account, await support.add_key(clients, account, provider=provider)


async def served(
    clients: Clients,
    account: str,
    *,
    streamed: bool,
    model: str,
    text_input: text_pb2.TextInput | None = None,
    request_id: str = "",
) -> tuple[str, text_pb2.FinishReason.ValueType, attempt_pb2.Receipt]:
    """Text, finish reason and receipt, whichever way it was asked for."""
    if streamed:
        got = await support.stream(
            clients, account, model=model, text_input=text_input, request_id=request_id
        )
        return got.text, got.finishes[0].finish_reason if got.finishes else 0, got.receipt
    answer = await support.generate(
        clients, account, model=model, text_input=text_input, request_id=request_id
    )
    return answer.text, answer.finish_reason, answer.receipt


@pytest.mark.requirement("R1", "R2", "R4", "R12", "L4", "L13")
@every_provider
@whole_and_streamed
class TestTextOnAnOwnKey:
    """Text, usage, vendor cost and receipt, and the balance as it was."""

    async def test_the_receipt_is_exact(
        self, clients: Clients, provider: str, streamed: bool
    ) -> None:
        account, key = await own_key_account(clients, provider)
        request_id = new_id()
        text, finish_reason, receipt = await served(
            clients, account, streamed=streamed, model=MODELS[provider], request_id=request_id
        )
        expected = support.predicted_text(provider)
        assert text == expected
        assert finish_reason == text_pb2.FINISH_REASON_STOP
        cost = support.predicted_cost(receipt.price, provider)
        usage = attempt_pb2.Usage(
            input_token_count=count_tokens(support.QUESTION),
            output_token_count=count_tokens(expected),
            basis=attempt_pb2.USAGE_BASIS_EXACT,
        )
        assert (receipt.payer, receipt.fallback, receipt.replayed) == (OWN_KEY, False, False)
        assert (receipt.provider, receipt.model) == (provider, MODELS[provider])
        assert receipt.key_hint == key.hint
        assert key.hint.endswith(key.secret[-4:])
        assert receipt.usage == usage
        assert receipt.cost_nano_usd == cost > 0
        assert receipt.charged_nano_credits == 0
        assert receipt.settlement_state == attempt_pb2.SETTLEMENT_STATE_SETTLED
        assert list(receipt.notes) == []
        [attempt] = receipt.attempts
        assert (attempt.provider, attempt.model) == (provider, MODELS[provider])
        assert attempt.provider_model == PROVIDER_MODELS[provider]
        assert (attempt.funding, attempt.key, attempt.key_hint) == (OWN_KEY, key.name, key.hint)
        assert (attempt.outcome, attempt.billed) == (
            attempt_pb2.OUTCOME_OK,
            attempt_pb2.BILLED_YES,
        )
        assert (attempt.usage, attempt.cost_nano_usd) == (usage, cost)
        assert attempt.http_status == 200
        record = await support.request_record(clients, account, request_id)
        assert record.state == authorization_pb2.REQUEST_STATE_SUCCEEDED
        await self._assert_on_record(clients, account, key, attempt)

    async def _assert_on_record(
        self, clients: Clients, account: str, key: StoredKey, told: attempt_pb2.Attempt
    ) -> None:
        [attempt] = await support.authorizations(clients, account)
        assert attempt.funding == authorization_pb2.FUNDING_OWN_KEY
        assert (attempt.key, attempt.key_version) == (key.name, 1)
        assert (attempt.vendor_cost_nano_usd, attempt.charged_nano_credits) == (
            told.cost_nano_usd,
            0,
        )
        assert attempt.units.input_token_count == told.usage.input_token_count
        assert attempt.units.output_token_count == told.usage.output_token_count
        spent = await clients.ledger.GetUsage(usage_pb2.GetUsageRequest(account=account))
        [row] = spent.rows
        assert (row.key, row.attempt_count) == (key.name, 1)
        assert (row.vendor_cost_nano_usd, row.charged_nano_credits) == (told.cost_nano_usd, 0)
        await support.assert_untouched(clients, account)

    async def test_the_output_limit_is_sent_and_ends_the_answer(
        self, clients: Clients, provider: str, streamed: bool
    ) -> None:
        account, _ = await own_key_account(clients, provider)
        text, finish_reason, receipt = await served(
            clients,
            account,
            streamed=streamed,
            model=MODELS[provider],
            text_input=support.question(max_output_tokens=3),
        )
        assert text == " ".join(support.predicted_text(provider).split()[:3])
        assert finish_reason == text_pb2.FINISH_REASON_LENGTH
        assert receipt.usage.output_token_count == 3
        cost = support.vendor_cost(receipt.price, count_tokens(support.QUESTION), 3)
        assert receipt.cost_nano_usd == cost

    async def test_system_prompt_image_and_several_turns_are_counted_and_paid(
        self, clients: Clients, provider: str, streamed: bool
    ) -> None:
        account, _ = await own_key_account(clients, provider)
        turns = ["What is in this picture?", "A data key, it seems.", "And behind it?"]
        user = text_pb2.Message(
            role=text_pb2.ROLE_USER,
            parts=[
                text_pb2.Part(text=turns[0]),
                text_pb2.Part(image=text_pb2.Image(data=PIXEL, media_type="image/png")),
            ],
        )
        assistant = text_pb2.Message(
            role=text_pb2.ROLE_ASSISTANT, parts=[text_pb2.Part(text=turns[1])]
        )
        again = text_pb2.Message(role=text_pb2.ROLE_USER, parts=[text_pb2.Part(text=turns[2])])
        text, _, receipt = await served(
            clients,
            account,
            streamed=streamed,
            model=MODELS[provider],
            text_input=text_pb2.TextInput(
                system=SYSTEM, messages=[user, assistant, again], max_output_tokens=64
            ),
        )
        tokens = count_tokens(SYSTEM) + sum(map(count_tokens, turns)) + IMAGE_TOKENS
        assert text == answer_text(PROVIDER_MODELS[provider], tokens)
        assert receipt.usage.input_token_count == tokens
        cost = support.vendor_cost(receipt.price, tokens, count_tokens(text))
        assert receipt.cost_nano_usd == cost

    async def test_a_schema_shapes_the_answer(
        self, clients: Clients, provider: str, streamed: bool
    ) -> None:
        account, _ = await own_key_account(clients, provider)
        text, _, receipt = await served(
            clients,
            account,
            streamed=streamed,
            model=MODELS[provider],
            text_input=support.question(
                response_schema=text_pb2.ResponseSchema(name="answer", schema_json=SCHEMA)
            ),
        )
        assert text == SCHEMA_ANSWER
        assert receipt.usage.output_token_count == count_tokens(SCHEMA_ANSWER)

    async def test_a_tool_is_called_and_its_result_answered(
        self, clients: Clients, provider: str, streamed: bool
    ) -> None:
        account, _ = await own_key_account(clients, provider)
        schema = '{"type":"object","properties":{"city":{"type":"string"}}}'
        tool = text_pb2.Tool(name="weather", description="Tells it.", parameters_json=schema)
        asked = support.question(tools=[tool])
        answer = await support.generate(clients, account, model=MODELS[provider], text_input=asked)
        assert answer.finish_reason == text_pb2.FINISH_REASON_TOOL_CALLS
        [call] = answer.tool_calls
        assert (call.name, call.arguments_json) == ("weather", '{"city":"simulated"}')
        result = text_pb2.ToolResult(tool_call_id=call.id, content="It rains.")
        asked.messages.extend(
            [
                text_pb2.Message(
                    role=text_pb2.ROLE_ASSISTANT, parts=[text_pb2.Part(tool_call=call)]
                ),
                text_pb2.Message(
                    role=text_pb2.ROLE_TOOL, parts=[text_pb2.Part(tool_result=result)]
                ),
            ]
        )
        text, finish_reason, _ = await served(
            clients, account, streamed=streamed, model=MODELS[provider], text_input=asked
        )
        assert finish_reason == text_pb2.FINISH_REASON_STOP
        tokens = count_tokens(support.QUESTION) + count_tokens(result.content)
        assert text == answer_text(PROVIDER_MODELS[provider], tokens)


@pytest.mark.requirement("R1", "R12")
class TestReasoning:
    """Tokens spent on thinking are output, and paid as such."""

    @whole_and_streamed
    @pytest.mark.parametrize(
        ("provider", "model", "effort"),
        [
            ("openai", "openai/gpt-5-mini", text_pb2.REASONING_EFFORT_LOW),
            ("openrouter", "openai/gpt-5-mini", text_pb2.REASONING_EFFORT_LOW),
            ("anthropic", "anthropic/claude-sonnet-4-6", text_pb2.REASONING_EFFORT_LOW),
            ("gemini", "google/gemini-2.5-flash", text_pb2.REASONING_EFFORT_LOW),
        ],
    )
    async def test_it_is_told_apart_and_within_the_output(
        self,
        clients: Clients,
        provider: str,
        model: str,
        effort: text_pb2.ReasoningEffort.ValueType,
        streamed: bool,
    ) -> None:
        account, _ = await own_key_account(clients, provider)
        text, _, receipt = await served(
            clients,
            account,
            streamed=streamed,
            model=model,
            text_input=support.question(reasoning_effort=effort, max_output_tokens=4096),
        )
        output = REASONING_TOKENS + count_tokens(text)
        assert receipt.usage.output_token_count == output
        if provider != "anthropic":  # Anthropic does not tell thinking apart.
            assert receipt.usage.reasoning_token_count == REASONING_TOKENS
        cost = support.vendor_cost(receipt.price, count_tokens(support.QUESTION), output)
        assert receipt.cost_nano_usd == cost


@pytest.mark.requirement("R5", "R12")
@every_provider
class TestModelOutsideTheCatalogue:
    """On an own key any model of the provider may be named; it is passed through, unpriced."""

    async def test_it_is_passed_through(self, clients: Clients, provider: str) -> None:
        model = UNLISTED_MODELS[provider]
        account, key = await own_key_account(clients, provider)
        answer = await support.generate(clients, account, model=model)
        assert answer.text
        assert (answer.receipt.provider, answer.receipt.model) == (provider, model)
        assert answer.receipt.key_hint == key.hint
        assert not answer.receipt.HasField("price")
        assert not answer.receipt.HasField("cost_nano_usd")
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What a live test finds.

    Args:
        fault: What the simulator does to the key.
        result: The result.
        health: Health of a key stored with it, or after it; None where the test changes none.
        reason: What storing is refused with; empty where it is stored.
        code: With which code.
    """

    fault: str
    result: live_test_pb2.TestResult.ValueType
    health: key_pb2.HealthState.ValueType | None
    reason: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK


FINDINGS = {
    "VALID": Finding("", live_test_pb2.TEST_RESULT_VALID, key_pb2.HEALTH_STATE_ACTIVE),
    "VALID without the free call": Finding(
        "nolist", live_test_pb2.TEST_RESULT_VALID, key_pb2.HEALTH_STATE_ACTIVE
    ),
    "NO_CREDIT": Finding(
        "nocredit", live_test_pb2.TEST_RESULT_NO_CREDIT, key_pb2.HEALTH_STATE_NO_CREDIT
    ),
    "RATE_LIMITED": Finding(
        "ratelimited-seconds90",
        live_test_pb2.TEST_RESULT_RATE_LIMITED,
        key_pb2.HEALTH_STATE_COOLING,
    ),
    "INVALID": Finding(
        "revoked",
        live_test_pb2.TEST_RESULT_INVALID,
        key_pb2.HEALTH_STATE_REJECTED,
        "KEY_INVALID",
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "FORBIDDEN": Finding(
        "forbidden",
        live_test_pb2.TEST_RESULT_FORBIDDEN,
        key_pb2.HEALTH_STATE_REJECTED,
        "KEY_FORBIDDEN",
        grpc.StatusCode.FAILED_PRECONDITION,
    ),
    "UNREACHABLE": Finding(
        "down",
        live_test_pb2.TEST_RESULT_UNREACHABLE,
        None,
        "PROVIDER_UNREACHABLE",
        grpc.StatusCode.UNAVAILABLE,
    ),
    "UNREACHABLE by a server error": Finding(
        "error500",
        live_test_pb2.TEST_RESULT_UNREACHABLE,
        None,
        "PROVIDER_UNREACHABLE",
        grpc.StatusCode.UNAVAILABLE,
    ),
}
STORED = [name for name, finding in FINDINGS.items() if not finding.reason]
REFUSED = [name for name, finding in FINDINGS.items() if finding.reason]


def assert_found(test: live_test_pb2.LiveTest, finding: Finding) -> None:
    assert test.result == finding.result
    assert test.detail
    valid = finding.result == live_test_pb2.TEST_RESULT_VALID
    if valid:
        # A generation decided, and what it cost is told.
        assert test.credit_checked
        assert test.cost_nano_usd > 0
    if finding.result == live_test_pb2.TEST_RESULT_NO_CREDIT:
        assert test.credit_checked
    if finding.result == live_test_pb2.TEST_RESULT_RATE_LIMITED:
        assert test.retry_after.ToSeconds() == 90


@pytest.mark.requirement("K3", "R4")
@every_provider
class TestBeforeStoring:
    """A key is tested before it is stored; the result decides whether it is."""

    @pytest.mark.parametrize("name", STORED)
    async def test_a_key_that_works_is_stored_with_its_state(
        self, clients: Clients, provider: str, name: str
    ) -> None:
        finding = FINDINGS[name]
        account = await support.new_account(clients)
        secret = support.new_secret(provider, fault=finding.fault)
        created = await support.create_key(clients, account, secret, provider=provider)
        assert_found(created.test, finding)
        [stored] = await support.list_keys(clients, account)
        assert stored.name == created.key.name
        health = stored.health[0]
        assert (health.model, health.state) == ("", finding.health)
        if finding.health != key_pb2.HEALTH_STATE_ACTIVE:
            assert health.reason
            assert health.next_step
        for call in await support.recorded_requests(clients, secret):
            assert not call["stream"]
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS

    @pytest.mark.parametrize("name", REFUSED)
    async def test_a_key_that_does_not_is_refused_and_not_stored(
        self, clients: Clients, provider: str, name: str
    ) -> None:
        finding = FINDINGS[name]
        account = await support.new_account(clients)
        secret = support.new_secret(provider, fault=finding.fault)
        status = await support.refusal(
            support.create_key(clients, account, secret, provider=provider)
        )
        assert (status.code, status.reason) == (finding.code, finding.reason)
        assert status.metadata["provider"] == provider
        assert secret not in str(status.status)
        assert len(status.message.split()) > 5
        if finding.reason == "PROVIDER_UNREACHABLE":
            assert status.retry_after_seconds is not None
        assert await support.list_keys(clients, account) == []

    async def test_a_provider_that_cannot_be_asked_may_be_waived(
        self, clients: Clients, provider: str
    ) -> None:
        account = await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        secret = support.new_secret(provider)
        async with support.fault(clients, secret, "down"):
            created = await support.create_key(
                clients, account, secret, provider=provider, store_unverified=True
            )
        assert created.test.result == live_test_pb2.TEST_RESULT_UNREACHABLE
        assert created.key.health[0].state == key_pb2.HEALTH_STATE_SUSPECT
        answer = await support.generate(clients, account, model=MODELS[provider])
        assert answer.receipt.key_hint == created.key.hint

    async def test_the_permission_that_is_missing_is_named_where_the_provider_does(
        self, clients: Clients, provider: str
    ) -> None:
        account = await support.new_account(clients)
        status = await support.refusal(
            support.create_key(
                clients,
                account,
                support.new_secret(provider, fault="forbidden"),
                provider=provider,
            )
        )
        assert "permission" in status.message
        if provider == "openai":
            assert status.metadata["missing_permission"] == "model.request"
            assert "model.request" in status.message


@pytest.mark.requirement("K4", "K14", "R4")
@every_provider
class TestStoredKeyIsTested:
    """A test of a stored key finds the same and acts on its health at once."""

    @pytest.mark.parametrize("name", FINDINGS)
    async def test_what_is_found_becomes_its_health(
        self, clients: Clients, provider: str, name: str
    ) -> None:
        finding = FINDINGS[name]
        account = await support.new_account(clients)
        key = await support.add_key(clients, account, provider=provider)
        if finding.fault:
            async with support.fault(clients, key.secret, finding.fault):
                test, health = await support.check_key(clients, key)
        else:
            test, health = await support.check_key(clients, key)
        assert_found(test, finding)
        assert health.state == (finding.health or key_pb2.HEALTH_STATE_ACTIVE)

    async def test_a_mended_key_serves_again_after_a_test(
        self, clients: Clients, provider: str
    ) -> None:
        account, key = await own_key_account(clients, provider)
        async with support.fault(clients, key.secret, "revoked"):
            _, health = await support.check_key(clients, key)
            assert health.state == key_pb2.HEALTH_STATE_REJECTED
        _, health = await support.check_key(clients, key)
        assert health.state == key_pb2.HEALTH_STATE_ACTIVE
        answer = await support.generate(clients, account, model=MODELS[provider])
        assert answer.receipt.key_hint == key.hint
