# SPDX-License-Identifier: Apache-2.0
"""
The chat-completions format as OpenAI and OpenRouter take it: strict types and the framing.

https://developers.openai.com/api/reference/resources/chat . Fields that stand in no type here
are refused, as are wrong types.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from simulator.tokens import Answer, Finish, Prompt

__all__ = [
    "ChatBody",
    "DeepSeekBody",
    "RouterBody",
    "chunks",
    "completion",
    "prompt_of",
    "usage_of",
]


class _Text(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


class _ImageURL(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class _Image(msgspec.Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    image_url: _ImageURL


class _Function(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    type: Literal["function"]
    function: _Function


class _System(msgspec.Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: str | list[_Text]


class _Developer(msgspec.Struct, tag_field="role", tag="developer", forbid_unknown_fields=True):
    content: str | list[_Text]


class _User(msgspec.Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | list[_Text | _Image]


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    content: str | list[_Text] | None = None
    tool_calls: list[_ToolCall] | None = None
    refusal: str | None = None


class _RouterAssistant(
    msgspec.Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True
):
    content: str | list[_Text] | None = None
    tool_calls: list[_ToolCall] | None = None
    reasoning: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None


class _DeepSeekAssistant(
    msgspec.Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True
):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    reasoning_content: str | None = None


class _Tool(msgspec.Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    tool_call_id: str
    content: str | list[_Text]


class _FunctionTool(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool | None = None


class _ToolOffer(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _FunctionTool


class _Schema(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any]
    strict: bool | None = None
    description: str = ""


class _SchemaFormat(
    msgspec.Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    json_schema: _Schema


class _ObjectFormat(
    msgspec.Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True
):
    pass


class _TextFormat(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    pass


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = True


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _FunctionChoice(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Named


_ToolChoice = Literal["none", "auto", "required"] | _FunctionChoice


class _Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[_ToolOffer] | None = None
    tool_choice: _ToolChoice | None = None
    response_format: _SchemaFormat | _ObjectFormat | _TextFormat | None = None
    user: str | None = None


class ChatBody(_Body, kw_only=True, forbid_unknown_fields=True):
    """
    What OpenAI takes.
    """

    messages: list[_System | _Developer | _User | _Assistant | _Tool]
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    n: int | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None


class _RouterReasoning(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = True
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    max_tokens: int | None = None
    exclude: bool = False


class _RouterProvider(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    # https://openrouter.ai/docs/features/provider-routing
    require_parameters: bool = False
    allow_fallbacks: bool = True
    order: list[str] = []
    only: list[str] = []
    ignore: list[str] = []
    sort: str = ""
    data_collection: Literal["allow", "deny"] = "allow"


class _RouterUsage(msgspec.Struct, forbid_unknown_fields=True):
    include: bool


class RouterBody(_Body, kw_only=True, forbid_unknown_fields=True):
    """
    What OpenRouter takes.
    """

    messages: list[_System | _Developer | _User | _RouterAssistant | _Tool]
    reasoning: _RouterReasoning | None = None
    provider: _RouterProvider | None = None
    usage: _RouterUsage | None = None
    top_k: int | None = None


class _Thinking(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["enabled", "disabled"]


class _TextUser(msgspec.Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | list[_Text]


class DeepSeekBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """
    What DeepSeek takes: no images, no seed, no schema.
    """

    model: str
    messages: list[_System | _TextUser | _DeepSeekAssistant | _Tool]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    tools: list[_ToolOffer] | None = None
    tool_choice: _ToolChoice | None = None
    response_format: _ObjectFormat | _TextFormat | None = None
    thinking: _Thinking | None = None
    reasoning_effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


def prompt_of(body: ChatBody | RouterBody | DeepSeekBody, *, thinks: bool) -> Prompt:
    """
    Give what a body asks for.
    """
    texts: list[str] = []
    images = 0
    answered = False
    for message in body.messages:
        answered = isinstance(message, _Tool)
        content = message.content or ""
        for part in [_Text(content)] if isinstance(content, str) else content:
            if isinstance(part, _Text):
                texts.append(part.text)
            else:
                images += 1
    form = body.response_format
    offer = body.tools[0].function if body.tools and not answered else None
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Prompt(
        model=body.model,
        texts=tuple(texts),
        image_count=images,
        output_tokens_max=getattr(body, "max_completion_tokens", None) or body.max_tokens,
        stop=tuple(stop),
        tool=None if offer is None else (offer.name, offer.parameters),
        schema=form.json_schema.schema if isinstance(form, _SchemaFormat) else None,
        thinks=thinks,
    )


_FINISH = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.TOOL_CALL: "tool_calls",
    Finish.FILTERED: "content_filter",
}
_TOOL_CALL_ID = "call_simulated00000000000001"


def usage_of(answer: Answer) -> dict[str, Any]:
    """
    Give the usage object: totals include cached and reasoning tokens.
    """
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens,
            "audio_tokens": 0,
        },
    }


def completion(answer: Answer, head: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    """
    Give a whole answer; `head` holds id, time and model.
    """
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_name:
        message |= {"content": None, "tool_calls": [_tool_call(answer)]}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _FINISH[answer.finish],
    }
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def chunks(answer: Answer, head: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
    """
    Give a stream's chunks up to the one with the finish reason.
    """
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if answer.tool_name:
        call = _tool_call(answer)
        arguments = call["function"]["arguments"]
        call["function"]["arguments"] = ""
        half = len(arguments) // 2
        deltas.append({"tool_calls": [{"index": 0, **call}]})
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            for piece in (arguments[:half], arguments[half:])
        ]
    deltas += [{"content": text} for text in texts]
    bodies = [_chunk(head, delta, None) for delta in deltas]
    return [*bodies, _chunk(head, {}, _FINISH[answer.finish])]


def _tool_call(answer: Answer) -> dict[str, Any]:
    arguments = msgspec.json.encode(answer.tool_arguments).decode()
    function = {"name": answer.tool_name, "arguments": arguments}
    return {"id": _TOOL_CALL_ID, "type": "function", "function": function}


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}
