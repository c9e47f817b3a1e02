# SPDX-License-Identifier: Apache-2.0
"""
Builds the body of a chat completion, https://developers.openai.com/api/reference/resources/chat .

Pure. What differs between the providers of this format is passed in as data.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from services.router.domain.text import (
    ImagePart,
    ImageURLPart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextCall,
    TextPart,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from services.router.providers.base import Credential

__all__ = ["ChatShape", "bearer", "build_chat_body", "data_url"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatShape:
    """
    Where the providers of this format differ in what they take.
    """

    output_limit_field: str
    """`max_completion_tokens` at OpenAI, whose reasoning models refuse `max_tokens`."""
    own_fields: Callable[[TextCall], dict[str, Any]]
    """The body fields that only this provider has, the reasoning effort among them."""
    returns_reasoning: bool
    """Whether earlier reasoning is taken back (`reasoning_details`)."""
    returns_reasoning_text: bool = False
    """Whether its plain text is taken back (`reasoning_content`)."""


def bearer(credential: Credential) -> dict[str, str]:
    """
    Give the header that carries the key.
    """
    return {"authorization": f"Bearer {credential.secret.reveal()}"}


def build_chat_body(call: TextCall, *, shape: ChatShape) -> bytes:
    """
    Give the JSON body of a call.

    Raises:
        msgspec.DecodeError: A tool's or the answer's schema is not JSON.
    """
    messages: list[dict[str, Any]] = []
    if call.system:
        messages.append({"role": "system", "content": call.system})
    for message in call.messages:
        messages.extend(_messages(message, shape))
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages,
        shape.output_limit_field: call.max_output_tokens,
    }
    if call.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if call.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": msgspec.json.decode(tool.parameters_json),
                },
            }
            for tool in call.tools
        ]
    if call.tool_choice is not None:
        body["tool_choice"] = _tool_choice(call.tool_choice)
    if call.response_schema is not None:
        schema = call.response_schema
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": schema.name,
                "schema": msgspec.json.decode(schema.schema_json),
                "strict": schema.strict,
            },
        }
    sampling = {"temperature": call.temperature, "top_p": call.top_p, "seed": call.seed}
    body |= {name: value for name, value in sampling.items() if value is not None}
    if call.stop:
        body["stop"] = list(call.stop)
    body.update(shape.own_fields(call))
    return msgspec.json.encode(body)


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if not choice.name:
        return choice.mode.value
    return {"type": "function", "function": {"name": choice.name}}


def data_url(image: ImagePart) -> str:
    """
    Give an image as a `data:` URL, RFC 2397.
    """
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def _messages(message: Message, shape: ChatShape) -> list[dict[str, Any]]:
    if message.role is Role.TOOL:
        return [
            {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.content}
            for part in message.parts
            if isinstance(part, ToolResult)
        ]
    if message.role is Role.ASSISTANT:
        return [_assistant(message, shape)]
    parts = message.parts
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return [{"role": "user", "content": parts[0].text}]
    return [{"role": "user", "content": [_content(part) for part in parts]}]


def _assistant(message: Message, shape: ChatShape) -> dict[str, Any]:
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
    calls = [
        {
            "id": part.id,
            "type": "function",
            "function": {"name": part.name, "arguments": part.arguments},
        }
        for part in message.parts
        if isinstance(part, ToolCall)
    ]
    body: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        body["tool_calls"] = calls
    if shape.returns_reasoning:
        details = [
            {"type": "reasoning.text", "text": part.text, "signature": part.signature}
            for part in message.parts
            if isinstance(part, ReasoningPart)
        ]
        if details:
            body["reasoning_details"] = details
    if shape.returns_reasoning_text:
        thoughts = "".join(part.text for part in message.parts if isinstance(part, ReasoningPart))
        if thoughts:
            body["reasoning_content"] = thoughts
    return body


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": data_url(part)}}
    if isinstance(part, ImageURLPart):
        return {"type": "image_url", "image_url": {"url": part.url}}
    raise TypeError(f"a {type(part).__name__} has no place in a user message")
