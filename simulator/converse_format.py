# SPDX-License-Identifier: Apache-2.0
"""
Bedrock's Converse format: strict types, the prompt, answers, and the binary framing.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
https://smithy.io/2.0/aws/amazon-eventstream.html .
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Literal

import msgspec

from simulator.tokens import Answer, Finish, Prompt, pieces

__all__ = ["ConverseBody", "event", "exception", "prompt_of", "stream_events", "whole_answer"]


class _Source(msgspec.Struct, forbid_unknown_fields=True):
    bytes: str


class _Image(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal["png", "jpeg", "gif", "webp"]
    source: _Source


class _ToolUse(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    tool_use_id: str
    name: str
    input: dict[str, Any]


class _ResultText(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class _ToolResult(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    tool_use_id: str
    content: list[_ResultText]
    status: Literal["success", "error"] = "success"


class _ReasoningText(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    signature: str = ""


class _Reasoning(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    reasoning_text: _ReasoningText | None = None
    redacted_content: str | None = None


class _Block(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    text: str | None = None
    image: _Image | None = None
    tool_use: _ToolUse | None = None
    tool_result: _ToolResult | None = None
    reasoning_content: _Reasoning | None = None


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: list[_Block]


class _System(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class _Config(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] = []


class _InputSchema(msgspec.Struct, forbid_unknown_fields=True):
    json: dict[str, Any]


class _ToolSpec(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str
    input_schema: _InputSchema
    description: str | None = None


class _Tool(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    tool_spec: _ToolSpec


class _Any(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    auto: _Any | None = None
    any: _Any | None = None
    tool: _Named | None = None


class _ToolConfig(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    tools: list[_Tool]
    tool_choice: _ToolChoice | None = None


class _Schema(msgspec.Struct, forbid_unknown_fields=True):
    schema: str
    name: str = ""
    description: str = ""


class _Structure(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    json_schema: _Schema


class _TextFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    structure: _Structure


class _OutputConfig(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    text_format: _TextFormat | None = None


class ConverseBody(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """
    What Converse takes.
    """

    messages: list[_Message]
    system: list[_System] = []
    inference_config: _Config = msgspec.field(default_factory=_Config)
    tool_config: _ToolConfig | None = None
    output_config: _OutputConfig | None = None
    additional_model_request_fields: dict[str, Any] = {}


def prompt_of(model: str, body: ConverseBody) -> Prompt:
    """
    Give what a body asks for.
    """
    texts = [part.text for part in body.system]
    images = 0
    for message in body.messages:
        for block in message.content:
            if block.text is not None:
                texts.append(block.text)
            elif block.tool_result is not None:
                texts += [part.text for part in block.tool_result.content]
            elif block.image is not None:
                images += 1
    answered = any(block.tool_result is not None for block in body.messages[-1].content)
    spec = body.tool_config.tools[0].tool_spec if body.tool_config and not answered else None
    output = body.output_config.text_format if body.output_config is not None else None
    schema = None
    if output is not None:
        schema = msgspec.json.decode(output.structure.json_schema.schema, type=dict[str, Any])
    config = body.inference_config
    own = body.additional_model_request_fields
    return Prompt(
        model=model,
        texts=tuple(texts),
        image_count=images,
        output_tokens_max=config.max_tokens,
        stop=tuple(config.stop_sequences),
        tool=None if spec is None else (spec.name, spec.input_schema.json),
        schema=schema,
        thinks=bool(own.keys() & {"thinking", "reasoningConfig", "reasoning_effort"}),
    )


_STOP_REASONS = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.TOOL_CALL: "tool_use",
    Finish.FILTERED: "content_filtered",
}
_THOUGHTS = {"text": "Simulated thinking.", "signature": "c2ltdWxhdGVk"}
_TOOL_USE_ID = "tooluse_simulated0001"


def whole_answer(answer: Answer) -> dict[str, Any]:
    """
    Give a whole answer's body.
    """
    content: list[dict[str, Any]] = []
    if answer.reasoning_tokens:
        content.append({"reasoningContent": {"reasoningText": _THOUGHTS}})
    if answer.tool_name:
        arguments = answer.tool_arguments
        use = {"toolUseId": _TOOL_USE_ID, "name": answer.tool_name, "input": arguments}
        content.append({"toolUse": use})
    elif answer.text:
        content.append({"text": answer.text})
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": _STOP_REASONS[answer.finish],
        "usage": _usage(answer),
        "metrics": {"latencyMs": 1},
    }


def stream_events(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    """
    Give a stream's events in their order; usage comes after `messageStop`.
    """
    events: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    deltas: list[list[dict[str, Any]]] = []
    if answer.reasoning_tokens:
        deltas.append([{"reasoningContent": {name: text}} for name, text in _THOUGHTS.items()])
    if answer.tool_name:
        text = msgspec.json.encode(answer.tool_arguments).decode()
        half = len(text) // 2
        deltas.append([{"toolUse": {"input": part}} for part in (text[:half], text[half:])])
    elif answer.text:
        deltas.append([{"text": piece} for piece in pieces(answer.text)])
    for index, block in enumerate(deltas):
        if "toolUse" in block[0]:
            start = {"toolUse": {"toolUseId": _TOOL_USE_ID, "name": answer.tool_name}}
            events.append(("contentBlockStart", {"contentBlockIndex": index, "start": start}))
        events += [
            ("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}) for delta in block
        ]
        events.append(("contentBlockStop", {"contentBlockIndex": index}))
    events.append(("messageStop", {"stopReason": _STOP_REASONS[answer.finish]}))
    events.append(("metadata", {"usage": _usage(answer), "metrics": {"latencyMs": 1}}))
    return events


def event(name: str, body: dict[str, Any]) -> bytes:
    """
    Give one event, with the padding that Bedrock adds.
    """
    return _message({":event-type": name, ":message-type": "event"}, {**body, "p": "abcdefgh"})


def exception(name: str, message: str) -> bytes:
    """
    Give a failure as it comes inside a stream.
    """
    headers = {":exception-type": name, ":message-type": "exception"}
    return _message(headers, {"message": message})


def _message(headers: dict[str, str], body: dict[str, Any]) -> bytes:
    encoded = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(text))
        + text.encode()
        for name, text in {**headers, ":content-type": "application/json"}.items()
    )  # fmt: skip
    payload = msgspec.json.encode(body)
    size = 12 + len(encoded) + len(payload) + 4
    prelude = struct.pack(">II", size, len(encoded))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + encoded + payload
    return message + struct.pack(">I", zlib.crc32(message))


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "inputTokens": answer.input_tokens,
        "outputTokens": answer.output_tokens,
        "totalTokens": answer.input_tokens + answer.output_tokens,
    }
