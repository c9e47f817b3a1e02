# SPDX-License-Identifier: Apache-2.0
"""
Reads Anthropic's message requests.

https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ownkey.router.v1 import text_pb2 as pb

from services.router.domain.text import REDACTED
from services.router.http.fields import Fields
from services.router.http.images import image_of_base64
from services.shared.errors import InvalidArgumentError

_THINKING_TOKENS = {1_024: "MINIMAL", 2_048: "LOW", 8_192: "MEDIUM"}
"""A budget up to so many tokens is such an effort; a larger one is HIGH."""
_EFFORTS = ("low", "medium", "high")
_WITHOUT_EFFECT = ("metadata", "service_tier", "cache_control")


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """
    What a request asks for.
    """

    model: str
    input: pb.TextInput
    stream: bool


def read_messages(body: object) -> MessagesRequest:
    """
    Read a request.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    fields = Fields(body)
    fields.drop(*_WITHOUT_EFFECT)
    limit = fields.integer("max_tokens")
    if limit is None:
        raise InvalidArgumentError.of("max_tokens", "is required")
    messages: list[pb.Message] = []
    for index, item in enumerate(fields.items("messages")):
        messages += _turn(Fields(item, f"messages[{index}]"))
    request = MessagesRequest(
        model=fields.text("model"),
        input=pb.TextInput(
            messages=messages,
            system=_plain(fields.raw("system"), "system"),
            tools=[
                _tool(Fields(item, f"tools[{index}]"))
                for index, item in enumerate(fields.items("tools"))
            ],
            temperature=fields.number("temperature"),
            top_p=fields.number("top_p"),
            stop=_stops(fields),
            max_output_tokens=limit,
            reasoning_effort=_effort(fields.inner("thinking"), fields.inner("output_config")),
            tool_choice=_tool_choice(fields.inner("tool_choice")),
            top_k=fields.integer("top_k"),
        ),
        stream=fields.flag("stream"),
    )
    fields.end()
    return request


def _turn(fields: Fields) -> list[pb.Message]:
    """
    Read one turn; results of tools come before what a person says, as a message of their own.
    """
    role = fields.text("role")
    if role not in ("user", "assistant"):
        raise InvalidArgumentError.of(fields.at("role"), "must be user or assistant")
    content = fields.raw("content")
    fields.end()
    path = fields.at("content")
    if isinstance(content, str):
        parts = [pb.Part(text=content)] if content else []
    elif isinstance(content, list):
        parts = [_block(Fields(item, f"{path}[{i}]")) for i, item in enumerate(content)]
    else:
        raise InvalidArgumentError.of(path, "must be a string or a list of blocks")
    if role == "assistant":
        return [pb.Message(role=pb.ROLE_ASSISTANT, parts=parts)]
    results = [part for part in parts if part.HasField("tool_result")]
    said = [part for part in parts if not part.HasField("tool_result")]
    messages = []
    if results:
        messages.append(pb.Message(role=pb.ROLE_TOOL, parts=results))
    if said or not results:
        messages.append(pb.Message(role=pb.ROLE_USER, parts=said))
    return messages


def _block(fields: Fields) -> pb.Part:
    fields.drop("cache_control", "citations")
    match fields.text("type"):
        case "text":
            part = pb.Part(text=fields.text("text"))
        case "image":
            part = pb.Part(image=_image(fields))
        case "tool_use":
            fields.drop("caller")
            call = pb.ToolCall(
                id=fields.text("id"),
                name=fields.text("name"),
                arguments_json=json.dumps(fields.raw("input") or {}),
            )
            part = pb.Part(tool_call=call)
        case "tool_result":
            result = pb.ToolResult(
                tool_call_id=fields.text("tool_use_id"),
                content=_plain(fields.raw("content"), fields.at("content")),
                failed=fields.flag("is_error"),
            )
            part = pb.Part(tool_result=result)
        case "thinking":
            reasoning = pb.Reasoning(
                text=fields.text("thinking"), signature=fields.text("signature")
            )
            part = pb.Part(reasoning=reasoning)
        case "redacted_thinking":
            part = pb.Part(reasoning=pb.Reasoning(signature=REDACTED + fields.text("data")))
        case _:
            raise InvalidArgumentError.of(
                fields.at("type"),
                "must be text, image, tool_use, tool_result, thinking or redacted_thinking",
            )
    fields.end()
    return part


def _image(fields: Fields) -> pb.Image:
    source = fields.inner("source")
    if source is None:
        raise InvalidArgumentError.of(fields.at("source"), "is required")
    kind = source.text("type")
    if kind == "url":
        image = pb.Image(url=source.text("url"))
    elif kind == "base64":
        data, media_type = source.text("data"), source.text("media_type")
        image = image_of_base64(data, media_type, source.at("data"))
    else:
        raise InvalidArgumentError.of(source.at("type"), "must be base64 or url")
    source.end()
    return image


def _plain(content: Any, path: str) -> str:
    """
    Read a text that may come as blocks of text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidArgumentError.of(path, "must be a string or a list of text blocks")
    texts = []
    for index, item in enumerate(content):
        block = Fields(item, f"{path}[{index}]")
        block.only({"type": "text"})
        texts.append(block.text("text"))
        block.drop("cache_control", "citations")
        block.end()
    return "\n\n".join(texts)


def _tool(fields: Fields) -> pb.Tool:
    fields.drop("cache_control", "strict")
    fields.only({"type": "custom"})
    tool = pb.Tool(
        name=fields.text("name"),
        description=fields.text("description"),
        parameters_json=json.dumps(fields.raw("input_schema")),
    )
    fields.end()
    return tool


def _effort(thinking: Fields | None, output: Fields | None) -> pb.ReasoningEffort.ValueType:
    """
    Read how much to think: adaptive by `output_config.effort`, or enabled with a budget of tokens.
    """
    asked = output.text("effort") if output else ""
    if output:
        output.end()
    kind = thinking.text("type") if thinking else "disabled"
    budget = thinking.integer("budget_tokens") if thinking else None
    if thinking:
        thinking.drop("display")
        thinking.end()
    if asked and asked not in _EFFORTS:
        raise InvalidArgumentError.of("output_config.effort", f"must be one of {_EFFORTS}")
    match kind:
        case "disabled":
            return pb.REASONING_EFFORT_UNSPECIFIED
        case "adaptive":
            return pb.ReasoningEffort.Value(f"REASONING_EFFORT_{(asked or 'high').upper()}")
        case "enabled" if budget is not None:
            fitting = (word for most, word in _THINKING_TOKENS.items() if budget <= most)
            return pb.ReasoningEffort.Value(f"REASONING_EFFORT_{next(fitting, 'HIGH')}")
        case "enabled":
            raise InvalidArgumentError.of("thinking.budget_tokens", "is required")
    raise InvalidArgumentError.of("thinking.type", "must be enabled, adaptive or disabled")


def _tool_choice(fields: Fields | None) -> pb.ToolChoice | None:
    if fields is None:
        return None
    kind, name = fields.text("type"), fields.text("name")
    fields.only({"disable_parallel_tool_use": False})
    fields.end()
    match kind:
        case "auto":
            return None
        case "none":
            return pb.ToolChoice(mode=pb.TOOL_MODE_NONE)
        case "any":
            return pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED)
        case "tool":
            return pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name=name)
    raise InvalidArgumentError.of("tool_choice.type", "must be auto, any, tool or none")


def _stops(fields: Fields) -> list[str]:
    stops = fields.items("stop_sequences")
    if not all(isinstance(item, str) for item in stops):
        raise InvalidArgumentError.of("stop_sequences", "must be a list of strings")
    return stops
