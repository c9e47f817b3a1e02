# SPDX-License-Identifier: Apache-2.0
"""
Builds the body of a Messages call, https://platform.claude.com/docs/en/api/messages .

Pure. Which model takes what follows from the version in its name.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec

from services.router.domain.text import (
    LENIENT_SCHEMA,
    REDACTED,
    TOOL_CALL_SIGNATURE,
    ImagePart,
    ImageURLPart,
    Message,
    Part,
    ReasoningEffort,
    ReasoningPart,
    Role,
    TextCall,
    TextPart,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)

__all__ = [
    "REDACTED",
    "build_messages_body",
    "messages_body",
    "thinking_fields",
    "unsupported_fields",
]

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:-(\d{1,2}))?(?!\d)")
_NEWEST = (99, 0)

_THINKS_FROM = (3, 7)
"""https://platform.claude.com/docs/en/build-with-claude/extended-thinking"""
_ADAPTIVE_FROM = (4, 6)
"""https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking"""
_SCHEMA_FROM = (4, 1)
"""https://platform.claude.com/docs/en/build-with-claude/structured-outputs"""
_ONE_SAMPLING_PARAMETER_FROM = (4, 1)
"""`temperature` and `top_p` cannot both be given."""

_THINKING_TOKENS = {
    ReasoningEffort.MINIMAL: 1024,
    ReasoningEffort.LOW: 2048,
    ReasoningEffort.MEDIUM: 8192,
    ReasoningEffort.HIGH: 16384,
}
_THINKING_TOKENS_MIN = 1024
"""The least budget the API takes; it must be below `max_tokens`."""
_THINKING_TOP_P_MIN = 0.95


def build_messages_body(call: TextCall) -> bytes:
    """
    Give the JSON body of a call.

    Raises:
        msgspec.DecodeError: A tool's or the answer's schema is not JSON.
    """
    return msgspec.json.encode(messages_body(call))


def messages_body(call: TextCall) -> dict[str, Any]:
    """
    Give the body of a call before it is written as JSON; raises as `build_messages_body`.
    """
    body: dict[str, Any] = {
        "model": call.model,
        "max_tokens": call.max_output_tokens,
        "messages": _messages(call.messages),
    }
    if call.system:
        body["system"] = call.system
    if call.stream:
        body["stream"] = True
    if call.tools:
        body["tools"] = [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": msgspec.json.decode(tool.parameters_json),
            }
            for tool in call.tools
        ]
    if call.tool_choice is not None:
        body["tool_choice"] = _tool_choice(call.tool_choice)
    if call.top_k is not None:
        body["top_k"] = call.top_k
    if call.temperature is not None:
        body["temperature"] = call.temperature
    if call.top_p is not None:
        body["top_p"] = call.top_p
    if call.stop:
        body["stop_sequences"] = list(call.stop)
    body |= thinking_fields(call)
    if call.response_schema is not None:
        schema = msgspec.json.decode(call.response_schema.schema_json)
        output_config = body.setdefault("output_config", {})
        output_config["format"] = {"type": "json_schema", "schema": schema}
    return body


def unsupported_fields(call: TextCall) -> list[str]:
    """
    Name the fields of the call that the model does not take.

    Structured outputs always hold to their schema
    (https://platform.claude.com/docs/en/build-with-claude/structured-outputs).
    """
    version = _version(call.model)
    fields = call.holds(TOOL_CALL_SIGNATURE, LENIENT_SCHEMA)
    if call.seed is not None:
        fields.append("seed")
    if call.response_schema is not None and version < _SCHEMA_FROM:
        fields.append("response_schema")
    if _thinks(call):
        if version < _THINKS_FROM or (
            version < _ADAPTIVE_FROM and call.max_output_tokens <= _THINKING_TOKENS_MIN
        ):
            fields.append("reasoning_effort")
        if call.temperature not in (None, 1):
            fields.append("temperature")
        if call.top_p is not None and call.top_p < _THINKING_TOP_P_MIN:
            fields.append("top_p")
        if call.top_k is not None:
            fields.append("top_k")
        forced = call.tool_choice is not None and call.tool_choice.mode is ToolMode.REQUIRED
        if forced and "reasoning_effort" not in fields:
            # Thinking and a forced call exclude each other: the call matters more.
            fields.append("reasoning_effort")
    both = call.temperature is not None and call.top_p is not None
    if both and version >= _ONE_SAMPLING_PARAMETER_FROM and "top_p" not in fields:
        fields.append("top_p")
    return fields


def _version(model: str) -> tuple[int, int]:
    """
    Read the version out of a model's name; names that carry none count as newest.
    """
    found = _VERSION.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def _thinks(call: TextCall) -> bool:
    return call.reasoning_effort not in (None, ReasoningEffort.NONE)


def thinking_fields(call: TextCall) -> dict[str, Any]:
    """
    Give the body's fields for the call's reasoning effort; none where it asks for none.
    """
    if not _thinks(call):
        return {}
    effort = call.reasoning_effort or ReasoningEffort.LOW
    if _version(call.model) >= _ADAPTIVE_FROM:
        least = ReasoningEffort.LOW if effort is ReasoningEffort.MINIMAL else effort
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": least.value}}
    budget = min(_THINKING_TOKENS[effort], call.max_output_tokens - 1)
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    """
    Give the choice, https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview .
    """
    if choice.mode is ToolMode.NONE:
        return {"type": "none"}
    return {"type": "tool", "name": choice.name} if choice.name else {"type": "any"}


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """
    Give the turns; tool results are the user's, and neighbours of one role become one turn.
    """
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = [_block(part) for part in message.parts]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        data = base64.b64encode(part.data).decode("ascii")
        source = {"type": "base64", "media_type": part.media_type, "data": data}
        return {"type": "image", "source": source}
    if isinstance(part, ImageURLPart):
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part)}
    if isinstance(part, ToolResult):
        block = {"type": "tool_result", "tool_use_id": part.tool_call_id, "content": part.content}
        return {**block, "is_error": True} if part.failed else block
    return _thinking_block(part)


def _thinking_block(part: ReasoningPart) -> dict[str, Any]:
    if part.signature.startswith(REDACTED):
        return {"type": "redacted_thinking", "data": part.signature.removeprefix(REDACTED)}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _input(call: ToolCall) -> dict[str, Any]:
    """
    Give a call's arguments as the object the API demands.

    A model of another provider may have written text that is none; it is kept under one name.
    """
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        value = None
    return value if isinstance(value, dict) else {"arguments": call.arguments}
