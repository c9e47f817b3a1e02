# SPDX-License-Identifier: Apache-2.0
"""The SDKs' requests as the door reads them: every field is understood, or refused by its path."""

from __future__ import annotations

from typing import Any

import pytest
from ownkey.router.v1 import text_pb2 as pb

from services.router.domain.text import REDACTED, ReasoningDelta, TextDelta
from services.router.http.anthropic_answer import MessageAnswer
from services.router.http.anthropic_request import read_messages
from services.router.http.openai_request import read_chat
from services.shared.errors import InvalidArgumentError

USER = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> pb.TextInput:
    """Read an OpenAI request."""
    return read_chat({"model": "m", "messages": USER, **fields}).input


def messages(**fields: Any) -> pb.TextInput:
    """Read an Anthropic request."""
    return read_messages({"model": "m", "max_tokens": 9, "messages": USER, **fields}).input


def refused(read: Any, **fields: Any) -> str:
    """Read what must be refused, and give the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        read(**fields)
    return caught.value.metadata["field"]


FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.requirement("O9", "R1")
class TestToolChoice:
    @pytest.mark.parametrize(
        ("value", "mode", "name"),
        [
            ("none", pb.TOOL_MODE_NONE, ""),
            ("required", pb.TOOL_MODE_REQUIRED, ""),
            (FUNCTION, pb.TOOL_MODE_REQUIRED, "f"),
        ],
    )
    def test_openai(self, value: Any, mode: int, name: str) -> None:
        choice = chat(tool_choice=value).tool_choice
        assert (choice.mode, choice.name) == (mode, name)

    @pytest.mark.parametrize("value", ["maybe", 1, {"type": "function"}, {"type": "custom"}])
    def test_openai_refuses_what_it_does_not_know(self, value: Any) -> None:
        assert refused(chat, tool_choice=value).startswith("tool_choice")

    @pytest.mark.parametrize(
        ("value", "mode", "name"),
        [
            ({"type": "none"}, pb.TOOL_MODE_NONE, ""),
            ({"type": "any"}, pb.TOOL_MODE_REQUIRED, ""),
            ({"type": "tool", "name": "f"}, pb.TOOL_MODE_REQUIRED, "f"),
        ],
    )
    def test_anthropic(self, value: Any, mode: int, name: str) -> None:
        choice = messages(tool_choice=value).tool_choice
        assert (choice.mode, choice.name) == (mode, name)

    @pytest.mark.parametrize(
        ("value", "field"),
        [
            ({"type": "maybe"}, "tool_choice.type"),
            (
                {"type": "any", "disable_parallel_tool_use": True},
                "tool_choice.disable_parallel_tool_use",
            ),
        ],
    )
    def test_anthropic_refuses_what_it_does_not_know(self, value: Any, field: str) -> None:
        assert refused(messages, tool_choice=value) == field

    def test_left_to_the_model_it_is_unset(self) -> None:
        assert not chat(tool_choice="auto").HasField("tool_choice")
        assert not messages(tool_choice={"type": "auto"}).HasField("tool_choice")


@pytest.mark.requirement("O9", "R1")
class TestThinking:
    @pytest.mark.parametrize(
        ("fields", "effort"),
        [
            ({"thinking": {"type": "disabled"}}, "UNSPECIFIED"),
            ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, "MINIMAL"),
            ({"thinking": {"type": "enabled", "budget_tokens": 5_000}}, "MEDIUM"),
            ({"thinking": {"type": "enabled", "budget_tokens": 50_000}}, "HIGH"),
            ({"thinking": {"type": "adaptive"}}, "HIGH"),
            ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "LOW"),
        ],
    )
    def test_it_is_an_effort(self, fields: dict[str, Any], effort: str) -> None:
        read = messages(**fields).reasoning_effort
        assert read == pb.ReasoningEffort.Value(f"REASONING_EFFORT_{effort}")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
            ({"thinking": {"type": "deep"}}, "thinking.type"),
            ({"output_config": {"effort": "most"}}, "output_config.effort"),
        ],
    )
    def test_what_is_not_known_is_refused(self, fields: dict[str, Any], field: str) -> None:
        assert refused(messages, **fields) == field

    def test_redacted_thinking_passes_both_ways(self) -> None:
        """Nothing of it can be read; handed back it lets the model go on."""
        block = {"type": "redacted_thinking", "data": "proof"}
        turns = [*USER, {"role": "assistant", "content": [block, {"type": "text", "text": "So"}]}]
        [part, _] = messages(messages=[*turns, *USER]).messages[1].parts
        assert (part.reasoning.text, part.reasoning.signature) == ("", f"{REDACTED}proof")
        answer = MessageAnswer("id")
        stream = b"".join(
            answer.delta(event)
            for event in (ReasoningDelta("", f"{REDACTED}proof"), TextDelta("So"))
        )
        assert b'"type": "redacted_thinking", "data": "proof"' in stream
        assert b"signature_delta" not in stream


@pytest.mark.requirement("O9", "R1")
def test_top_k_is_read_at_both_doors() -> None:
    assert chat(top_k=5).top_k == 5
    assert messages(top_k=5).top_k == 5
