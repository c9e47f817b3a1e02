# SPDX-License-Identifier: Apache-2.0
"""
Builds the body of a Converse call.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html . Pure. One format
for all models; what only one vendor's models take goes into `additionalModelRequestFields`.
"""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import msgspec

from services.router.domain.text import (
    LENIENT_SCHEMA,
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
    ToolMode,
    ToolResult,
)
from services.router.providers import anthropic_request
from services.router.providers.anthropic_request import REDACTED

__all__ = ["IMAGE_MEDIA_TYPES", "build_converse_body", "unsupported_fields"]

IMAGE_MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ImageBlock.html"""

_CLAUDE = re.compile(r"(?:^|[./])anthropic\.(claude-.*)")
_NOVA_THAT_THINKS = re.compile(r"(?:^|[./])amazon\.nova-2")
"""https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html"""
_OPENAI = re.compile(r"(?:^|[./])openai\.gpt-oss")
"""https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-openai.html"""
_NOVA_EFFORTS = (ReasoningEffort.LOW, ReasoningEffort.MEDIUM)
"""At `high` Nova refuses an output limit, which is always sent."""
_OPENAI_EFFORTS = (ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH)


def build_converse_body(call: TextCall) -> bytes:
    """
    Give the JSON body of a call; whether it streams stands in the address.

    Raises:
        msgspec.DecodeError: A tool's or the answer's schema is not JSON.
    """
    config: dict[str, Any] = {"maxTokens": call.max_output_tokens}
    sampling = {"temperature": call.temperature, "topP": call.top_p}
    config |= {name: value for name, value in sampling.items() if value is not None}
    if call.stop:
        config["stopSequences"] = list(call.stop)
    body: dict[str, Any] = {"messages": _messages(call.messages), "inferenceConfig": config}
    if call.system:
        body["system"] = [{"text": call.system}]
    if call.tools:
        config_of_tools: dict[str, Any] = {"tools": [{"toolSpec": spec} for spec in _tools(call)]}
        if call.tool_choice is not None:
            name = call.tool_choice.name
            config_of_tools["toolChoice"] = {"tool": {"name": name}} if name else {"any": {}}
        body["toolConfig"] = config_of_tools
    if call.response_schema is not None:
        schema = call.response_schema
        text_format = {
            "type": "json_schema",
            "structure": {"jsonSchema": {"schema": schema.schema_json, "name": schema.name}},
        }
        body["outputConfig"] = {"textFormat": text_format}
    own_fields = _own_fields(call)
    if own_fields:
        body["additionalModelRequestFields"] = own_fields
    return msgspec.json.encode(body)


def unsupported_fields(call: TextCall) -> list[str]:
    """
    Name the fields of the call that the API or the model does not take.
    """
    claude = _CLAUDE.search(call.model)
    if claude is not None:
        fields = anthropic_request.unsupported_fields(replace(call, model=claude[1]))
    else:
        fields = call.holds(TOOL_CALL_SIGNATURE, LENIENT_SCHEMA)
        if call.seed is not None:
            fields.append("seed")
        if not _effort_fits(call.model, call.reasoning_effort):
            fields.append("reasoning_effort")
        if call.top_k is not None:
            fields.append("top_k")
    parts = [part for message in call.messages for part in message.parts]
    if any(isinstance(part, ImageURLPart) for part in parts):
        fields.append("messages.image_url")
    if any(isinstance(p, ImagePart) and p.media_type not in IMAGE_MEDIA_TYPES for p in parts):
        fields.append("messages.image.media_type")
    if call.tool_choice is not None and call.tool_choice.mode is ToolMode.NONE:
        # Converse knows auto, any and one tool:
        # https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolChoice.html
        fields.append("tool_choice")
    return fields


def _effort_fits(model: str, effort: ReasoningEffort | None) -> bool:
    if effort in (None, ReasoningEffort.NONE):
        return True
    if _NOVA_THAT_THINKS.search(model):
        return effort in _NOVA_EFFORTS
    return _OPENAI.search(model) is not None and effort in _OPENAI_EFFORTS


def _own_fields(call: TextCall) -> dict[str, Any]:
    claude = _CLAUDE.search(call.model)
    if claude is not None:
        top_k = {} if call.top_k is None else {"top_k": call.top_k}
        return top_k | anthropic_request.thinking_fields(replace(call, model=claude[1]))
    effort = call.reasoning_effort
    if effort is None or effort is ReasoningEffort.NONE:
        return {}
    if _OPENAI.search(call.model):
        return {"reasoning_effort": effort.value}
    return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": effort.value}}


def _tools(call: TextCall) -> list[dict[str, Any]]:
    specs = []
    for tool in call.tools:
        schema = {"json": msgspec.json.decode(tool.parameters_json)}
        spec: dict[str, Any] = {"name": tool.name, "inputSchema": schema}
        if tool.description:
            spec["description"] = tool.description
        specs.append(spec)
    return specs


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """
    Give the turns; roles must take turns, so neighbours of one role become one turn.
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
        return {"text": part.text}
    if isinstance(part, ImagePart):
        data = base64.b64encode(part.data).decode("ascii")
        image_format = part.media_type.removeprefix("image/")
        return {"image": {"format": image_format, "source": {"bytes": data}}}
    if isinstance(part, ToolCall):
        return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": _input(part)}}
    if isinstance(part, ToolResult):
        result: dict[str, Any] = {
            "toolUseId": part.tool_call_id,
            "content": [{"text": part.content}],
        }
        if part.failed:
            result["status"] = "error"
        return {"toolResult": result}
    if isinstance(part, ReasoningPart):
        return {"reasoningContent": _reasoning(part)}
    raise TypeError(f"a {type(part).__name__} has no place in a Converse message")


def _reasoning(part: ReasoningPart) -> dict[str, Any]:
    if part.signature.startswith(REDACTED):
        return {"redactedContent": part.signature.removeprefix(REDACTED)}
    text: dict[str, Any] = {"text": part.text}
    if part.signature:
        text["signature"] = part.signature
    return {"reasoningText": text}


def _input(call: ToolCall) -> dict[str, Any]:
    """
    Give a call's arguments as the object the API demands, whatever a model wrote.
    """
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        value = None
    return value if isinstance(value, dict) else {"arguments": call.arguments}
