# SPDX-License-Identifier: Apache-2.0
"""Decoding Anthropic's Messages format."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    FinishReason,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from services.router.providers.anthropic import ANTHROPIC
from services.router.providers.base import ProviderBrokenError, ProviderError
from tests.support.provider_streams import (
    NOW,
    arguments_of,
    assert_cuts_agree,
    drain,
    sse,
    text_of,
)

START_USAGE = {
    "input_tokens": 16,
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 1000,
    "output_tokens": 1,
}


def start() -> dict[str, Any]:
    message = {"model": "claude-sonnet-4-6", "content": [], "usage": START_USAGE}
    return {"type": "message_start", "message": message}


def block(index: int, content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(reason: str | None = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    end = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}
    return [end, {"type": "message_stop"}]


STREAM = sse(
    start(),
    block(0, {"type": "text", "text": ""}),
    {"type": "ping"},
    delta(0, "text_delta", text="Olá"),
    delta(0, "text_delta", text="!"),
    {"type": "content_block_stop", "index": 0},
    *stop(output_tokens=38),
)


def decode(data: bytes) -> Any:
    return drain(ANTHROPIC.stream_decoder(now=NOW), [data])


@pytest.mark.requirement("R2")
class TestStream:
    def test_usage_is_cumulative_and_includes_the_cache(self) -> None:
        events, error = decode(STREAM)
        assert error is None
        assert text_of(events) == "Olá!"
        reports = [event.usage for event in events if isinstance(event, UsageReport)]
        counts = {"input_tokens": 1116, "cached_input_tokens": 1000, "cache_write_tokens": 100}
        assert reports == [Usage(output_tokens=1, **counts), Usage(output_tokens=38, **counts)]
        assert events[-1].usage == reports[-1]
        assert (events[-1].finish_reason, events[-1].model) == (
            FinishReason.STOP,
            "claude-sonnet-4-6",
        )

    def test_tool_calls_thinking_and_their_proofs_are_read(self) -> None:
        events, _ = decode(
            sse(
                start(),
                block(0, {"type": "thinking", "thinking": "", "signature": ""}),
                delta(0, "thinking_delta", thinking="hm"),
                delta(0, "signature_delta", signature="proof"),
                block(1, {"type": "redacted_thinking", "data": "opaque"}),
                block(2, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}),
                delta(2, "input_json_delta", partial_json=""),
                delta(2, "input_json_delta", partial_json='{"a":1}'),
                block(3, {"type": "server_tool_use", "id": "s", "name": "web_search"}),
                delta(3, "input_json_delta", partial_json='{"query":"x"}'),
                block(4, {"type": "text", "text": "at once"}),
                delta(4, "text_delta", text=""),
                *stop("tool_use"),
            )
        )
        assert ReasoningDelta("hm") in events
        assert ReasoningDelta("", "proof") in events
        assert ReasoningDelta("", "redacted:opaque") in events
        assert ToolCallDelta(0, "toolu_1", "f", "") in events
        assert arguments_of(events, 0) == '{"a":1}'
        assert text_of(events) == "at once"
        assert events[-1].finish_reason is FinishReason.TOOL_CALLS

    @pytest.mark.parametrize(
        ("reason", "finish"),
        [
            ("stop_sequence", FinishReason.STOP),
            ("max_tokens", FinishReason.LENGTH),
            ("refusal", FinishReason.CONTENT_FILTER),
            ("pause_turn", FinishReason.OTHER),
        ],
    )
    def test_stop_reasons_have_their_words(self, reason: str, finish: FinishReason) -> None:
        assert decode(sse(start(), *stop(reason)))[0][-1].finish_reason is finish

    def test_the_last_blank_line_may_be_missing(self) -> None:
        assert decode(STREAM.removesuffix(b"\n\n"))[1] is None

    def test_unknown_events_are_ignored(self) -> None:
        assert decode(sse({"type": "new_thing", "x": 1}) + STREAM)[1] is None

    @pytest.mark.parametrize(
        "data",
        [
            sse(start(), delta(0, "text_delta", text="a")),
            sse(start(), {"type": "message_stop"}),
            sse(start(), *stop()[:1]),
            b"",
        ],
    )
    def test_a_stream_without_its_end_is_never_a_success(self, data: bytes) -> None:
        assert isinstance(decode(data)[1], ProviderBrokenError)

    def test_an_error_event_is_classified_and_keeps_the_usage(self) -> None:
        failure = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
        _, error = decode(sse(start(), failure))
        assert (error.outcome, error.http_status) == (Outcome.OVERLOADED, 200)
        assert error.usage.input_tokens == 1116

    def test_plain_json_in_place_of_a_stream_is_classified(self) -> None:
        body = b'{"type":"error","error":{"type":"rate_limit_error","message":"x"}}'
        assert decode(body)[1].outcome is Outcome.RATE_LIMITED

    def test_missing_parts_of_events_are_no_fault(self) -> None:
        bare = [{"type": name} for name in ("content_block_delta", "content_block_start")]
        bare += [{"type": "message_start"}, {"type": "message_delta"}]
        assert decode(sse(*bare) + STREAM)[1] is None

    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_cuts_never_change_a_stream(self, cuts: list[int]) -> None:
        assert_cuts_agree(lambda: ANTHROPIC.stream_decoder(now=NOW), STREAM, cuts)


def parse(body: Any, status: int = 200) -> Any:
    return ANTHROPIC.parse_response(status, {}, msgspec.json.encode(body), now=NOW)


@pytest.mark.requirement("R1")
class TestWholeAnswer:
    def test_blocks_are_put_together(self) -> None:
        answer = parse(
            {
                "model": "claude-haiku-4-5",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "proof"},
                    {"type": "text", "text": "a"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
                    {"type": "text", "text": "b"},
                ],
                "stop_reason": "tool_use",
                "usage": START_USAGE,
            }
        )
        assert (answer.text, answer.reasoning, answer.reasoning_signature) == ("ab", "hm", "proof")
        assert answer.tool_calls[0].arguments == '{"x":1}'
        assert answer.usage.input_tokens == 1116

    def test_proofs_of_several_blocks_are_not_joined(self) -> None:
        thinking = {"type": "thinking", "thinking": "a", "signature": "one"}
        content = [thinking, {**thinking, "signature": "two"}]
        answer = parse({"content": content, "stop_reason": "end_turn"})
        assert (answer.reasoning, answer.reasoning_signature, answer.usage) == ("aa", "", None)

    def test_an_error_under_a_200_is_an_error(self) -> None:
        with pytest.raises(ProviderError) as caught:
            parse({"type": "error", "error": {"type": "api_error", "message": "x"}})
        assert caught.value.outcome is Outcome.SERVER_ERROR

    @pytest.mark.parametrize("body", [{}, {"content": []}, {"content": [], "stop_reason": None}])
    def test_what_is_no_answer_is_broken(self, body: Any) -> None:
        with pytest.raises(ProviderBrokenError):
            parse(body)
        with pytest.raises(ProviderBrokenError):
            ANTHROPIC.parse_response(200, {}, b"<html>", now=NOW)
