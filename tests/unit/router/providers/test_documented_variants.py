# SPDX-License-Identifier: Apache-2.0
"""Variants that providers document, or were seen to send, beside the usual form of an answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from services.router.domain.outcomes import Outcome
from services.router.domain.text import FinishReason, ReasoningDelta, ReasoningEffort, ToolCallDelta
from services.router.providers.azure import AZURE
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.hosts import ANY_HOST
from services.router.providers.registry import DIALECTS
from simulator.converse_format import event
from tests.support.provider_streams import (
    NOW,
    arguments_of,
    assert_cuts_agree,
    credential,
    drain,
    reasoning_of,
    sse,
    text_call,
    text_of,
)
from tests.support.simulated_providers import azure_key

pytestmark = pytest.mark.requirement("R1", "R2", "R4")

CHAT = ("openai", "openrouter", "azure", "deepseek")
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USAGE = {
    "input_tokens": 5,
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 1},
    "cost": 0.0000015,
}
COMPLETED = {"type": "response.completed", "response": {"status": "completed", "usage": USAGE}}


def parse(provider: str, body: Any) -> Any:
    return DIALECTS[provider].parse_response(200, {}, msgspec.json.encode(body), now=NOW)


def fed(provider: str, data: bytes) -> Any:
    def make() -> Any:
        return DIALECTS[provider].stream_decoder(now=NOW)

    assert_cuts_agree(make, data, [3, 19, 64])
    return drain(make(), [data])


def chunk(delta: Any, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@pytest.mark.parametrize("provider", CHAT)
class TestChat:
    def test_a_call_that_was_asked_for_by_name_ends_as_one(self, provider: str) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        whole = parse(provider, {"choices": [{"message": message, "finish_reason": "stop"}]})
        assert whole.finish_reason is FinishReason.TOOL_CALLS
        piece = {"tool_calls": [{"index": 0, **CALL}]}
        events, _ = fed(provider, sse(chunk(piece), chunk({}, "stop"), "[DONE]"))
        assert events[-1].finish_reason is FinishReason.TOOL_CALLS

    def test_parallel_calls_arrive_in_pieces_that_mix(self, provider: str) -> None:
        def piece(index: int, arguments: str, name: str = "") -> dict[str, Any]:
            head = {"id": f"c{index}", "type": "function"} if name else {}
            function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
            return {"tool_calls": [{"index": index, **head, "function": function}]}

        steps = [(0, "", "f"), (1, "", "g"), (0, '{"a":', ""), (1, '{"b":', ""), (0, "1}", "")]
        deltas = [piece(*step) for step in [*steps, (1, "2}", "")]]
        data = sse(*map(chunk, deltas), chunk({}, "tool_calls"), "[DONE]")
        events, _ = fed(provider, data)
        assert [arguments_of(events, index) for index in (0, 1)] == ['{"a":1}', '{"b":2}']
        named = [one.name for one in events if isinstance(one, ToolCallDelta) and one.name]
        assert named == ["f", "g"]

    def test_an_answer_that_was_held_back_whole_has_no_message(self, provider: str) -> None:
        filtered = parse(provider, {"choices": [{"index": 0, "finish_reason": "content_filter"}]})
        assert (filtered.text, filtered.finish_reason) == ("", FinishReason.CONTENT_FILTER)
        with pytest.raises(ProviderBrokenError):
            parse(provider, {"choices": [{"index": 0, "finish_reason": "stop"}]})

    def test_log_probabilities_and_citations_are_passed_over(self, provider: str) -> None:
        logprobs = {
            "content": [{"token": "Hi", "logprob": -0.1, "bytes": [72], "top_logprobs": []}]
        }
        note = {"type": "url_citation", "url_citation": {"url": "https://example.com"}}
        message = {"content": "Hi", "annotations": [note], "audio": None}
        choice = {"message": message, "logprobs": logprobs, "finish_reason": "stop"}
        assert parse(provider, {"choices": [choice]}).text == "Hi"
        delta = {**chunk({"content": "Hi", "annotations": [note]}), "obfuscation": "x"}
        delta["choices"][0]["logprobs"] = logprobs
        events, error = fed(provider, sse(delta, chunk({}, "stop"), "[DONE]"))
        assert (text_of(events), error) == ("Hi", None)

    def test_usage_in_every_chunk_is_cumulative(self, provider: str) -> None:
        chunks = [
            {**chunk({"content": "a"}), "usage": {"prompt_tokens": 2, "completion_tokens": n}}
            for n in (1, 2, 3)
        ]
        events, _ = fed(provider, sse(*chunks, chunk({}, "stop"), "[DONE]"))
        assert events[-1].usage.output_tokens == 3

    @pytest.mark.parametrize("named", [True, False], ids=["named", "by type alone"])
    def test_responses_are_told_by_their_bytes(self, provider: str, *, named: bool) -> None:
        pieces: list[dict[str, Any]] = [
            {"type": "response.created", "response": {"status": "in_progress"}},
            {"type": "response.reasoning_text.delta", "delta": "hm"},
            {"type": "response.output_text.delta", "delta": "Hi"},
            COMPLETED,
        ]
        framed = (
            (f"event: {piece['type']}\n".encode() if named else b"") + sse(piece)
            for piece in pieces
        )
        events, error = fed(provider, b"".join(framed) + sse("[DONE]"))
        assert (text_of(events), reasoning_of(events), error) == ("Hi", "hm", None)
        assert events[-1].usage.provider_cost_nano_usd == 1500
        thought = {"type": "reasoning_text", "text": "hm"}
        output = [
            {"type": "reasoning", "summary": [], "content": [thought]},
            {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
        ]
        whole = parse(
            provider,
            {"object": "response", "status": "completed", "output": output, "usage": USAGE},
        )
        assert (whole.text, whole.reasoning, whole.usage) == ("Hi", "hm", events[-1].usage)

    def test_responses_that_end_without_their_end_are_cut(self, provider: str) -> None:
        delta = {"type": "response.output_text.delta", "delta": "Hi"}
        events, error = fed(provider, sse(delta, "[DONE]"))
        assert text_of(events) == "Hi"
        assert isinstance(error, ProviderBrokenError)


def test_deepseek_that_runs_out_of_resources_ends_for_another_reason() -> None:
    data = sse(chunk({"content": "Hi"}), chunk({}, "insufficient_system_resource"), "[DONE]")
    events, _ = fed("deepseek", data)
    assert events[-1].finish_reason is FinishReason.OTHER


class TestAnthropic:
    def test_the_provider_s_own_tools_and_citations_carry_no_call(self) -> None:
        blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
            (
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                [{"type": "input_json_delta", "partial_json": '{"query":"x"}'}],
            ),
            ({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, []),
            (
                {"type": "text", "text": "", "citations": []},
                [
                    {"type": "citations_delta", "citation": {"type": "web_search_result"}},
                    {"type": "text_delta", "text": "Hi"},
                ],
            ),
        ]
        bodies: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 2}}}
        ]
        for index, (block, deltas) in enumerate(blocks):
            start = {"type": "content_block_start", "index": index, "content_block": block}
            bodies.append(start)
            bodies += [
                {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
            ]
            bodies.append({"type": "content_block_stop", "index": index})
        ended = {"stop_reason": "pause_turn"}
        usage = {"output_tokens": 3, "server_tool_use": {"web_search_requests": 1}}
        bodies.append({"type": "message_delta", "delta": ended, "usage": usage})
        bodies.append({"type": "message_stop"})
        data = b"".join(f"event: {body['type']}\n".encode() + sse(body) for body in bodies)
        events, error = fed("anthropic", data)
        assert (text_of(events), error) == ("Hi", None)
        assert not [one for one in events if isinstance(one, ToolCallDelta)]
        assert events[-1].finish_reason is FinishReason.OTHER


class TestBedrock:
    def test_a_call_that_bedrock_answers_itself_is_none_of_the_caller_s(self) -> None:
        tool = {"toolUseId": "t", "name": "nova_grounding", "type": "server_tool_use"}
        data = (
            event("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": tool}})
            + event(
                "contentBlockDelta",
                {"contentBlockIndex": 0, "delta": {"toolUse": {"input": '{"q":1}'}}},
            )
            + event("contentBlockStop", {"contentBlockIndex": 0})
            + event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Hi"}})
            + event("messageStop", {"stopReason": "end_turn"})
            + event("metadata", {"usage": {"inputTokens": 1, "outputTokens": 1}})
        )
        events, error = fed("amazon-bedrock", data)
        assert (text_of(events), error) == ("Hi", None)
        assert not [one for one in events if isinstance(one, ToolCallDelta)]
        content = [{"toolUse": {**tool, "input": {}}}, {"text": "Hi"}]
        message = {"role": "assistant", "content": content}
        whole = parse("amazon-bedrock", {"output": {"message": message}, "stopReason": "end_turn"})
        assert (whole.text, whole.tool_calls) == ("Hi", ())

    def test_amazon_s_models_write_converse_s_events_into_chunks(self) -> None:
        bodies: list[dict[str, Any]] = [
            {"messageStart": {"role": "assistant"}},
            {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Hi"}}},
            {"contentBlockStop": {"contentBlockIndex": 0}},
            {"messageStop": {"stopReason": "end_turn"}},
            {
                "metadata": {"usage": {"inputTokens": 4, "outputTokens": 2}},
                "amazon-bedrock-invocationMetrics": {"inputTokenCount": 4},
            },
        ]
        data = b"".join(
            event("chunk", {"bytes": base64.b64encode(json.dumps(body).encode()).decode()})
            for body in bodies
        )
        events, error = fed("amazon-bedrock", data)
        assert (text_of(events), error) == ("Hi", None)
        assert (events[-1].usage.input_tokens, events[-1].usage.output_tokens) == (4, 2)

    def test_thoughts_come_with_their_proof_and_a_guardrail_ends_filtered(self) -> None:
        deltas: list[dict[str, Any]] = [
            {"reasoningContent": {"text": "hm"}},
            {"reasoningContent": {"signature": "s"}},
            {"reasoningContent": {"redactedContent": "xyz"}},
        ]
        data = b"".join(
            event("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}) for delta in deltas
        )
        data += event("messageStop", {"stopReason": "guardrail_intervened"})
        data += event("metadata", {"usage": {"inputTokens": 1, "outputTokens": 1}, "trace": {}})
        events, _ = fed("amazon-bedrock", data)
        assert [one for one in events if isinstance(one, ReasoningDelta)] == [
            ReasoningDelta("hm"),
            ReasoningDelta("", "s"),
            ReasoningDelta("", "redacted:xyz"),
        ]
        assert events[-1].finish_reason is FinishReason.CONTENT_FILTER


def responding(slug: str = "openai/gpt-4o-mini") -> str:
    """Give a deployment whose address is one of Responses."""
    return json.dumps(
        {
            **json.loads(azure_key(slug))[0],
            "endpoint_url": "https://contoso.openai.azure.com/openai/v1/responses",
            "model_id": "mine",
        }
    )


@pytest.mark.requirement("K11", "R16")
class TestAzureResponses:
    def test_a_deployment_s_address_tells_the_format(self) -> None:
        call = text_call(model="openai/gpt-4o-mini", system="Be brief.", stream=True)
        request = AZURE.build_request(call, credential(responding()), base_url=ANY_HOST)
        assert request.url == "https://contoso.openai.azure.com/openai/v1/responses"
        body = msgspec.json.decode(request.body)
        assert (body["model"], body["instructions"]) == ("mine", "Be brief.")
        assert (body["max_output_tokens"], body["stream"], body["store"]) == (100, True, False)

    @pytest.mark.parametrize("field", [{"seed": 7}, {"stop": ("x",)}])
    def test_what_responses_lack_is_told_before_anything_is_sent(
        self, field: dict[str, Any]
    ) -> None:
        call = text_call(model="openai/gpt-4o-mini", **field)
        with pytest.raises(ProviderError) as refused:
            AZURE.build_request(call, credential(responding()), base_url=ANY_HOST)
        error = refused.value
        assert (error.outcome, error.http_status) == (Outcome.INVALID_REQUEST, None)
        assert next(iter(field)) in error.safe_message

    def test_a_plain_model_is_asked_for_no_effort(self) -> None:
        none = {"reasoning_effort": ReasoningEffort.NONE}
        for slug, wanted in (("openai/gpt-4o-mini", None), ("openai/gpt-5.1", {"effort": "none"})):
            call = text_call(model=slug, **none)
            request = AZURE.build_request(call, credential(responding(slug)), base_url=ANY_HOST)
            assert msgspec.json.decode(request.body).get("reasoning") == wanted

    def test_a_test_of_the_key_asks_in_the_same_format(self) -> None:
        probe = AZURE.probe(credential(responding()), base_url=ANY_HOST)
        assert probe.next_request() is not None
        probe.feed(200, {}, b"{}", now=NOW)
        generation = probe.next_request()
        assert generation is not None
        assert generation.url.endswith("/openai/v1/responses")
        output = [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]
        answer = {"object": "response", "status": "completed", "output": output, "usage": USAGE}
        probe.feed(200, {}, msgspec.json.encode(answer), now=NOW)
        assert probe.next_request() is None
        assert (probe.result().outcome, probe.result().credit_checked) == (None, True)
