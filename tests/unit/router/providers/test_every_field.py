# SPDX-License-Identifier: Apache-2.0
"""Every field of a request for text, at every provider: said, or told as not taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from ownkey.router.v1 import text_pb2 as pb

from services.router.domain.fitting import TUNING_FIELDS
from services.router.domain.text import (
    ImagePart,
    ImageURLPart,
    Message,
    ReasoningEffort,
    ReasoningPart,
    ResponseSchema,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from services.router.providers.base import UnsupportedParameterError
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import TEXT_PROVIDERS, credential_of, text_call

ASKED = Message(Role.USER, (TextPart("hello"),))
TOOL = Tool("named_tool", "described_tool", '{"type":"object","title":"shaped_tool"}')
CALL = ToolCall("call_id", "named_tool", '{"argued":1}')


def _after(*parts: Any) -> tuple[Message, ...]:
    """Give a conversation in which the model said something, and its call was answered."""
    said = Message(Role.ASSISTANT, (*parts, CALL))
    return (ASKED, said, Message(Role.TOOL, (ToolResult("call_id", "result_text"),)))


FIELDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "messages.role": ({"messages": (*_after(), ASKED)}, '"role"'),
    "messages.parts.text": ({"messages": (Message(Role.USER, (TextPart("said_text"),)),)}, "said"),
    "messages.parts.image.data": (
        {"messages": (Message(Role.USER, (ImagePart("image/png", b"\x89PNG"),)),)},
        "iVBORw==",
    ),
    "messages.parts.image.url": (
        {"messages": (Message(Role.USER, (ImageURLPart("https://a.example/pic"),)),)},
        "https://a.example/pic",
    ),
    "messages.parts.image.media_type": (
        {"messages": (Message(Role.USER, (ImagePart("image/webp", b"\x89PNG"),)),)},
        "webp",
    ),
    "messages.parts.tool_call.id": ({"messages": _after()}, None),
    "messages.parts.tool_call.name": ({"messages": _after()}, "named_tool"),
    "messages.parts.tool_call.arguments_json": ({"messages": _after()}, "argued"),
    "messages.parts.tool_call.signature": (
        {
            "messages": (
                ASKED,
                Message(Role.ASSISTANT, (ToolCall("call_id", "named_tool", "{}", "c2lnbmVk"),)),
            )
        },
        "c2lnbmVk",
    ),
    "messages.parts.tool_result.tool_call_id": ({"messages": _after()}, None),
    "messages.parts.tool_result.content": ({"messages": _after()}, "result_text"),
    "messages.parts.tool_result.failed": (
        {
            "messages": (
                *_after()[:2],
                Message(Role.TOOL, (ToolResult("call_id", "result_text", failed=True),)),
            )
        },
        "error",
    ),
    "messages.parts.reasoning.text": (
        {"messages": _after(ReasoningPart("thought", ""))},
        "thought",
    ),
    "messages.parts.reasoning.signature": (
        {"messages": _after(ReasoningPart("thought", "proven"))},
        "proven",
    ),
    "system": ({"system": "systematic"}, "systematic"),
    "tools.name": ({"tools": (TOOL,)}, "named_tool"),
    "tools.description": ({"tools": (TOOL,)}, "described_tool"),
    "tools.parameters_json": ({"tools": (TOOL,)}, "shaped_tool"),
    "response_schema.name": ({"response_schema": ResponseSchema("form", "{}")}, None),
    "response_schema.schema_json": (
        {"response_schema": ResponseSchema("form", '{"title":"shaped_answer"}')},
        "shaped_answer",
    ),
    "temperature": ({"temperature": 0.125}, "0.125"),
    "top_p": ({"top_p": 0.9375}, "0.9375"),
    "stop": ({"stop": ("halting",)}, "halting"),
    "seed": ({"seed": 77_077}, "77077"),
    "max_output_tokens": ({"max_output_tokens": 4_321}, "4321"),
    "reasoning_effort": ({"reasoning_effort": ReasoningEffort.HIGH}, "16384|high|24576"),
    "tool_choice.mode": (
        {"tools": (TOOL,), "tool_choice": ToolChoice(ToolMode.REQUIRED)},
        "required|any|ANY",
    ),
    "tool_choice.name": (
        {"tools": (TOOL,), "tool_choice": ToolChoice(ToolMode.REQUIRED, "named_tool")},
        '"name":"named_tool"|allowedFunctionNames',
    ),
    "top_k": ({"top_k": 33}, '"top_k":33|"topK":33'),
}
"""
What sets a field, and one of the words that stand in the body because of it; None where it only
tells parts of a request from each other, and a provider may pair or label them in its own way.
"""
MODELS = {
    "anthropic": ("claude-haiku-4-5", "claude-sonnet-4-6", "claude-3-haiku-20240307"),
    "openai": ("gpt-4o-mini", "gpt-5-mini", "gpt-5-pro"),
    "azure": ("openai/gpt-4o-mini",),
    "amazon-bedrock": ("global.anthropic.claude-sonnet-4-6", "us.amazon.nova-2-lite-v1:0"),
    "google-vertex": ("gemini-2.5-flash", "claude-haiku-4-5@20251001"),
    "gemini": ("gemini-2.5-flash", "gemini-3.1-flash-lite"),
    "deepseek": ("deepseek-v4-flash",),
    "openrouter": ("openai/gpt-4o-mini",),
}


def _leaves(message: Descriptor, prefix: str = "") -> Iterator[str]:
    for field in message.fields:
        if field.message_type is None:
            yield f"{prefix}{field.name}"
        else:
            yield from _leaves(field.message_type, f"{prefix}{field.name}.")


@pytest.mark.requirement("R1")
def test_the_table_names_every_field_of_the_contract() -> None:
    assert set(FIELDS) == set(_leaves(pb.TextInput.DESCRIPTOR))


@pytest.mark.requirement("R1", "R8")
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("provider", "model"), [(name, model) for name in TEXT_PROVIDERS for model in MODELS[name]]
)
def test_a_field_is_said_or_told_as_not_taken(provider: str, model: str, field: str) -> None:
    """What is told either rules the provider out, or is dropped with a note."""
    dialect, (set_fields, words) = DIALECTS[provider], FIELDS[field]
    call = text_call(**{"model": model, **set_fields})
    lacking = dialect.unsupported(call)
    if lacking:
        with pytest.raises(UnsupportedParameterError):
            dialect.build_request(call, credential_of(provider), base_url="https://{host}")
        rid = call.without(TUNING_FIELDS.intersection(lacking))
        assert dialect.unsupported(rid) == [name for name in lacking if name not in TUNING_FIELDS]
        return
    request = dialect.build_request(call, credential_of(provider), base_url="https://{host}")
    body = request.body.decode()
    if words is not None:
        assert any(word in body for word in words.split("|")), body
