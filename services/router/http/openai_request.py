# SPDX-License-Identifier: Apache-2.0
"""
Reads OpenAI's chat completion requests.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ownkey.router.v1 import text_pb2 as pb

from services.router.http.fields import Fields
from services.router.http.images import image_of_url
from services.shared.errors import InvalidArgumentError

_EFFORTS = ("none", "minimal", "low", "medium", "high")
_DEFAULTS = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "parallel_tool_calls": True,
    "modalities": ["text"],
}
_WITHOUT_EFFECT = (
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "store",
    "service_tier",
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """
    What a request asks for.
    """

    model: str
    input: pb.TextInput
    stream: bool
    include_usage: bool


def read_chat(body: object) -> ChatRequest:
    """
    Read a request.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    fields = Fields(body)
    fields.only(_DEFAULTS)
    fields.drop(*_WITHOUT_EFFECT)
    options = fields.inner("stream_options")
    request = ChatRequest(
        model=fields.text("model"),
        input=_input(fields),
        stream=fields.flag("stream"),
        include_usage=options.flag("include_usage") if options else False,
    )
    fields.end()
    return request


def _input(fields: Fields) -> pb.TextInput:
    system: list[str] = []
    messages: list[pb.Message] = []
    for index, item in enumerate(fields.items("messages")):
        _message(Fields(item, f"messages[{index}]"), system, messages)
    stop = fields.raw("stop")
    limit = fields.integer("max_completion_tokens")
    older_limit = fields.integer("max_tokens")
    text_input = pb.TextInput(
        messages=messages,
        system="\n\n".join(system),
        tools=[
            _tool(Fields(item, f"tools[{index}]"))
            for index, item in enumerate(fields.items("tools"))
        ],
        response_schema=_schema(fields.inner("response_format")),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        seed=fields.integer("seed", bits=64),
        max_output_tokens=older_limit if limit is None else limit,
        reasoning_effort=_effort(fields),
        tool_choice=_tool_choice(fields.raw("tool_choice")),
        top_k=fields.integer("top_k"),
    )
    if stop is not None:
        stops = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
            raise InvalidArgumentError.of("stop", "must be a string or a list of strings")
        text_input.stop.extend(stops)
    return text_input


def _message(fields: Fields, system: list[str], messages: list[pb.Message]) -> None:
    role = fields.text("role")
    fields.drop("name", "refusal", "annotations", "audio")
    content = fields.raw("content")
    parts = _parts(content, fields.at("content"))
    match role:
        case "system" | "developer":
            system.extend(part.text for part in parts)
        case "user":
            messages.append(pb.Message(role=pb.ROLE_USER, parts=parts))
        case "assistant":
            calls = [
                _tool_call(Fields(item, fields.at(f"tool_calls[{index}]")))
                for index, item in enumerate(fields.items("tool_calls"))
            ]
            messages.append(pb.Message(role=pb.ROLE_ASSISTANT, parts=parts + calls))
        case "tool":
            result = pb.ToolResult(
                tool_call_id=fields.text("tool_call_id"),
                content="".join(part.text for part in parts),
            )
            messages.append(pb.Message(role=pb.ROLE_TOOL, parts=[pb.Part(tool_result=result)]))
        case _:
            raise InvalidArgumentError.of(
                fields.at("role"), "must be system, developer, user, assistant or tool"
            )
    fields.end()


def _parts(content: Any, path: str) -> list[pb.Part]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [pb.Part(text=content)]
    if not isinstance(content, list):
        raise InvalidArgumentError.of(path, "must be a string or a list of parts")
    return [_part(Fields(item, f"{path}[{index}]")) for index, item in enumerate(content)]


def _part(fields: Fields) -> pb.Part:
    kind = fields.text("type")
    if kind == "text":
        part = pb.Part(text=fields.text("text"))
    elif kind == "image_url":
        image = fields.inner("image_url")
        if image is None:
            raise InvalidArgumentError.of(fields.at("image_url"), "is required")
        image.drop("detail")
        part = pb.Part(image=image_of_url(image.text("url"), image.at("url")))
        image.end()
    else:
        raise InvalidArgumentError.of(fields.at("type"), "must be text or image_url")
    fields.end()
    return part


def _tool_call(fields: Fields) -> pb.Part:
    fields.only({"type": "function"})
    fields.drop("index")
    function = fields.inner("function")
    if function is None:
        raise InvalidArgumentError.of(fields.at("function"), "is required")
    call = pb.ToolCall(
        id=fields.text("id"),
        name=function.text("name"),
        arguments_json=function.text("arguments"),
    )
    function.end()
    fields.end()
    return pb.Part(tool_call=call)


def _tool(fields: Fields) -> pb.Tool:
    fields.only({"type": "function"})
    function = fields.inner("function")
    if function is None:
        raise InvalidArgumentError.of(fields.at("function"), "is required")
    function.drop("strict")
    parameters = function.raw("parameters")
    tool = pb.Tool(
        name=function.text("name"),
        description=function.text("description"),
        parameters_json="" if parameters is None else json.dumps(parameters),
    )
    function.end()
    fields.end()
    return tool


def _tool_choice(value: Any) -> pb.ToolChoice | None:
    """
    Read `auto`, `none`, `required`, or the one function that must be called.
    """
    if value in (None, "auto"):
        return None
    if value in ("none", "required"):
        return pb.ToolChoice(mode=pb.ToolMode.Value(f"TOOL_MODE_{value.upper()}"))
    advice = "must be auto, none, required or one function"
    if not isinstance(value, dict):
        raise InvalidArgumentError.of("tool_choice", advice)
    fields = Fields(value, "tool_choice")
    function = fields.inner("function")
    if fields.text("type") != "function" or function is None:
        raise InvalidArgumentError.of("tool_choice", advice)
    chosen = pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name=function.text("name"))
    function.end()
    fields.end()
    return chosen


def _schema(fields: Fields | None) -> pb.ResponseSchema | None:
    if fields is None or (kind := fields.text("type")) == "text":
        return None
    schema = fields.inner("json_schema")
    if kind != "json_schema" or schema is None:
        raise InvalidArgumentError.of(
            fields.at("type"), "must be text, or json_schema with a json_schema"
        )
    return pb.ResponseSchema(name=schema.text("name"), schema_json=json.dumps(schema.raw("schema")))


def _effort(fields: Fields) -> pb.ReasoningEffort.ValueType:
    effort = fields.text("reasoning_effort")
    if not effort:
        return pb.REASONING_EFFORT_UNSPECIFIED
    if effort not in _EFFORTS:
        raise InvalidArgumentError.of("reasoning_effort", f"must be one of {', '.join(_EFFORTS)}")
    return pb.ReasoningEffort.Value(f"REASONING_EFFORT_{effort.upper()}")
