# SPDX-License-Identifier: Apache-2.0
"""Decoding OpenAI's Responses format."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.outcomes import Outcome
from services.router.domain.text import FinishReason, ToolCallDelta
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.openai import OPENAI_ERRORS
from services.router.providers.openai_responses import ResponsesDecoder, parse_responses
from tests.support.provider_streams import (
    NOW,
    arguments_of,
    assert_cuts_agree,
    drain,
    reasoning_of,
    sse,
    text_of,
)

USAGE = {
    "input_tokens": 11,
    "output_tokens": 6,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens_details": {"reasoning_tokens": 3},
}
QUOTA = {"code": "insufficient_quota", "message": "You exceeded your current quota"}


def created() -> dict[str, Any]:
    return {"type": "response.created", "response": {"model": "gpt-5", "status": "in_progress"}}


def ended(kind: str, **fields: Any) -> dict[str, Any]:
    response = {"model": "gpt-5-2025", "status": kind, "usage": USAGE, **fields}
    return {"type": f"response.{kind}", "response": response}


STREAM = sse(
    created(),
    {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
    {"type": "response.reasoning_summary_text.delta", "delta": "thinking"},
    {"type": "response.output_text.delta", "delta": "Hi"},
    {"type": "response.output_text.delta", "delta": " there"},
    {"type": "response.something_new", "field": 1},
    ended("completed"),
)


def decode(data: bytes) -> Any:
    return drain(ResponsesDecoder(OPENAI_ERRORS, now=NOW), [data])


@pytest.mark.requirement("R2")
class TestStream:
    def test_text_reasoning_usage_and_end_are_read(self) -> None:
        events, error = decode(STREAM)
        assert error is None
        assert (text_of(events), reasoning_of(events)) == ("Hi there", "thinking")
        end = events[-1]
        assert (end.finish_reason, end.model) == (FinishReason.STOP, "gpt-5-2025")
        assert (end.usage.input_tokens, end.usage.output_tokens) == (11, 6)
        assert (end.usage.cached_input_tokens, end.usage.reasoning_tokens) == (2, 3)

    def test_function_calls_are_numbered_among_themselves(self) -> None:
        item = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": ""}
        delta = {"type": "response.function_call_arguments.delta", "output_index": 1}
        events, _ = decode(
            sse(
                {"type": "response.output_item.added", "output_index": 1, "item": item},
                {**delta, "delta": '{"a"'},
                {**delta, "delta": ":1}"},
                ended("completed"),
            )
        )
        assert events[0] == ToolCallDelta(0, "call_1", "f", "")
        assert arguments_of(events, 0) == '{"a":1}'
        assert events[-1].finish_reason is FinishReason.TOOL_CALLS

    @pytest.mark.parametrize(
        ("reason", "finish"),
        [
            ("max_output_tokens", FinishReason.LENGTH),
            ("content_filter", FinishReason.CONTENT_FILTER),
            ("new", FinishReason.OTHER),
        ],
    )
    def test_an_incomplete_response_says_why(self, reason: str, finish: FinishReason) -> None:
        events, _ = decode(sse(ended("incomplete", incomplete_details={"reason": reason})))
        assert events[-1].finish_reason is finish

    def test_a_refusal_ends_filtered(self) -> None:
        refusal = {"type": "response.refusal.delta", "delta": "no"}
        events, _ = decode(sse(refusal, ended("completed")))
        assert text_of(events) == "no"
        assert events[-1].finish_reason is FinishReason.CONTENT_FILTER

    @pytest.mark.parametrize(
        "failure",
        [
            {"type": "error", "error": QUOTA},
            {"type": "error", **QUOTA},
            {"type": "response.failed", "response": {"status": "failed", "error": QUOTA}},
        ],
    )
    def test_a_failure_after_the_200_is_classified(self, failure: dict[str, Any]) -> None:
        _, error = decode(sse(created(), failure))
        assert error.outcome is Outcome.INSUFFICIENT_CREDIT

    def test_a_cut_stream_is_broken(self) -> None:
        _, error = decode(sse(created(), {"type": "response.output_text.delta", "delta": "a"}))
        assert isinstance(error, ProviderBrokenError)

    def test_plain_json_in_place_of_a_stream_is_classified(self) -> None:
        assert decode(b'{"error": {"code": "model_not_found"}}')[1].outcome is (
            Outcome.MODEL_NOT_FOUND
        )

    def test_empty_deltas_and_responses_without_usage_are_no_fault(self) -> None:
        events, error = decode(
            sse(
                {"type": "response.output_text.delta", "delta": ""},
                {"type": "response.reasoning_text.delta", "delta": ""},
                {"type": "response.completed", "response": {"status": "completed"}},
            )
        )
        assert error is None
        assert [event.usage for event in events] == [None]

    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_cuts_never_change_a_stream(self, cuts: list[int]) -> None:
        assert_cuts_agree(lambda: ResponsesDecoder(OPENAI_ERRORS, now=NOW), STREAM, cuts)


def parse(body: Any, status: int = 200) -> Any:
    return parse_responses(OPENAI_ERRORS, status, {}, msgspec.json.encode(body), now=NOW)


@pytest.mark.requirement("R1")
class TestWholeAnswer:
    def test_output_items_are_put_together(self) -> None:
        answer = parse(
            {
                "model": "gpt-5",
                "status": "completed",
                "output": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                ],
                "usage": USAGE,
            }
        )
        assert (answer.text, answer.reasoning) == ("Hi", "hm")
        assert answer.tool_calls[0].name == "f"
        assert answer.finish_reason is FinishReason.TOOL_CALLS

    @pytest.mark.parametrize(
        ("status", "body", "outcome"),
        [
            (200, {"status": "failed", "error": QUOTA}, Outcome.INSUFFICIENT_CREDIT),
            (200, {"status": "in_progress"}, Outcome.SERVER_ERROR),
            (429, {"error": QUOTA}, Outcome.INSUFFICIENT_CREDIT),
            (400, {"error": {"code": "model_not_found"}}, Outcome.MODEL_NOT_FOUND),
        ],
    )
    def test_failures_are_classified(self, status: int, body: Any, outcome: Outcome) -> None:
        with pytest.raises(ProviderError) as caught:
            parse(body, status)
        assert caught.value.outcome is outcome

    def test_what_is_no_answer_is_broken(self) -> None:
        with pytest.raises(ProviderBrokenError):
            parse_responses(OPENAI_ERRORS, 200, {}, b"<html>", now=NOW)
