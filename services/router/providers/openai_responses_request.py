# SPDX-License-Identifier: Apache-2.0
"""
Builds the body of a Responses call, for the models that nothing else serves.

https://developers.openai.com/api/reference/resources/responses . Two defaults of this API are
turned: nothing is stored at the provider, and a tool's schema binds only where it is asked to.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from services.router.domain.text import (
    ImagePart,
    ImageURLPart,
    Message,
    Part,
    Role,
    TextCall,
    TextPart,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from services.router.providers.openai_chat_request import data_url

__all__ = ["build_responses_body", "needs_responses"]

_RESPONSES_MODEL = re.compile(
    r"o\d+-pro|gpt-\d+(?:\.\d+)?-(?:pro|codex)|codex-|o\d+(?:-mini)?-deep-research|computer-use-"
)
"""https://developers.openai.com/docs/models : models without Chat Completions on their page."""


def needs_responses(model: str) -> bool:
    """
    Tell whether a model is served by Responses alone.
    """
    return _RESPONSES_MODEL.match(model) is not None


def build_responses_body(call: TextCall) -> bytes:
    """
    Give the JSON body of a call.

    Raises:
        msgspec.DecodeError: A tool's or the answer's schema is not JSON.
    """
    body: dict[str, Any] = {
        "model": call.model,
        "input": [item for message in call.messages for item in _items(message)],
        "max_output_tokens": call.max_output_tokens,
        "store": False,
    }
    if call.system:
        body["instructions"] = call.system
    if call.stream:
        body["stream"] = True
    if call.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": msgspec.json.decode(tool.parameters_json),
                "strict": False,
            }
            for tool in call.tools
        ]
    if call.tool_choice is not None:
        body["tool_choice"] = _tool_choice(call.tool_choice)
    if call.response_schema is not None:
        schema = call.response_schema
        form = {
            "type": "json_schema",
            "name": schema.name,
            "schema": msgspec.json.decode(schema.schema_json),
            "strict": schema.strict,
        }
        body["text"] = {"format": form}
    if call.reasoning_effort is not None:
        body["reasoning"] = {"effort": call.reasoning_effort.value}
    sampling = {"temperature": call.temperature, "top_p": call.top_p}
    body |= {name: value for name, value in sampling.items() if value is not None}
    return msgspec.json.encode(body)


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "name": choice.name} if choice.name else choice.mode.value


def _items(message: Message) -> list[dict[str, Any]]:
    """
    Give a message's items; calls and their results are items of their own.
    """
    if message.role is Role.TOOL:
        return [
            {
                "type": "function_call_output",
                "call_id": part.tool_call_id,
                "output": part.content,
            }
            for part in message.parts
            if isinstance(part, ToolResult)
        ]
    if message.role is Role.USER:
        return [{"role": "user", "content": [_content(part) for part in message.parts]}]
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
    said = [{"role": "assistant", "content": text}] if text else []
    calls = [
        {
            "type": "function_call",
            "call_id": part.id,
            "name": part.name,
            "arguments": part.arguments,
        }
        for part in message.parts
        if isinstance(part, ToolCall)
    ]
    return [*said, *calls]


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, ImagePart):
        return {"type": "input_image", "image_url": data_url(part)}
    if isinstance(part, ImageURLPart):
        return {"type": "input_image", "image_url": part.url}
    raise TypeError(f"a {type(part).__name__} has no place in a user message")
