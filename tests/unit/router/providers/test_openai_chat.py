# SPDX-License-Identifier: Apache-2.0
"""Decoding chat completions: OpenAI, OpenRouter, and what others add to the format."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import (
    Finished,
    FinishReason,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.openai import OPENAI
from services.router.providers.openrouter import OPENROUTER
from services.router.providers.sse import EVENT_BYTES_MAX
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
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **extra: Any) -> Any:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"model": "gpt-4o-mini-2024-07-18", "choices": [choice], "obfuscation": "x", **extra}


HELLO = sse(
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Olá"}),
    chunk({"content": "!"}),
    chunk({}, "stop"),
    {"choices": [], "usage": USAGE},
    "[DONE]",
)


def decode(data: bytes, dialect: Any = OPENAI) -> Any:
    return drain(dialect.stream_decoder(now=NOW), [data])


def parse(body: Any, status: int = 200, dialect: Any = OPENAI) -> Any:
    return dialect.parse_response(status, {}, msgspec.json.encode(body), now=NOW)


@pytest.mark.requirement("R2")
class TestStream:
    def test_text_usage_and_end_arrive_in_order(self) -> None:
        events, error = decode(HELLO)
        assert error is None
        usage = Usage(
            input_tokens=20,
            output_tokens=7,
            cached_input_tokens=5,
            cache_write_tokens=3,
            reasoning_tokens=4,
        )
        assert text_of(events) == "Olá!"
        assert events[-2:] == [
            UsageReport(usage),
            Finished(FinishReason.STOP, usage, "gpt-4o-mini-2024-07-18"),
        ]

    def test_a_stream_without_usage_ends_without_usage(self) -> None:
        events, _ = decode(sse(chunk({"content": "a"}, "length"), "[DONE]"))
        assert events[-1] == Finished(FinishReason.LENGTH, None, "gpt-4o-mini-2024-07-18")

    @pytest.mark.parametrize(
        "data",
        [
            HELLO.removesuffix(b"data: [DONE]\n\n"),
            sse(chunk({"content": "a"}), "[DONE]"),
            b"",
            b"data: [DONE]\n\n",
            b'data: {"choices": [{"delta"',
        ],
    )
    def test_a_stream_without_its_end_is_cut_and_never_a_success(self, data: bytes) -> None:
        events, error = decode(data)
        assert isinstance(error, ProviderBrokenError)
        assert (error.outcome, error.billed) == (Outcome.NETWORK, Billed.MAYBE_BILLED)
        assert not any(isinstance(event, Finished) for event in events)

    def test_the_last_blank_line_may_be_missing(self) -> None:
        assert decode(HELLO.removesuffix(b"\n\n"))[1] is None

    @pytest.mark.parametrize("before", [b"", sse(chunk({"content": "a"}))])
    def test_a_failure_without_its_last_blank_line_is_still_told(self, before: bytes) -> None:
        failure = b'data: {"error": {"code": "insufficient_quota"}}'
        assert decode(before + failure)[1].outcome is Outcome.INSUFFICIENT_CREDIT
        failure = sse(chunk({"content": "a"}, "error")).rstrip()
        assert decode(before + failure)[1].outcome is Outcome.SERVER_ERROR

    def test_a_choice_without_a_delta_is_no_fault(self) -> None:
        assert decode(sse({"choices": [{"finish_reason": None}]}) + HELLO)[1] is None

    def test_nothing_counts_after_the_end(self) -> None:
        decoder = OPENAI.stream_decoder(now=NOW)
        decoder.feed(HELLO)
        assert decoder.done
        assert decoder.feed(b"data: nonsense\n\n") == []
        assert decoder.finish() == []

    def test_bytes_that_are_not_the_format_are_broken(self) -> None:
        _, error = decode(b"data: <html>\n\n")
        assert isinstance(error, ProviderBrokenError)
        assert error.outcome is Outcome.SERVER_ERROR

    def test_an_endless_event_is_broken_and_does_not_fill_the_memory(self) -> None:
        _, error = decode(b"data: " + b"x" * EVENT_BYTES_MAX)
        assert isinstance(error, ProviderBrokenError)

    def test_tool_calls_come_in_pieces(self) -> None:
        call = {"index": 0, "id": "call_1", "type": "function"}
        events, _ = decode(
            sse(
                chunk({"tool_calls": [{**call, "function": {"name": "f", "arguments": ""}}]}),
                chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
                chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
                chunk({"tool_calls": [{"index": 1, "id": "call_2"}]}),
                chunk({}, "tool_calls"),
                "[DONE]",
            )
        )
        assert events[0] == ToolCallDelta(0, "call_1", "f", "")
        assert arguments_of(events, 0) == '{"a":1}'
        assert events[-1].finish_reason is FinishReason.TOOL_CALLS

    def test_a_refusal_is_text_that_ends_filtered(self) -> None:
        events, _ = decode(sse(chunk({"refusal": "I can't."}), chunk({}, "stop"), "[DONE]"))
        assert text_of(events) == "I can't."
        assert events[-1].finish_reason is FinishReason.CONTENT_FILTER

    def test_a_first_chunk_without_choices_is_no_fault(self) -> None:
        first = {"choices": [], "id": "", "model": "", "prompt_filter_results": []}
        assert decode(sse(first) + HELLO)[1] is None

    def test_reasoning_of_other_providers_is_kept_apart(self) -> None:
        events, _ = decode(
            sse(
                chunk({"reasoning_content": "hm", "content": None}),
                chunk({"reasoning": "so", "reasoning_details": [{"type": "reasoning.text"}]}),
                chunk({"reasoning_details": [{"signature": "proof"}]}),
                chunk({"content": "391"}, "stop"),
                "[DONE]",
            )
        )
        assert (text_of(events), reasoning_of(events)) == ("391", "hmso")
        assert ReasoningDelta("", "proof") in events

    def test_deepseek_names_its_cached_tokens_otherwise(self) -> None:
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}
        events, _ = decode(sse(chunk({}, "stop", usage=usage), "[DONE]"))
        assert events[-1].usage.cached_input_tokens == 8

    def test_events_before_a_failure_are_given_before_it_is_raised(self) -> None:
        failure = {"error": {"message": "x", "type": "server_error", "code": None}}
        decoder = OPENAI.stream_decoder(now=NOW)
        events = decoder.feed(sse(chunk({"content": "half"}), failure))
        assert text_of(events) == "half"
        assert decoder.done
        with pytest.raises(ProviderError):
            decoder.feed(b"")
        with pytest.raises(ProviderError):
            decoder.finish()

    def test_plain_json_in_place_of_a_stream_is_classified(self) -> None:
        body = b'{\n  "error": {"code": "insufficient_quota", "message": "x"}\n}'
        assert decode(body)[1].outcome is Outcome.INSUFFICIENT_CREDIT

    @given(st.lists(st.integers(0, len(HELLO)), max_size=8))
    def test_cuts_never_change_a_stream(self, cuts: list[int]) -> None:
        assert_cuts_agree(lambda: OPENAI.stream_decoder(now=NOW), HELLO, cuts)


@pytest.mark.requirement("R2", "R11")
class TestOpenRouterStream:
    def test_comments_cost_and_the_usage_chunk_with_choices_are_read(self) -> None:
        usage = {**USAGE, "cost": 6.0000000001e-05, "is_byok": False}
        data = b": OPENROUTER PROCESSING\n\n" + sse(
            chunk({"content": "1"}),
            chunk({}, "stop"),
            chunk({"content": ""}, usage=usage),
            "[DONE]",
        )
        events, _ = decode(data, OPENROUTER)
        assert events[-1].usage.provider_cost_nano_usd == 60_001
        assert events[-1].finish_reason is FinishReason.STOP

    @pytest.mark.parametrize(
        ("code", "outcome"),
        [
            (502, Outcome.OVERLOADED),
            (429, Outcome.RATE_LIMITED),
            (500, Outcome.SERVER_ERROR),
            (402, Outcome.INSUFFICIENT_CREDIT),
        ],
    )
    def test_an_error_chunk_is_classified_by_its_own_code(
        self, code: int, outcome: Outcome
    ) -> None:
        failure = chunk({"content": ""}, "error", error={"code": code, "message": "x"})
        _, error = decode(sse(chunk({"content": "a"}), failure), OPENROUTER)
        assert (error.outcome, error.http_status) == (outcome, 200)
        assert error.billed is Billed.MAYBE_BILLED

    def test_a_token_limit_inside_the_stream_keeps_the_usage(self) -> None:
        failure = {"error": {"code": 400, "message": "Token limit reached"}, "usage": USAGE}
        _, error = decode(sse(failure), OPENROUTER)
        assert error.outcome is Outcome.CONTEXT_LENGTH
        assert error.usage.input_tokens == 20

    def test_errors_of_a_choice_and_bare_error_finishes_are_failures(self) -> None:
        choice = {"delta": {}, "finish_reason": "error", "error": {"code": 503, "message": "x"}}
        assert decode(sse({"choices": [choice]}), OPENROUTER)[1].outcome is Outcome.OVERLOADED
        assert decode(sse(chunk({}, "error")), OPENROUTER)[1].outcome is Outcome.SERVER_ERROR


@pytest.mark.requirement("R1")
class TestWholeAnswer:
    def message(self, message: dict[str, Any], finish: str = "stop", **extra: Any) -> Any:
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        return {"model": "m", "choices": [choice], **extra}

    def test_text_reasoning_and_usage_are_read(self) -> None:
        details = [{"type": "reasoning.text", "signature": "proof"}]
        body = self.message(
            {"content": "4", "reasoning": "2+2", "reasoning_details": details}, usage=USAGE
        )
        answer = parse(body)
        assert (answer.text, answer.reasoning, answer.reasoning_signature) == ("4", "2+2", "proof")
        assert answer.usage.reasoning_tokens == 4

    def test_tool_calls_are_read(self) -> None:
        function = {"name": "f", "arguments": "{}"}
        body = self.message(
            {"content": None, "tool_calls": [{"id": "c", "function": function}, {"id": "d"}]},
            "tool_calls",
        )
        answer = parse(body)
        assert [(call.id, call.name) for call in answer.tool_calls] == [("c", "f"), ("d", "")]
        assert answer.finish_reason is FinishReason.TOOL_CALLS

    def test_a_refusal_and_an_unknown_finish_have_their_words(self) -> None:
        refused = parse(self.message({"content": None, "refusal": "no"}))
        assert (refused.text, refused.finish_reason) == ("no", FinishReason.CONTENT_FILTER)
        assert parse(self.message({"content": ""}, "new")).finish_reason is FinishReason.OTHER

    def test_blanks_before_the_body_are_keep_alive(self) -> None:
        body = b"\n         \n" + msgspec.json.encode(self.message({"content": "a"}))
        assert OPENROUTER.parse_response(200, {}, body, now=NOW).text == "a"

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b"\xff"])
    def test_what_is_no_answer_is_broken(self, body: bytes) -> None:
        with pytest.raises(ProviderBrokenError):
            OPENAI.parse_response(200, {}, body, now=NOW)

    def test_a_200_with_an_error_is_an_error(self) -> None:
        for body in (
            {"error": {"code": 502, "message": "Provider returned error"}},
            {"choices": [{"error": {"code": 502, "message": "x"}, "finish_reason": "error"}]},
        ):
            with pytest.raises(ProviderError) as caught:
                parse(body, dialect=OPENROUTER)
            assert caught.value.outcome is Outcome.OVERLOADED
        with pytest.raises(ProviderError) as caught:
            parse({"choices": [{"finish_reason": "error"}]}, dialect=OPENROUTER)
        assert caught.value.outcome is Outcome.SERVER_ERROR
