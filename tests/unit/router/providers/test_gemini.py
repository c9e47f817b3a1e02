# SPDX-License-Identifier: Apache-2.0
"""Decoding the Gemini API's format."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import Finished, FinishReason, ToolCallDelta, Usage
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.gemini import GEMINI
from services.router.providers.sse import EVENT_BYTES_MAX
from tests.support.provider_streams import (
    NOW,
    assert_cuts_agree,
    drain,
    reasoning_of,
    sse,
    text_of,
)

USAGE = {
    "promptTokenCount": 11,
    "candidatesTokenCount": 2,
    "thoughtsTokenCount": 24,
    "cachedContentTokenCount": 5,
    "totalTokenCount": 37,
}
NORMALISED = Usage(input_tokens=11, output_tokens=26, cached_input_tokens=5, reasoning_tokens=24)


def piece(parts: list[dict[str, Any]], finish: str | None = None, **extra: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "modelVersion": "gemini-2.5-flash",
        "responseId": "R1",
        **extra,
    }


STREAM = sse(
    piece([{"text": "hm", "thought": True}], usageMetadata={"promptTokenCount": 11}),
    piece([{"text": "Ol"}], usageMetadata={"promptTokenCount": 11, "candidatesTokenCount": 1}),
    piece([{"text": "á!"}], "STOP", usageMetadata=USAGE),
    end="\r\n\r\n",
)


ARRAY = (
    b"["
    + b"\n,\r\n".join(event.removeprefix(b"data: ") for event in STREAM.split(b"\r\n\r\n") if event)
    + b"\n]"
)


def decode(data: bytes) -> Any:
    return drain(GEMINI.stream_decoder(now=NOW), [data])


@pytest.mark.requirement("R2")
class TestStream:
    def test_the_last_usage_counts_and_thoughts_are_output(self) -> None:
        events, error = decode(STREAM)
        assert error is None
        assert (text_of(events), reasoning_of(events)) == ("Olá!", "hm")
        assert events[-1] == Finished(FinishReason.STOP, NORMALISED, "gemini-2.5-flash")

    def test_the_end_is_the_close_after_a_finish_reason(self) -> None:
        decoder = GEMINI.stream_decoder(now=NOW)
        decoder.feed(STREAM)
        assert not decoder.done
        assert [type(event) for event in decoder.finish()] == [Finished]

    @pytest.mark.parametrize("data", [b"", sse(piece([{"text": "a"}])), STREAM[:-40]])
    def test_a_close_without_a_finish_reason_is_a_cut(self, data: bytes) -> None:
        _, error = decode(data)
        assert isinstance(error, ProviderBrokenError)
        assert error.outcome is Outcome.NETWORK

    def test_function_calls_arrive_whole_and_keep_their_signature(self) -> None:
        call = {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "sig"}
        named = {"functionCall": {"name": "g", "id": "own"}}
        events, _ = decode(sse(piece([call, named], "STOP")))
        assert events[:2] == [
            ToolCallDelta(0, "call_R1_0", "f", '{"a":1}', "sig"),
            ToolCallDelta(1, "own", "g", "{}", ""),
        ]
        assert events[-1].finish_reason is FinishReason.TOOL_CALLS

    def test_a_blocked_prompt_is_filtered(self) -> None:
        body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": USAGE}
        _, error = decode(sse(body))
        assert (error.outcome, error.billed) == (Outcome.CONTENT_FILTERED, Billed.MAYBE_BILLED)
        assert error.usage == NORMALISED

    @pytest.mark.parametrize(
        "failure",
        [
            sse({"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}),
            b'{\n  "error": {\n "code": 503,\n "status": "UNAVAILABLE"\n }\n}\n',
            b'[{\n  "error": {\n "code": 503,\n "status": "UNAVAILABLE"\n }\n}\n]',
        ],
    )
    def test_errors_after_the_200_are_found_framed_or_bare(self, failure: bytes) -> None:
        events, error = decode(sse(piece([{"text": "half"}])) + failure)
        assert text_of(events) == "half"
        assert error.outcome is Outcome.OVERLOADED

    def test_a_piece_with_usage_alone_is_no_fault(self) -> None:
        events, _ = decode(STREAM + sse({"usageMetadata": USAGE}))
        assert events[-1].usage == NORMALISED

    def test_empty_text_is_no_event(self) -> None:
        events, _ = decode(sse(piece([{"text": ""}], "STOP")))
        assert [type(event) for event in events] == [Finished]

    def test_candidates_without_content_are_no_fault(self) -> None:
        events, _ = decode(sse({"candidates": [{"finishReason": "MAX_TOKENS"}]}))
        assert events == [Finished(FinishReason.LENGTH, None, "")]

    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_cuts_never_change_a_stream(self, cuts: list[int]) -> None:
        assert_cuts_agree(lambda: GEMINI.stream_decoder(now=NOW), STREAM, cuts)


def parse(body: Any, status: int = 200) -> Any:
    return GEMINI.parse_response(status, {}, msgspec.json.encode(body), now=NOW)


@pytest.mark.requirement("R2")
class TestJSONArray:
    def test_it_means_the_same_as_events(self) -> None:
        assert decode(b" \n" + ARRAY) == decode(STREAM)

    def test_braces_and_quotes_inside_text_do_not_matter(self) -> None:
        text = '"}{\\" \\\\ }'
        body = msgspec.json.encode([piece([{"text": text}], "STOP")])
        assert text_of(decode(body)[0]) == text

    def test_an_array_that_is_cut_or_closes_too_often_is_no_success(self) -> None:
        assert isinstance(decode(ARRAY[:-60])[1], ProviderBrokenError)
        assert isinstance(decode(b"[}]")[1], ProviderBrokenError)

    def test_an_endless_object_is_broken(self) -> None:
        assert decode(b'[{"' + b"x" * EVENT_BYTES_MAX)[1].outcome is Outcome.SERVER_ERROR

    @pytest.mark.parametrize("form", [b"%s", b"[%s]"])
    def test_an_error_in_place_of_the_stream_is_classified(self, form: bytes) -> None:
        body = form % b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}'
        assert decode(body)[1].outcome is Outcome.RATE_LIMITED

    @given(st.lists(st.integers(0, len(ARRAY)), max_size=8))
    def test_cuts_never_change_it(self, cuts: list[int]) -> None:
        data = ARRAY.replace(b"Ol", b'\\"{\\\\')
        assert_cuts_agree(lambda: GEMINI.stream_decoder(now=NOW), data, cuts)


@pytest.mark.requirement("R1")
class TestWholeAnswer:
    def test_text_thoughts_and_calls_are_kept_apart(self) -> None:
        parts = [
            {"text": "hm", "thought": True},
            {"text": "a"},
            {"functionCall": {"name": "f", "args": {}}},
        ]
        answer = parse(piece(parts, "STOP", usageMetadata=USAGE))
        assert (answer.text, answer.reasoning) == ("a", "hm")
        assert answer.tool_calls[0].name == "f"
        assert (answer.finish_reason, answer.usage) == (FinishReason.TOOL_CALLS, NORMALISED)

    @pytest.mark.parametrize(
        ("reason", "finish"),
        [
            ("MAX_TOKENS", FinishReason.LENGTH),
            ("SAFETY", FinishReason.CONTENT_FILTER),
            ("MALFORMED_FUNCTION_CALL", FinishReason.OTHER),
        ],
    )
    def test_finish_reasons_have_their_words(self, reason: str, finish: FinishReason) -> None:
        assert parse(piece([], reason)).finish_reason is finish

    def test_a_blocked_prompt_and_an_error_under_a_200_are_errors(self) -> None:
        for body, outcome in (
            ({"promptFeedback": {"blockReason": "OTHER"}}, Outcome.CONTENT_FILTERED),
            ({"error": {"code": 500, "status": "INTERNAL"}}, Outcome.SERVER_ERROR),
        ):
            with pytest.raises(ProviderError) as caught:
                parse(body)
            assert caught.value.outcome is outcome

    @pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"candidates":[]}'])
    def test_what_is_no_answer_is_broken(self, body: bytes) -> None:
        with pytest.raises(ProviderBrokenError):
            GEMINI.parse_response(200, {}, body, now=NOW)

    def test_tokens_that_the_provider_s_tools_read_are_input(self) -> None:
        usage = {**USAGE, "toolUsePromptTokenCount": 9}
        assert parse(piece([], "STOP", usageMetadata=usage)).usage.input_tokens == 20
