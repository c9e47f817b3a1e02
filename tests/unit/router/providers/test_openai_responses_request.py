# SPDX-License-Identifier: Apache-2.0
"""Requests for the models that OpenAI serves by Responses alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.router.domain.text import (
    ImagePart,
    ImageURLPart,
    Message,
    ReasoningEffort,
    ResponseSchema,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from services.router.providers.openai import OPENAI, lowest_effort
from services.router.providers.openai_responses_request import needs_responses
from tests.support.provider_streams import credential, text_call

pytestmark = pytest.mark.requirement("R1", "R4")

SCHEMA = '{"type":"object"}'


def built(**fields: Any) -> tuple[str, dict[str, Any]]:
    call = text_call(**{"model": "o3-pro", **fields})
    request = OPENAI.build_request(call, credential(), base_url=OPENAI.default_base_url)
    return request.url, msgspec.json.decode(request.body)


@pytest.mark.parametrize(
    ("model", "alone"),
    [
        ("o1-pro", True),
        ("o3-pro-2025-06-10", True),
        ("gpt-5-pro", True),
        ("gpt-5.2-pro", True),
        ("gpt-5-codex", True),
        ("gpt-5.1-codex-max", True),
        ("codex-mini-latest", True),
        ("o4-mini-deep-research", True),
        ("o3", False),
        ("o4-mini", False),
        ("gpt-5", False),
        ("gpt-4o-mini", False),
        ("gpt-5-chat-latest", False),
    ],
)
def test_models_go_where_they_are_served(model: str, *, alone: bool) -> None:
    assert needs_responses(model) is alone
    url, _ = built(model=model)
    assert url.endswith("/v1/responses" if alone else "/v1/chat/completions")


def test_a_plain_call_is_never_stored() -> None:
    assert built()[1] == {
        "model": "o3-pro",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Say hello"}]}],
        "max_output_tokens": 100,
        "store": False,
    }


def test_the_whole_of_a_call_is_said() -> None:
    _, body = built(
        system="Be brief",
        messages=(
            Message(
                Role.USER,
                (TextPart("a"), ImagePart("image/png", b"x"), ImageURLPart("https://e.com/a")),
            ),
            Message(
                Role.ASSISTANT,
                (TextPart("b"), ToolCall("c", "f", "{}")),
            ),
            Message(Role.TOOL, (ToolResult("c", "d"),)),
            Message(Role.ASSISTANT, (ToolCall("e", "f", "{}"),)),
        ),
        tools=(Tool(name="f", description="does", parameters_json=SCHEMA),),
        tool_choice=ToolChoice(ToolMode.REQUIRED),
        response_schema=ResponseSchema(name="s", schema_json=SCHEMA),
        reasoning_effort=ReasoningEffort.LOW,
        temperature=1.0,
        stream=True,
    )
    assert body["instructions"] == "Be brief"
    assert body["stream"] is True
    assert body["reasoning"] == {"effort": "low"}
    assert body["temperature"] == 1.0
    assert body["tool_choice"] == "required"
    assert body["tools"][0] == {
        "type": "function",
        "name": "f",
        "description": "does",
        "parameters": {"type": "object"},
        "strict": False,
    }
    form = body["text"]["format"]
    assert (form["type"], form["name"], form["strict"]) == ("json_schema", "s", True)
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    assert body["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": "data:image/png;base64,eA=="},
                {"type": "input_image", "image_url": "https://e.com/a"},
            ],
        },
        {"role": "assistant", "content": "b"},
        {**call, "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "d"},
        {**call, "call_id": "e"},
    ]


def test_one_tool_can_be_demanded() -> None:
    _, body = built(tool_choice=ToolChoice(ToolMode.REQUIRED, "f"))
    assert body["tool_choice"] == {"type": "function", "name": "f"}


def test_a_part_in_the_wrong_message_is_a_bug() -> None:
    with pytest.raises(TypeError, match="ToolResult"):
        built(messages=(Message(Role.USER, (ToolResult("c", "d"),)),))


@pytest.mark.parametrize(
    ("fields", "lacking"),
    [
        ({"seed": 1}, ["seed"]),
        ({"stop": ("x",)}, ["stop"]),
        ({"temperature": 0.5}, ["temperature"]),
        ({"reasoning_effort": ReasoningEffort.MINIMAL}, ["reasoning_effort"]),
        ({"model": "gpt-5-pro", "reasoning_effort": ReasoningEffort.LOW}, ["reasoning_effort"]),
        ({"model": "gpt-5-pro", "reasoning_effort": ReasoningEffort.HIGH}, []),
    ],
)
def test_what_the_api_lacks_is_named(fields: dict[str, Any], lacking: list[str]) -> None:
    assert OPENAI.unsupported(text_call(**{"model": "o3-pro", **fields})) == lacking


@pytest.mark.requirement("K3")
@pytest.mark.parametrize(
    ("model", "effort"), [("gpt-5-pro", "high"), ("gpt-5.1-codex", "low"), ("o3-pro", "low")]
)
def test_a_test_of_a_key_thinks_as_little_as_the_model_can(model: str, effort: str) -> None:
    assert lowest_effort(model) == ReasoningEffort(effort)
