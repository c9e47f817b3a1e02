# SPDX-License-Identifier: Apache-2.0
"""Answers and streams in the shapes of the SDKs, read back by the SDKs' own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from services.router.domain.attempts import OK, AttemptBilled, AttemptRecord, Receipt, UsageBasis
from services.router.domain.plan import Funding
from services.router.domain.text import (
    FinishReason,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from services.router.errors import StreamBrokenError
from services.router.http.anthropic_answer import MessageAnswer
from services.router.http.door import Answer
from services.router.http.openai_answer import ChatAnswer
from services.router.usecases.engine import Started

EVENTS: tuple[StreamEvent, ...] = (
    ReasoningDelta("Let me "),
    ReasoningDelta("see", "proof"),
    TextDelta("Rain"),
    TextDelta(" there"),
    ToolCallDelta(0, "t1", "weather", '{"city":'),
    ToolCallDelta(0, "", "", '"Oslo"}'),
    ToolCallDelta(1, "t2", "clock", ""),
)
STARTED = Started(
    payer=Funding.OWN_KEY, provider="p", model="v/m", key_hint="sk-…1234", fallback=False
)
RECEIPT = Receipt(
    attempts=(
        AttemptRecord(
            provider="p",
            model="v/m",
            provider_model="m",
            funding=Funding.OWN_KEY,
            key="accounts/demo/keys/main",
            key_hint="sk-…1234",
            outcome=OK,
            billed=AttemptBilled.YES,
            latency_seconds=0.25,
            fallback=False,
            usage=Usage(
                input_tokens=100, output_tokens=20, cached_input_tokens=60, cache_write_tokens=10
            ),
            basis=UsageBasis.EXACT,
            cost_nano_usd=7,
        ),
    ),
    price=None,
    settled=True,
    notes=(),
    finish_reason=FinishReason.TOOL_CALLS,
)


def whole(answer: Answer) -> dict[str, Any]:
    """Write the events as one answer, over the wire."""
    for event in EVENTS:
        answer.add(event)
    written: dict[str, Any] = json.loads(json.dumps(answer.whole(RECEIPT)))
    return written


def streamed(answer: Answer) -> list[dict[str, Any]]:
    """Write the events as a stream; give the data of its events."""
    data = answer.begin(STARTED) + b"".join(map(answer.delta, EVENTS)) + answer.finish(RECEIPT)
    lines = [line for line in data.decode().splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


class TestOpenAI:
    @pytest.mark.requirement("O9", "R1")
    def test_a_whole_answer(self) -> None:
        answer = ChatAnswer("1", created=5, include_usage=False)
        completion = ChatCompletion.model_validate(whole(answer), strict=True)
        message = completion.choices[0].message
        assert message.content == "Rain there"
        calls = [call.to_dict() for call in message.tool_calls or ()]
        assert [call["function"] for call in calls] == [
            {"name": "weather", "arguments": '{"city":"Oslo"}'},
            {"name": "clock", "arguments": ""},
        ]
        assert completion.choices[0].finish_reason == "tool_calls"
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == 100

    @pytest.mark.requirement("O9", "R2")
    def test_a_stream(self) -> None:
        """A call's first chunk alone has its id and name; the usage comes last."""
        answer = ChatAnswer("1", created=5, include_usage=True)
        chunks = [ChatCompletionChunk.model_validate(c, strict=True) for c in streamed(answer)]
        pieces = [
            (call.index, call.id, call.function and call.function.arguments)
            for chunk in chunks
            for choice in chunk.choices
            for call in choice.delta.tool_calls or ()
        ]
        assert pieces == [(0, "t1", '{"city":'), (0, None, '"Oslo"}'), (1, "t2", "")]
        assert chunks[-1].usage is not None
        assert chunks[-2].choices[0].finish_reason == "tool_calls"


class TestAnthropic:
    @pytest.mark.requirement("O9", "R1")
    def test_a_whole_answer(self) -> None:
        """Its input leaves out what the cache read and wrote."""
        message = Message.model_validate(whole(MessageAnswer("1")), strict=True)
        thinking, text, weather, clock = (block.to_dict() for block in message.content)
        assert thinking == {"type": "thinking", "thinking": "Let me see", "signature": "proof"}
        assert text["text"] == "Rain there"
        assert (weather["input"], clock["input"]) == ({"city": "Oslo"}, {})
        assert message.stop_reason == "tool_use"
        assert message.usage.input_tokens == 30
        assert message.usage.cache_read_input_tokens == 60

    @pytest.mark.requirement("O9", "R2")
    def test_a_stream_opens_and_closes_each_block_once(self) -> None:
        events = streamed(MessageAnswer("1"))
        kinds = [(event["type"], event.get("index")) for event in events]
        assert kinds[0] == ("message_start", None)
        assert kinds[-2:] == [("message_delta", None), ("message_stop", None)]
        for index in range(4):
            of_block = [kind for kind, at in kinds if at == index]
            assert of_block[0] == "content_block_start"
            assert of_block[-1] == "content_block_stop"
            assert set(of_block[1:-1]) == {"content_block_delta"}
        starts = [event for event in events if event["type"] == "content_block_start"]
        assert starts[2]["content_block"]["input"] == {}
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
        assert {"type": "signature_delta", "signature": "proof"} in deltas
        (attempt,) = events[-2]["ownkey"]["attempts"]
        assert attempt["key_hint"] == "sk-…1234"
        assert attempt["latency"] == "0.250s"


@pytest.mark.requirement("O9", "R2", "R11")
@pytest.mark.parametrize(
    "answer", [ChatAnswer("1", created=5, include_usage=False), MessageAnswer("1")]
)
def test_a_stream_that_breaks_off_tells_its_attempts(answer: Answer) -> None:
    data = answer.broken(StreamBrokenError("broke off", attempts=RECEIPT.attempts)).decode()
    error = json.loads(data.partition("data: ")[2])["error"]
    assert [attempt["provider"] for attempt in error["attempts"]] == ["p"]
