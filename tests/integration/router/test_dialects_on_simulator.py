# SPDX-License-Identifier: Apache-2.0
"""Every dialect speaks to the provider simulator over real HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Finished,
    FinishReason,
    ImagePart,
    Message,
    ReasoningEffort,
    ResponseSchema,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
)
from services.router.providers.base import (
    CredentialMalformedError,
    HTTPRequest,
)
from services.router.providers.registry import DIALECTS
from simulator.control import key_digest
from simulator.openrouter_api import COST_NANO_USD_PER_TOKEN
from simulator.tokens import IMAGE_TOKENS, answer_text, count_tokens
from tests.support.provider_streams import credential, text_of
from tests.support.simulated_providers import (
    KEYS,
    azure_key,
    faulty_key,
    serve_simulator,
)
from tests.support.simulator_client import MODELS, Client, a_call

NAMES = {**MODELS, "azure": "gpt-4o-mini"}
"""What the simulator calls each model."""
PROVIDERS = pytest.mark.parametrize("provider", sorted(MODELS))
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LACKING = {
    "anthropic": ("seed", "top_p"),
    "amazon-bedrock": ("seed",),
    "deepseek": ("seed", "response_schema", "messages"),
}
SLOW_SECONDS = 0.1
SCHEMA = '{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}}}'


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with (
        serve_simulator(slow_seconds=SLOW_SECONDS) as simulator,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, simulator)


@PROVIDERS
class TestAnswers:
    @pytest.mark.requirement("R1", "R4")
    async def test_a_whole_answer_has_its_text_and_exact_usage(
        self, client: Client, provider: str
    ) -> None:
        answer = await client.complete(provider, a_call(provider))
        assert answer.text == answer_text(NAMES[provider], 6)
        assert answer.finish_reason is FinishReason.STOP
        assert answer.usage is not None
        assert answer.usage.input_tokens == 6
        assert answer.usage.output_tokens == count_tokens(answer.text)

    @pytest.mark.requirement("R2")
    async def test_a_stream_says_the_same_and_ends_once(
        self, client: Client, provider: str
    ) -> None:
        whole = await client.complete(provider, a_call(provider))
        events = await client.events(provider, a_call(provider, stream=True))
        assert text_of(events) == whole.text
        ends = [event for event in events if isinstance(event, Finished)]
        assert ends == [Finished(FinishReason.STOP, whole.usage, whole.model)]

    @pytest.mark.requirement("R1")
    @BOTH_WAYS
    async def test_the_output_limit_is_kept(
        self, client: Client, provider: str, *, stream: bool
    ) -> None:
        call = a_call(provider, max_output_tokens=3, stream=stream)
        if stream:
            end = (await client.events(provider, call))[-1]
            assert isinstance(end, Finished)
        else:
            end = await client.complete(provider, call)
        assert end.finish_reason is FinishReason.LENGTH
        assert end.usage is not None
        assert end.usage.output_tokens == 3

    @pytest.mark.requirement("R1")
    async def test_tools_are_called_and_their_results_taken(
        self, client: Client, provider: str
    ) -> None:
        tools = (Tool("weather", "Tells the weather", SCHEMA),)
        call = a_call(provider, tools=tools)
        answer = await client.complete(provider, call)
        assert answer.finish_reason is FinishReason.TOOL_CALLS
        (made,) = answer.tool_calls
        assert (made.name, made.arguments) == ("weather", '{"city":"simulated","days":1}')
        events = await client.events(provider, a_call(provider, tools=tools, stream=True))
        deltas = [event for event in events if isinstance(event, ToolCallDelta)]
        assert deltas[0].name == "weather"
        assert "".join(delta.arguments for delta in deltas) == made.arguments
        talk = (
            *call.messages,
            Message(Role.ASSISTANT, (ToolCall(made.id, made.name, made.arguments),)),
            Message(Role.TOOL, (ToolResult(made.id, "sunny"),)),
        )
        after = await client.complete(provider, a_call(provider, tools=tools, messages=talk))
        assert after.text == answer_text(NAMES[provider], 7)

    @pytest.mark.requirement("R1")
    async def test_every_other_parameter_is_taken(self, client: Client, provider: str) -> None:
        parts = (TextPart("Look"), ImagePart("image/png", b"\x89PNG"))
        fields: dict[str, Any] = {
            "messages": (Message(Role.USER, parts),),
            "response_schema": ResponseSchema("trip", SCHEMA),
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ("never",),
            "seed": 7,
        }
        lacking = LACKING.get(provider, ())
        fields = {name: value for name, value in fields.items() if name not in lacking}
        if provider == "deepseek":
            assert (await client.complete(provider, a_call(provider, **fields))).text
            return
        answer = await client.complete(provider, a_call(provider, **fields))
        assert answer.text == '{"city":"simulated","days":1}'
        assert answer.usage is not None
        assert answer.usage.input_tokens == 3 + IMAGE_TOKENS

    @pytest.mark.requirement("L9")
    @BOTH_WAYS
    async def test_an_empty_answer_has_no_output_tokens(
        self, client: Client, provider: str, *, stream: bool
    ) -> None:
        key = faulty_key(provider, "empty")
        call = a_call(provider, stream=stream)
        if stream:
            end = (await client.events(provider, call, key))[-1]
            assert isinstance(end, Finished)
        else:
            end = await client.complete(provider, call, key)
        assert end.usage is not None
        assert end.usage.output_tokens == 0


@pytest.mark.requirement("R1")
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-5-mini"),
        ("openai", "o4-mini"),
        ("openrouter", "openai/o4-mini"),
        ("anthropic", "claude-sonnet-4-6"),
        ("anthropic", "claude-haiku-4-5"),
        ("gemini", "gemini-2.5-flash"),
        ("gemini", "gemini-3.1-flash-lite"),
        ("azure", "openai/gpt-5-mini"),
        ("amazon-bedrock", "us.amazon.nova-2-lite-v1:0"),
        ("amazon-bedrock", "global.anthropic.claude-sonnet-4-6"),
        ("google-vertex", "gemini-2.5-flash"),
        ("google-vertex", "claude-haiku-4-5@20251001"),
        ("deepseek", "deepseek-v4-flash"),
    ],
)
async def test_reasoning_counts_as_output(client: Client, provider: str, model: str) -> None:
    call = a_call(
        provider, model=model, reasoning_effort=ReasoningEffort.LOW, max_output_tokens=4000
    )
    answer = await client.complete(provider, call)
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8 + count_tokens(answer.text)


@pytest.mark.requirement("R12")
async def test_openrouter_says_what_it_cost(client: Client) -> None:
    usage = (await client.complete("openrouter", a_call("openrouter"))).usage
    assert usage is not None
    tokens = usage.input_tokens + usage.output_tokens
    assert usage.provider_cost_nano_usd == tokens * COST_NANO_USD_PER_TOKEN


FAULTS = [
    ("revoked", Outcome.INVALID_KEY),
    ("nocredit", Outcome.INSUFFICIENT_CREDIT),
    ("ratelimited", Outcome.RATE_LIMITED),
    ("forbidden", Outcome.PERMISSION_DENIED),
    ("error500", Outcome.SERVER_ERROR),
    ("overloaded", Outcome.OVERLOADED),
]


@PROVIDERS
class TestFailures:
    @pytest.mark.requirement("R11")
    @BOTH_WAYS
    @pytest.mark.parametrize(("fault", "outcome"), FAULTS)
    async def test_each_fault_has_its_outcome(
        self, client: Client, provider: str, fault: str, outcome: Outcome, *, stream: bool
    ) -> None:
        key = faulty_key(provider, fault)
        error = await client.failure(provider, key, stream=stream)
        assert error.outcome is outcome
        assert key not in str(error)

    @pytest.mark.requirement("R11")
    async def test_a_model_s_name_can_ask_for_a_fault(self, client: Client, provider: str) -> None:
        model = f"{MODELS[provider]}-fault-500"
        key = azure_key(model) if provider == "azure" else ""
        error = await client.failure(provider, key, stream=False, model=model)
        assert error.outcome is Outcome.SERVER_ERROR

    @pytest.mark.requirement("R11")
    async def test_an_unknown_model_is_not_found(self, client: Client, provider: str) -> None:
        error = await client.failure(provider, "", stream=False, model="no-such-model")
        assert error.outcome is Outcome.MODEL_NOT_FOUND

    @pytest.mark.requirement("R11")
    @pytest.mark.parametrize("key", ["x", "another-provider-s-key-0123456789"])
    async def test_a_key_of_another_shape_is_invalid(
        self, client: Client, provider: str, key: str
    ) -> None:
        if provider in ("azure", "google-vertex"):
            with pytest.raises(CredentialMalformedError):
                await client.complete(provider, a_call(provider), key)
            return
        error = await client.failure(provider, key, stream=False)
        assert error.outcome is Outcome.INVALID_KEY

    @pytest.mark.requirement("R2")
    async def test_a_stream_that_is_cut_is_an_error(self, client: Client, provider: str) -> None:
        error = await client.failure(provider, faulty_key(provider, "cut"), stream=True)
        assert error.outcome is Outcome.NETWORK

    @pytest.mark.requirement("R2")
    async def test_an_error_inside_a_stream_is_an_error(
        self, client: Client, provider: str
    ) -> None:
        error = await client.failure(provider, faulty_key(provider, "midstream"), stream=True)
        assert error.outcome in (Outcome.SERVER_ERROR, Outcome.OVERLOADED)
        assert error.http_status == 200

    @pytest.mark.requirement("R2")
    async def test_a_broken_whole_answer_is_an_error(self, client: Client, provider: str) -> None:
        error = await client.failure(provider, faulty_key(provider, "midstream"), stream=False)
        assert error.outcome in (Outcome.SERVER_ERROR, Outcome.OVERLOADED)

    @pytest.mark.requirement("R2")
    async def test_a_whole_answer_that_is_cut_cannot_be_read(
        self, client: Client, provider: str
    ) -> None:
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.complete(provider, a_call(provider), faulty_key(provider, "cut"))

    @pytest.mark.requirement("R11")
    async def test_a_slow_key_keeps_one_waiting_and_answers(
        self, client: Client, provider: str
    ) -> None:
        began = time.monotonic()
        assert await client.complete(provider, a_call(provider), faulty_key(provider, "slow"))
        assert time.monotonic() - began >= SLOW_SECONDS

    @pytest.mark.requirement("R11")
    async def test_a_connection_that_is_reset_is_seen(self, client: Client, provider: str) -> None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.complete(provider, a_call(provider), faulty_key(provider, "down"))

    @pytest.mark.requirement("R10")
    @pytest.mark.parametrize(
        ("form", "seconds"),
        [("seconds3", 3.0), ("date30", 30.0), ("ms250", 0.25), ("text5", 5.0), ("none", None)],
    )
    async def test_retry_hints_are_read_in_every_form(
        self, client: Client, provider: str, form: str, seconds: float | None
    ) -> None:
        error = await client.failure(
            provider, faulty_key(provider, f"ratelimited-{form}"), stream=False
        )
        assert error.retry_after_seconds == pytest.approx(
            seconds, abs=1.1 if "date" in form else None
        )

    @pytest.mark.requirement("R10")
    async def test_hints_in_bodies_are_read(self, client: Client, provider: str) -> None:
        error = await client.failure(
            provider, faulty_key(provider, "ratelimited-body20"), stream=False
        )
        if provider in ("gemini", "google-vertex", "openrouter"):
            assert error.retry_after_seconds == pytest.approx(20, abs=0.5)
        else:
            assert error.retry_after_seconds is None

    @pytest.mark.requirement("R11")
    async def test_filtered_content_is_told(self, client: Client, provider: str) -> None:
        key = faulty_key(provider, "filtered")
        if provider in ("gemini", "google-vertex"):
            error = await client.failure(provider, key, stream=False)
            assert error.outcome is Outcome.CONTENT_FILTERED
        else:
            answer = await client.complete(provider, a_call(provider), key)
            assert answer.finish_reason is FinishReason.CONTENT_FILTER


@pytest.mark.requirement("K3")
@PROVIDERS
class TestProbes:
    async def test_a_good_key_is_valid_and_its_credit_checked(
        self, client: Client, provider: str
    ) -> None:
        result = await client.probe(provider, KEYS[provider])
        assert (result.outcome, result.credit_checked) == (None, True)
        assert result.usage is not None
        assert 0 < result.usage.output_tokens <= 16

    @pytest.mark.parametrize(("fault", "outcome"), FAULTS)
    async def test_each_fault_is_found(
        self, client: Client, provider: str, fault: str, outcome: Outcome
    ) -> None:
        result = await client.probe(provider, faulty_key(provider, fault))
        assert result.outcome is outcome
        assert result.usage is None

    async def test_a_key_that_may_not_list_models_can_be_valid(
        self, client: Client, provider: str
    ) -> None:
        result = await client.probe(provider, faulty_key(provider, "nolist"))
        assert (result.outcome, result.credit_checked) == (None, True)

    async def test_a_limit_on_generations_alone_shows_in_the_generation(
        self, client: Client, provider: str
    ) -> None:
        result = await client.probe(provider, faulty_key(provider, "ratelimited-gen-seconds7"))
        assert (result.outcome, result.retry_after_seconds) == (Outcome.RATE_LIMITED, 7.0)

    async def test_the_key_s_own_model_is_used(self, client: Client, provider: str) -> None:
        key = azure_key(MODELS["azure"]) if provider == "azure" else KEYS[provider]
        result = await client.probe(provider, key, MODELS[provider])
        assert (result.outcome, result.model) == (None, MODELS[provider])


class TestControl:
    @pytest.mark.requirement("K14")
    async def test_a_good_key_can_begin_to_fail_and_recover(self, client: Client) -> None:
        path = f"keys/{key_digest(KEYS['openai'])}"
        await client.control("POST", path, {"fault": "ratelimited-seconds3"})
        error = await client.failure("openai", "", stream=False)
        assert error.retry_after_seconds == 3.0
        await client.control("DELETE", path)
        assert (await client.complete("openai", a_call("openai"))).text

    @pytest.mark.requirement("R10")
    async def test_a_fault_can_hit_a_number_of_requests(self, client: Client) -> None:
        path = f"keys/{key_digest(KEYS['gemini'])}"
        await client.control("POST", path, {"fault": "overloaded", "count": 1})
        assert (await client.failure("gemini", "", stream=True)).outcome is Outcome.OVERLOADED
        assert await client.events("gemini", a_call("gemini", stream=True))

    async def test_bad_faults_are_refused_with_the_words_there_are(self, client: Client) -> None:
        digest = key_digest("x")
        for path, body in (
            (f"keys/{digest}", {"fault": "nonsense"}),
            (f"keys/{digest}", {"fault": "slow", "more": 1}),
            ("keys/short", {"fault": "slow"}),
        ):
            assert "error" in await client.control("POST", path, body)

    @pytest.mark.requirement("K8")
    async def test_the_recording_knows_keys_by_digest_alone(self, client: Client) -> None:
        await client.events("anthropic", a_call("anthropic", stream=True))
        (entry,) = (await client.control("GET", "requests"))["requests"]
        assert entry["key_sha256"] == key_digest(KEYS["anthropic"])
        assert (entry["provider"], entry["path"]) == ("anthropic", "/anthropic/v1/messages")
        assert (entry["model"], entry["stream"]) == ("claude-sonnet-4-6", True)
        assert KEYS["anthropic"] not in str(entry)
        await client.control("DELETE", "requests")
        assert (await client.control("GET", "requests"))["requests"] == []


@PROVIDERS
async def test_unknown_fields_and_missing_headers_are_refused(
    client: Client, provider: str
) -> None:
    dialect = DIALECTS[provider]
    request = dialect.build_request(
        a_call(provider), credential(KEYS[provider]), base_url=client.base_url(provider)
    )
    more = HTTPRequest("POST", request.url, request.headers, request.body[:-1] + b',"bogus":1}')
    wrong = await client.authorized(provider, more)
    status, headers, body = await client.send(wrong)
    error = dialect.parse_error(status, headers, body, now=datetime.now(UTC))
    assert error.outcome is Outcome.INVALID_REQUEST
    bare = HTTPRequest("POST", request.url, {"content-type": "application/json"}, request.body)
    status, headers, body = await client.send(bare)
    error = dialect.parse_error(status, headers, body, now=datetime.now(UTC))
    assert error.outcome is Outcome.INVALID_KEY
