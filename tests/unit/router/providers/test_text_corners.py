# SPDX-License-Identifier: Apache-2.0
"""Text dialects at their edges: refusals, what DeepSeek lacks, and how streams are cut."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.media import ImageCall
from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    FinishReason,
    ImagePart,
    Message,
    ReasoningDelta,
    ReasoningEffort,
    ReasoningPart,
    ResponseSchema,
    Role,
    TextPart,
    ToolResult,
)
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.event_stream import EventStreamParser
from services.router.providers.registry import DIALECTS
from services.router.providers.sse import SSEEvent, SSEParser
from simulator.converse_format import event
from tests.support.provider_streams import (
    NOW,
    TEXT_PROVIDERS,
    credential,
    credential_of,
    cut_at,
    drain,
    text_call,
)

pytestmark = pytest.mark.requirement("R1", "R2")

IMAGE = Message(Role.USER, (ImagePart("image/png", b"x"),))
SCHEMA = ResponseSchema(name="s", schema_json="{}")


@pytest.mark.requirement("R11")
@pytest.mark.parametrize("provider", TEXT_PROVIDERS)
def test_a_whole_answer_of_another_status_is_a_refusal(provider: str) -> None:
    with pytest.raises(ProviderError) as caught:
        DIALECTS[provider].parse_response(429, {"retry-after": "3"}, b"{}", now=NOW)
    assert (caught.value.outcome, caught.value.retry_after_seconds) == (Outcome.RATE_LIMITED, 3.0)


@pytest.mark.parametrize("provider", ["anthropic", "deepseek", "amazon-bedrock"])
def test_work_of_another_kind_is_named_as_lacking(provider: str) -> None:
    call = ImageCall(model="m", prompt="a cat", count=1)
    assert DIALECTS[provider].unsupported(call) == ["requests for images"]


@pytest.mark.requirement("R8")
class TestDeepSeek:
    @pytest.mark.parametrize(
        ("fields", "lacking"),
        [
            ({"messages": (IMAGE,)}, "messages.image"),
            ({"seed": 1}, "seed"),
            ({"top_k": 1}, "top_k"),
            ({"response_schema": SCHEMA}, "response_schema"),
            ({"reasoning_effort": ReasoningEffort.MINIMAL}, "reasoning_effort"),
            ({"model": "deepseek-v4-pro", "temperature": 0.5}, "temperature"),
            ({"model": "deepseek-v4-pro", "top_p": 0.5}, "top_p"),
        ],
    )
    def test_what_it_lacks_is_named_before_anything_is_sent(
        self, fields: dict[str, Any], lacking: str
    ) -> None:
        call = text_call(**{"model": "deepseek-chat", **fields})
        assert lacking in DIALECTS["deepseek"].unsupported(call)

    @pytest.mark.parametrize(
        ("effort", "thinking"),
        [(ReasoningEffort.NONE, "disabled"), (ReasoningEffort.LOW, "enabled")],
    )
    def test_thinking_is_switched(self, effort: ReasoningEffort, thinking: str) -> None:
        call = text_call(model="deepseek-v4-flash", reasoning_effort=effort)
        request = DIALECTS["deepseek"].build_request(call, credential(), base_url="https://e.com")
        assert msgspec.json.decode(request.body)["thinking"] == {"type": thinking}

    def test_earlier_thoughts_go_back_as_text(self) -> None:
        said = Message(Role.ASSISTANT, (ReasoningPart("hm", ""), TextPart("Hi")))
        plain = Message(Role.ASSISTANT, (TextPart("Hi"),))
        call = text_call(model="deepseek-v4-flash", messages=(said, plain))
        request = DIALECTS["deepseek"].build_request(call, credential(), base_url="https://e.com")
        first, second = msgspec.json.decode(request.body)["messages"]
        assert first["reasoning_content"] == "hm"
        assert "reasoning_content" not in second


class TestBedrock:
    def test_redacted_thinking_is_proof_and_metadata_alone_is_no_end(self) -> None:
        redacted = {"delta": {"reasoningContent": {"redactedContent": "eHl6"}}}
        data = (
            event("contentBlockStart", {"contentBlockIndex": 0, "start": None})
            + event("contentBlockDelta", redacted)
            + event("metadata", {})
            + event("messageStop", {"stopReason": "end_turn"})
            + event("metadata", {"usage": None})
        )
        events, error = drain(DIALECTS["amazon-bedrock"].stream_decoder(now=NOW), [data])
        assert error is None
        assert events[0] == ReasoningDelta("", "redacted:eHl6")
        assert events[-1].finish_reason is FinishReason.STOP

    @pytest.mark.requirement("K11")
    def test_a_refused_test_names_the_region_that_was_tried(self) -> None:
        probe = DIALECTS["amazon-bedrock"].probe(
            credential_of("amazon-bedrock"), base_url="https://{host}"
        )
        assert probe.next_request() is not None
        body = b'{"Message": "Authentication failed: Please make sure your API Key is valid."}'
        probe.feed(403, {}, body, now=NOW)
        while probe.next_request() is not None:
            probe.feed(403, {}, body, now=NOW)
        result = probe.result()
        assert result.outcome is Outcome.INVALID_KEY
        assert "us-east-1" in result.detail

    def test_a_part_in_the_wrong_message_is_a_bug(self) -> None:
        call = text_call(messages=(Message(Role.USER, (ToolResult("c", "d"), object())),))
        with pytest.raises(TypeError, match="Converse"):
            DIALECTS["amazon-bedrock"].build_request(
                call, credential_of("amazon-bedrock"), base_url="https://{host}"
            )

    def test_many_kinds_and_lengths_are_read_though_few_are_remembered(self) -> None:
        data = b"".join(event(f"kind{number}", {"x": "y" * number}) for number in range(300))
        names = [found.event for found in EventStreamParser().feed(data)]
        assert names == [f"event/kind{number}".encode() for number in range(300)]


def test_thinking_gives_way_to_no_other_sampling() -> None:
    call = text_call(
        model="claude-sonnet-4-5", reasoning_effort=ReasoningEffort.LOW, top_k=5, top_p=0.5
    )
    assert {"top_k", "top_p"} <= set(DIALECTS["anthropic"].unsupported(call))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_bedrock_like_page_is_no_stream(provider: str) -> None:
    _, error = drain(DIALECTS[provider].stream_decoder(now=NOW), [b"\x00\x00\x00\xb3junk\n\n"])
    assert isinstance(error, ProviderBrokenError)


FORMS = {
    b"data: a\n\n": [(b"", b"a")],
    b"data:b\n\n": [(b"", b"b")],
    b"event: c\ndata: d\n\n": [(b"c", b"d")],
    b"data: e\r\n\r\n": [(b"", b"e")],
    b"event: f\r\ndata: g\r\n\r\n": [(b"f", b"g")],
    b"data: h\rdata: i\r\r": [(b"", b"h\ni")],
    b"data: j\ndata: k\n\n": [(b"", b"j\nk")],
    b"data: l\nid: 1\n\n": [(b"", b"l")],
    b"event: m\nid: 1\ndata: n\n\n": [(b"m", b"n")],
    b"event: o\n\n": [],
    b": comment\n\n": [],
    b"\n\n": [],
}


@given(st.lists(st.sampled_from(sorted(FORMS)), max_size=12), st.data())
def test_every_form_of_an_event_is_read_in_every_neighbourhood_and_cut(
    forms: list[bytes], data: st.DataObject
) -> None:
    stream = b": first\n" + b"".join(forms)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    parser = SSEParser()
    found = [one for piece in cut_at(stream, cuts) for one in parser.feed(piece)]
    found += parser.finish()
    assert found == [SSEEvent(*one) for form in forms for one in FORMS[form]]
