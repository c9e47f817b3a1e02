# SPDX-License-Identifier: Apache-2.0
"""What formats allow beside the usual: fields left out, null or new, and events nobody knows."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Finished,
    FinishReason,
    ReasoningDelta,
    ToolCall,
    ToolCallDelta,
)
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.registry import DIALECTS
from simulator.converse_format import event, exception
from tests.support.provider_streams import (
    NOW,
    TEXT_PROVIDERS,
    arguments_of,
    assert_cuts_agree,
    drain,
    sse,
    text_of,
)

pytestmark = pytest.mark.requirement("R1", "R2")

CHAT: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Hi",
                "refusal": None,
                "reasoning": "hm",
                "reasoning_details": [{"type": "reasoning.text", "signature": "s"}],
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
        }
    ],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
}
RESPONSE: dict[str, Any] = {
    "id": "x",
    "object": "response",
    "status": "completed",
    "model": "m",
    "error": None,
    "incomplete_details": None,
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ],
    "usage": {
        "input_tokens": 5,
        "output_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 1},
    },
}
MESSAGE: dict[str, Any] = {
    "type": "message",
    "model": "m",
    "stop_reason": "tool_use",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "c", "name": "f", "input": {}},
    ],
    "usage": {"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 1},
}
GENERATE: dict[str, Any] = {
    "modelVersion": "m",
    "responseId": "r",
    "candidates": [
        {
            "index": 0,
            "finishReason": "STOP",
            "content": {
                "role": "model",
                "parts": [
                    {"text": "hm", "thought": True},
                    {"text": "Hi", "thoughtSignature": "s"},
                    {"functionCall": {"id": "c", "name": "f", "args": {}}},
                ],
            },
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 5,
        "candidatesTokenCount": 2,
        "thoughtsTokenCount": 1,
        "cachedContentTokenCount": 1,
        "toolUsePromptTokenCount": 0,
    },
}
CONVERSE: dict[str, Any] = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                {"text": "Hi"},
                {"toolUse": {"toolUseId": "c", "name": "f", "input": {}}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": {"inputTokens": 5, "outputTokens": 3, "cacheReadInputTokens": 1},
}
WHOLE = [
    *((provider, CHAT) for provider in ("openai", "openrouter", "azure", "deepseek")),
    ("openai", RESPONSE),
    *((provider, MESSAGE) for provider in ("anthropic", "google-vertex", "amazon-bedrock")),
    *((provider, GENERATE) for provider in ("gemini", "google-vertex")),
    ("amazon-bedrock", CONVERSE),
]
NEEDED = frozenset(
    {
        # Without these there is no answer, so what stands in their place is no answer either.
        *("choices", "message", "finish_reason"),
        *("object", "status", "output"),
        *("type", "content", "stop_reason"),
        *("candidates", "finishReason"),
        *("stopReason",),
    }
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every field, however deep."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in items:
        if isinstance(value, dict):
            yield (*path, name)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, name))


def holder(value: Any, path: tuple[Any, ...]) -> Any:
    """Give the object that a path's last name stands in."""
    for name in path[:-1]:
        value = value[name]
    return value


def parse(provider: str, body: Any) -> Any:
    return DIALECTS[provider].parse_response(200, {}, msgspec.json.encode(body), now=NOW)


def fed(provider: str, data: bytes) -> Any:
    def make() -> Any:
        return DIALECTS[provider].stream_decoder(now=NOW)

    assert_cuts_agree(make, data, [5, 17, 40])
    return drain(make(), [data])


@pytest.mark.parametrize(("provider", "body"), WHOLE)
class TestWholeAnswers:
    def test_the_usual_is_read(self, provider: str, body: Any) -> None:
        answer = parse(provider, body)
        assert (answer.text, answer.reasoning) == ("Hi", "hm")
        assert answer.tool_calls[0].name == "f"
        assert answer.tool_calls[0].arguments == "{}"
        assert answer.finish_reason is FinishReason.TOOL_CALLS
        assert (answer.usage.input_tokens, answer.usage.output_tokens) in ((5, 3), (6, 3))

    def test_any_other_field_may_be_null_or_missing(self, provider: str, body: Any) -> None:
        for path in places(body):
            if path[-1] in NEEDED:
                continue
            nulled, lacking = copy.deepcopy(body), copy.deepcopy(body)
            holder(nulled, path)[path[-1]] = None
            del holder(lacking, path)[path[-1]]
            assert parse(provider, nulled).finish_reason in FinishReason, path
            assert parse(provider, lacking).finish_reason in FinishReason, path

    def test_fields_that_nobody_knows_change_nothing(self, provider: str, body: Any) -> None:
        more = copy.deepcopy(body)
        for path in list(places(body)):
            holder(more, path)["a_new_field"] = {"deep": [1, None, "x"]}
        assert parse(provider, more) == parse(provider, body)

    def test_the_first_of_several_alternatives_counts(self, provider: str, body: Any) -> None:
        for name in ("choices", "candidates"):
            if name in body:
                several = copy.deepcopy(body)
                other = {"index": 1, "finish_reason": "length", "finishReason": "MAX_TOKENS"}
                several[name].insert(0, other)
                assert parse(provider, several) == parse(provider, body)


PAGES = [b"<html><body>502 Bad Gateway</body></html>", b"", b"upstream error", b"null", b"[]"]


@pytest.mark.parametrize("provider", TEXT_PROVIDERS)
class TestEveryTextProvider:
    @pytest.mark.parametrize("page", PAGES)
    def test_a_page_in_place_of_an_answer_is_broken(self, provider: str, page: bytes) -> None:
        with pytest.raises(ProviderBrokenError):
            DIALECTS[provider].parse_response(200, {}, page, now=NOW)
        events, error = fed(provider, page)
        assert events == []
        assert isinstance(error, ProviderBrokenError)

    @pytest.mark.requirement("R11")
    @pytest.mark.parametrize(
        ("status", "outcome"),
        [
            (401, Outcome.INVALID_KEY),
            (402, Outcome.INSUFFICIENT_CREDIT),
            (429, Outcome.RATE_LIMITED),
            (502, None),
            (529, Outcome.OVERLOADED),
        ],
    )
    def test_a_page_of_a_gateway_is_classified_by_its_status(
        self, provider: str, status: int, outcome: Outcome | None
    ) -> None:
        error = DIALECTS[provider].parse_error(status, {}, PAGES[0], now=NOW)
        expected = (Outcome.SERVER_ERROR, Outcome.OVERLOADED) if outcome is None else (outcome,)
        assert error.outcome in expected


def chunk(delta: Any, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **fields}


class TestChatStreams:
    @pytest.mark.parametrize("provider", ["openai", "openrouter", "azure", "deepseek"])
    def test_keep_alives_crlf_and_null_fields_carry_nothing(self, provider: str) -> None:
        nulls = {"content": None, "tool_calls": None, "reasoning_content": None, "role": None}
        data = (
            b"\n\n: OPENROUTER PROCESSING\n\n: keep-alive\r\n\r\n"
            + sse({"choices": [], "model": None, "usage": None})
            + sse(chunk(nulls), chunk({"content": "Hi"}), end="\r\n\r\n")
            + b"id: 7\nretry: 5\n"
            + sse(chunk({}, "stop"), {"choices": None, "usage": {"prompt_tokens": 2}}, "[DONE]")
        )
        events, error = fed(provider, data)
        assert (text_of(events), error) == ("Hi", None)
        assert events[-1].usage.input_tokens == 2

    def test_an_alternative_that_was_not_asked_for_is_left_out(self) -> None:
        other = {"choices": [{"index": 1, "delta": {"content": "No"}, "finish_reason": "length"}]}
        data = sse(chunk({"content": "Hi"}), other, chunk({}, "stop"), "[DONE]")
        events, _ = fed("openai", data)
        assert text_of(events) == "Hi"
        assert events[-1].finish_reason is FinishReason.STOP

    def test_the_one_call_of_the_older_format_is_read(self) -> None:
        pieces = [{"name": "f", "arguments": ""}, {"arguments": "{}"}]
        data = sse(*(chunk({"function_call": one}) for one in pieces))
        events, _ = fed("openai", data + sse(chunk({}, "function_call"), "[DONE]"))
        assert arguments_of(events, 0) == "{}"
        assert events[-1].finish_reason is FinishReason.TOOL_CALLS

    @pytest.mark.parametrize(
        ("failure", "outcome"),
        [
            ({"error": {"code": 429, "message": "slow"}}, Outcome.RATE_LIMITED),
            ({"error": {"code": "429", "message": "slow"}}, Outcome.RATE_LIMITED),
            ({"error": {"code": "server_error"}}, Outcome.SERVER_ERROR),
            ({"error": "gone"}, Outcome.SERVER_ERROR),
            (
                {"error": {"code": 502}, "choices": [{"delta": {}, "finish_reason": "error"}]},
                Outcome.OVERLOADED,
            ),
            (chunk({}, "error"), Outcome.SERVER_ERROR),
        ],
    )
    def test_openrouter_fails_in_mid_stream(self, failure: Any, outcome: Outcome) -> None:
        events, error = fed("openrouter", sse(chunk({"content": "Hi"}), failure))
        assert text_of(events) == "Hi"
        assert error is not None
        assert error.outcome is outcome

    def test_a_named_error_event_of_openai_is_one(self) -> None:
        data = sse(chunk({"content": "Hi"})) + b"event: error\n" + sse({"error": {"code": "x"}})
        _, error = fed("openai", data)
        assert error is not None
        assert error.outcome is Outcome.SERVER_ERROR

    def test_azure_s_filter_annotates_and_ends(self) -> None:
        filtered = {"hate": {"filtered": True, "severity": "high"}}
        first = {"choices": [], "id": "", "model": "", "prompt_filter_results": [filtered]}
        last = {"index": 0, "finish_reason": "content_filter", "content_filter_offsets": {}}
        data = sse(first, chunk({"content": "Hi"}), {"choices": [last]}, "[DONE]")
        events, _ = fed("azure", data)
        assert events[-1].finish_reason is FinishReason.CONTENT_FILTER

    @pytest.mark.requirement("R11")
    def test_azure_s_gateway_answers_without_the_envelope(self) -> None:
        body = b'{"statusCode": 429, "message": "Rate limit is exceeded. Try again in 7 seconds."}'
        error = DIALECTS["azure"].parse_error(429, {}, body, now=NOW)
        assert (error.outcome, error.retry_after_seconds) == (Outcome.RATE_LIMITED, 7.0)


def named(*bodies: dict[str, Any]) -> bytes:
    return b"".join(f"event: {body['type']}\n".encode() + sse(body) for body in bodies)


BEGIN = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 2}}}
END = (
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
)


@pytest.mark.parametrize("provider", ["anthropic", "google-vertex"])
class TestMessagesStreams:
    def test_new_events_deltas_and_blocks_are_passed_over(self, provider: str) -> None:
        new = (
            {"type": "ping"},
            {"type": "a_new_event", "index": "first", "delta": 7, "usage": []},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "new"}},
            {"type": "content_block_start", "index": 0},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta", "x": 1}},
            {"type": "content_block_delta", "index": 0, "delta": None},
            {"type": "content_block_stop", "index": None},
        )
        text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}
        events, error = fed(provider, named(BEGIN, *new, text, *END))
        assert (text_of(events), error) == ("Hi", None)
        assert isinstance(events[-1], Finished)

    def test_a_known_event_of_another_shape_is_broken(self, provider: str) -> None:
        bad = {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": 5},
        }
        _, error = fed(provider, named(BEGIN, bad))
        assert isinstance(error, ProviderBrokenError)

    def test_a_call_without_arguments_has_an_object_of_none(self, provider: str) -> None:
        block = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
        empty = {"type": "input_json_delta", "partial_json": ""}
        data = named(
            BEGIN,
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": empty},
            {"type": "content_block_stop", "index": 0},
            *END,
        )
        events, _ = fed(provider, data)
        assert arguments_of(events, 0) == "{}"

    @pytest.mark.parametrize(
        ("kind", "outcome"),
        [
            ("overloaded_error", Outcome.OVERLOADED),
            ("rate_limit_error", Outcome.RATE_LIMITED),
            ("api_error", Outcome.SERVER_ERROR),
        ],
    )
    def test_an_error_event_is_one_whatever_came_before(
        self, provider: str, kind: str, outcome: Outcome
    ) -> None:
        failure = {"type": "error", "error": {"type": kind, "message": "x"}}
        for before in ((), (BEGIN,)):
            _, error = fed(provider, named(*before, failure))
            assert error is not None
            assert error.outcome is outcome

    def test_a_redacted_block_is_proof_without_text(self, provider: str) -> None:
        block = {"type": "redacted_thinking", "data": "xyz"}
        start = {"type": "content_block_start", "index": 0, "content_block": block}
        events, _ = fed(provider, named(BEGIN, start, *END))
        assert [one for one in events if isinstance(one, ReasoningDelta)] == [
            ReasoningDelta("", "redacted:xyz")
        ]


@pytest.mark.parametrize("provider", ["gemini", "google-vertex"])
class TestGenerateStreams:
    @pytest.mark.parametrize(
        "reason", ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"]
    )
    def test_a_block_ends_filtered_with_what_was_written(self, provider: str, reason: str) -> None:
        parts = {"parts": [{"text": "Hi"}, {"inlineData": {"data": "eA=="}}]}
        ratings = [{"category": "HARM", "probability": "HIGH", "blocked": True}]
        last = {"finishReason": reason, "safetyRatings": ratings}
        data = sse({"candidates": [{"content": parts}]}, {"candidates": [last]}, end="\r\n\r\n")
        events, error = fed(provider, data)
        assert (text_of(events), error) == ("Hi", None)
        assert events[-1].finish_reason is FinishReason.CONTENT_FILTER

    def test_a_refused_prompt_is_filtered(self, provider: str) -> None:
        feedback = {"promptFeedback": {"blockReason": "OTHER", "safetyRatings": []}}
        _, error = fed(provider, sse({**feedback, "usageMetadata": {"promptTokenCount": 3}}))
        assert error is not None
        assert error.outcome is Outcome.CONTENT_FILTERED
        assert error.usage.input_tokens == 3

    @pytest.mark.parametrize("in_array", [False, True])
    def test_an_error_as_bare_json_after_pieces_is_one(
        self, provider: str, *, in_array: bool
    ) -> None:
        error = {"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}
        tail = msgspec.json.format(msgspec.json.encode([error] if in_array else error))
        first = sse({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]})
        events, failure = fed(provider, first + tail)
        assert text_of(events) == "Hi"
        assert failure is not None
        assert failure.outcome is Outcome.OVERLOADED

    def test_a_call_without_arguments_has_an_object_of_none(self, provider: str) -> None:
        for call in ({"name": "f"}, {"name": "f", "args": None}):
            content = {"parts": [{"functionCall": call}]}
            events, _ = fed(
                provider, sse({"candidates": [{"content": content, "finishReason": "STOP"}]})
            )
            assert arguments_of(events, 0) == "{}"


class TestBedrockStreams:
    @pytest.mark.parametrize(
        ("kind", "outcome"),
        [
            ("throttlingException", Outcome.RATE_LIMITED),
            ("modelStreamErrorException", Outcome.SERVER_ERROR),
            ("modelTimeoutException", Outcome.TIMEOUT),
            ("internalServerException", Outcome.SERVER_ERROR),
            ("serviceUnavailableException", Outcome.OVERLOADED),
            ("validationException", Outcome.INVALID_REQUEST),
        ],
    )
    def test_an_exception_in_mid_stream_is_classified(self, kind: str, outcome: Outcome) -> None:
        data = event("contentBlockDelta", {"delta": {"text": "Hi"}})
        events, error = fed("amazon-bedrock", data + exception(kind, "sorry"))
        assert text_of(events) == "Hi"
        assert error is not None
        assert error.outcome is outcome

    def test_a_call_without_arguments_has_an_object_of_none(self) -> None:
        tool = {"toolUse": {"toolUseId": "c", "name": "f"}}
        data = (
            event("messageStart", {"role": "assistant"})
            + event("contentBlockStart", {"contentBlockIndex": 1, "start": tool})
            + event("contentBlockStop", {"contentBlockIndex": 1})
            + event("contentBlockDelta", {"contentBlockIndex": 2, "delta": None})
            + event("aNewEvent", {"x": 1})
            + event("messageStop", {"stopReason": "tool_use"})
            + event("metadata", {"usage": {"inputTokens": 1, "outputTokens": None}})
        )
        events, error = fed("amazon-bedrock", data)
        assert error is None
        assert [one for one in events if isinstance(one, ToolCallDelta)] == [
            ToolCallDelta(0, "c", "f", ""),
            ToolCallDelta(0, "", "", "{}"),
        ]

    def test_the_end_is_never_taken_for_granted(self) -> None:
        for data in (
            event("contentBlockDelta", {"delta": {"text": "Hi"}}),
            event("chunk", {"bytes": base64.b64encode(b'{"type":"ping"}').decode()}),
        ):
            _, error = fed("amazon-bedrock", data)
            assert isinstance(error, ProviderBrokenError)


class TestResponsesStreams:
    def test_openai_s_dialect_reads_them_and_passes_over_what_is_new(self) -> None:
        new = {"type": "response.new.thing", "delta": {"x": 1}, "item": 5, "output_index": "a"}
        done = {"type": "response.completed", "response": {**RESPONSE, "output": 7}}
        text = {"type": "response.output_text.delta", "delta": "Hi"}
        events, error = fed("openai", named(new, text, done))
        assert (text_of(events), error) == ("Hi", None)
        assert events[-1].usage.input_tokens == 5

    def test_a_known_event_of_another_shape_is_broken(self) -> None:
        _, error = fed("openai", named({"type": "response.output_text.delta", "delta": 5}))
        assert isinstance(error, ProviderBrokenError)

    @pytest.mark.parametrize(
        "failure",
        [
            {"type": "error", "code": "rate_limit_exceeded", "message": "x"},
            {"type": "error", "error": {"code": "rate_limit_exceeded", "message": "x"}},
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "rate_limit_exceeded"}},
            },
        ],
    )
    def test_each_form_of_a_failure_is_one(self, failure: dict[str, Any]) -> None:
        _, error = fed("openai", named(failure))
        assert isinstance(error, ProviderError)
        assert error.outcome is Outcome.RATE_LIMITED


def test_gemini_s_call_without_an_id_is_given_one() -> None:
    body = copy.deepcopy(GENERATE)
    del body["candidates"][0]["content"]["parts"][2]["functionCall"]["id"]
    assert parse("gemini", body).tool_calls == (ToolCall("call_r_0", "f", "{}"),)
