# SPDX-License-Identifier: Apache-2.0
"""
Reads requests for text, and writes their answers.

Whatever is wrong in a request whatever the state of the system is refused here, by field.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

from ownkey.router.v1 import text_pb2 as pb

from services.router.domain.media import AnswerEvent
from services.router.domain.request import (
    Request,
    TextInput,
    Tier,
)
from services.router.domain.text import (
    FinishReason,
    ImagePart,
    ImageURLPart,
    Message,
    Part,
    ReasoningDelta,
    ReasoningEffort,
    ReasoningPart,
    ResponseSchema,
    Role,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from services.router.rpc.mapping_client_held import brought_keys, resealed_keys
from services.router.rpc.mapping_receipt import FUNDINGS, receipt
from services.router.rpc.mapping_request import (
    account,
    at_most,
    choice,
    image,
    model,
    preferences,
    source,
)
from services.router.usecases.engine import Ended, Event, Started
from services.shared.errors import InternalError, InvalidArgumentError
from services.shared.ids import parse_uuid

MESSAGES_MAX = 1_000
PARTS_MAX = 256
TOOLS_MAX = 128
STOPS_MAX = 4
STOP_CHARACTERS_MAX = 256
TEXT_BYTES_MAX = 4 * 1024 * 1024
IMAGES_BYTES_MAX = 24 * 1024 * 1024
OUTPUT_TOKENS_MAX = 1_000_000
TEMPERATURE_MAX = 2.0
TOP_K_MAX = 1_000_000

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

AnyTextRequest: TypeAlias = pb.GenerateTextRequest | pb.StreamTextRequest

_TIERS = (Tier.DEFAULT, Tier.QUALITY, Tier.SPEED)
_ROLES = (None, Role.USER, Role.ASSISTANT, Role.TOOL)
_TOOL_MODES = (None, ToolMode.NONE, ToolMode.REQUIRED)
_EFFORTS = (
    None,
    ReasoningEffort.NONE,
    ReasoningEffort.MINIMAL,
    ReasoningEffort.LOW,
    ReasoningEffort.MEDIUM,
    ReasoningEffort.HIGH,
)
_PARTS_BY_ROLE = {
    Role.USER: (TextPart, ImagePart, ImageURLPart),
    Role.ASSISTANT: (TextPart, ReasoningPart, ToolCall),
    Role.TOOL: (ToolResult,),
}
_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
    FinishReason.OTHER: pb.FINISH_REASON_OTHER,
    None: pb.FINISH_REASON_UNSPECIFIED,
}


def text_request(
    message: AnyTextRequest, *, request_id: str | None = None, explains: bool = False
) -> Request:
    """
    Read a request.

    Args:
        message: What the caller sent.
        request_id: Used where the caller need not send one.
        explains: Whether nothing will be sent.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    return Request(
        account=account(message.account),
        request_id=request_id or parse_uuid(message.request_id, "request_id"),
        model=model(message.model),
        tier=choice(_TIERS, message.tier, "tier"),
        source=source(message.source),
        preferences=preferences(message.route),
        input=_text_input(message.input),
        stream=isinstance(message, pb.StreamTextRequest),
        brought=brought_keys(
            message.client_held_keys, account=message.account, names_only=explains
        ),
    )


def stream_response(event: Event) -> pb.StreamTextResponse:
    """
    Write one event of a stream.
    """
    match event:
        case Started():
            return pb.StreamTextResponse(start=_start(event))
        case Ended():
            return pb.StreamTextResponse(
                finish=pb.TextFinish(
                    finish_reason=_FINISH_REASONS[event.receipt.finish_reason],
                    receipt=receipt(event.receipt),
                    resealed_keys=resealed_keys(event.resealed),
                )
            )
        case TextDelta():
            return pb.StreamTextResponse(text_delta=event.text)
        case ReasoningDelta():
            return pb.StreamTextResponse(
                reasoning_delta=pb.Reasoning(text=event.text, signature=event.signature)
            )
        case ToolCallDelta():
            return pb.StreamTextResponse(
                tool_call_delta=pb.ToolCallDelta(
                    index=event.index,
                    id=event.id,
                    name=event.name,
                    arguments_json=event.arguments,
                    signature=event.signature,
                )
            )
        case _:
            raise InternalError("an event of a stream has no message")


class AnswerBuilder:
    """
    Collects a stream's events into one answer.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[ReasoningDelta] = []
        self._calls: dict[int, pb.ToolCall] = {}

    def add(self, event: AnswerEvent) -> None:
        """
        Take one event in.
        """
        match event:
            case TextDelta():
                self._text.append(event.text)
            case ReasoningDelta():
                self._reasoning.append(event)
            case ToolCallDelta():
                call = self._calls.setdefault(event.index, pb.ToolCall())
                call.id += event.id
                call.name += event.name
                call.arguments_json += event.arguments
                call.signature += event.signature

    def response(self, ended: Ended) -> pb.GenerateTextResponse:
        """
        Write the answer.
        """
        answer = pb.GenerateTextResponse(
            text="".join(self._text),
            tool_calls=[call for _, call in sorted(self._calls.items())],
            finish_reason=_FINISH_REASONS[ended.receipt.finish_reason],
            receipt=receipt(ended.receipt),
            resealed_keys=resealed_keys(ended.resealed),
        )
        if self._reasoning:
            answer.reasoning.text = "".join(part.text for part in self._reasoning)
            answer.reasoning.signature = "".join(part.signature for part in self._reasoning)
        return answer


def _start(event: Started) -> pb.TextStart:
    return pb.TextStart(
        payer=FUNDINGS[event.payer],
        provider=event.provider,
        model=event.model,
        key_hint=event.key_hint,
        fallback=event.fallback,
    )


def _text_input(message: pb.TextInput) -> TextInput:
    if not message.messages:
        raise InvalidArgumentError.of("input.messages", "must hold at least one message")
    at_most(len(message.messages), MESSAGES_MAX, "input.messages", "messages")
    at_most(len(message.tools), TOOLS_MAX, "input.tools", "tools")
    at_most(len(message.stop), STOPS_MAX, "input.stop", "sequences")
    for index, stop in enumerate(message.stop):
        if not 1 <= len(stop) <= STOP_CHARACTERS_MAX:
            raise InvalidArgumentError.of(
                f"input.stop[{index}]", f"must be 1 to {STOP_CHARACTERS_MAX} characters"
            )
    text_input = TextInput(
        messages=tuple(
            _message(turn, f"input.messages[{index}]")
            for index, turn in enumerate(message.messages)
        ),
        system=message.system,
        tools=tuple(_tool(t, f"input.tools[{i}]") for i, t in enumerate(message.tools)),
        response_schema=_schema(message),
        temperature=_number(message, "temperature", low=0.0, high=TEMPERATURE_MAX),
        top_p=_number(message, "top_p", low=1e-9, high=1.0),
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
        max_output_tokens=_output_limit(message),
        reasoning_effort=choice(_EFFORTS, message.reasoning_effort, "input.reasoning_effort"),
        tool_choice=_tool_choice(message),
        top_k=_top_k(message),
    )
    _check_results(text_input.messages)
    _check_sizes(text_input)
    return text_input


def _message(message: pb.Message, field: str) -> Message:
    role = choice(_ROLES, message.role, f"{field}.role")
    if role is None:
        raise InvalidArgumentError.of(f"{field}.role", "is required")
    if not message.parts:
        raise InvalidArgumentError.of(f"{field}.parts", "must hold at least one part")
    at_most(len(message.parts), PARTS_MAX, f"{field}.parts", "parts")
    parts = tuple(_part(part, f"{field}.parts[{i}]") for i, part in enumerate(message.parts))
    for index, part in enumerate(parts):
        if not isinstance(part, _PARTS_BY_ROLE[role]):
            raise InvalidArgumentError.of(
                f"{field}.parts[{index}]", f"a {role} message does not hold this kind of part"
            )
    return Message(role, parts)


def _part(part: pb.Part, field: str) -> Part:
    match part.WhichOneof("content"):
        case "text":
            return TextPart(part.text)
        case "image":
            return image(part.image, f"{field}.image")
        case "tool_call":
            call = part.tool_call
            _tool_name(call.name, f"{field}.tool_call.name")
            return ToolCall(call.id, call.name, call.arguments_json, call.signature)
        case "tool_result":
            result = part.tool_result
            if not result.tool_call_id:
                raise InvalidArgumentError.of(f"{field}.tool_result.tool_call_id", "is required")
            return ToolResult(result.tool_call_id, result.content, result.failed)
        case "reasoning":
            return ReasoningPart(part.reasoning.text, part.reasoning.signature)
        case _:
            raise InvalidArgumentError.of(field, "holds nothing; set exactly one of its contents")


def _tool(tool: pb.Tool, field: str) -> Tool:
    _tool_name(tool.name, f"{field}.name")
    schema = tool.parameters_json or '{"type":"object","properties":{}}'
    _check_object(schema, f"{field}.parameters_json")
    return Tool(tool.name, tool.description, schema)


def _tool_choice(message: pb.TextInput) -> ToolChoice | None:
    asked = message.tool_choice
    mode = choice(_TOOL_MODES, asked.mode, "input.tool_choice.mode")
    if mode is None and not asked.name:
        return None
    names = [tool.name for tool in message.tools]
    if not names:
        raise InvalidArgumentError.of("input.tool_choice", "needs tools; input.tools holds none")
    if asked.name and mode is not ToolMode.REQUIRED:
        advice = "names a tool, so mode must be TOOL_MODE_REQUIRED"
        raise InvalidArgumentError.of("input.tool_choice.name", advice)
    if asked.name and asked.name not in names:
        advice = f"'{asked.name}' is none of the tools, which are {', '.join(names)}"
        raise InvalidArgumentError.of("input.tool_choice.name", advice)
    return None if mode is None else ToolChoice(mode, asked.name)


def _top_k(message: pb.TextInput) -> int | None:
    if not message.HasField("top_k"):
        return None
    if not 1 <= message.top_k <= TOP_K_MAX:
        raise InvalidArgumentError.of("input.top_k", f"must be 1 to {TOP_K_MAX}")
    return message.top_k


def _schema(message: pb.TextInput) -> ResponseSchema | None:
    if not message.HasField("response_schema"):
        return None
    schema = message.response_schema
    _tool_name(schema.name, "input.response_schema.name")
    _check_object(schema.schema_json, "input.response_schema.schema_json")
    return ResponseSchema(schema.name, schema.schema_json)


def _tool_name(name: str, field: str) -> None:
    if not _TOOL_NAME.fullmatch(name):
        raise InvalidArgumentError.of(field, "must be 1 to 64 letters, digits, '_' or '-'")


def _check_object(text: str, field: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidArgumentError.of(field, "must be the JSON text of an object")


def _number(message: pb.TextInput, name: str, *, low: float, high: float) -> float | None:
    if not message.HasField(name):  # type: ignore[arg-type]
        return None
    value: float = getattr(message, name)
    if not low <= value <= high:
        raise InvalidArgumentError.of(f"input.{name}", f"must be from {low:g} to {high:g}")
    return value


def _output_limit(message: pb.TextInput) -> int | None:
    if not message.HasField("max_output_tokens"):
        return None
    if not 1 <= message.max_output_tokens <= OUTPUT_TOKENS_MAX:
        raise InvalidArgumentError.of(
            "input.max_output_tokens", f"must be from 1 to {OUTPUT_TOKENS_MAX}"
        )
    return message.max_output_tokens


def _check_results(messages: tuple[Message, ...]) -> None:
    """
    Refuse a result of a call that no earlier message holds: no provider takes it.
    """
    called: set[str] = set()
    for index, message in enumerate(messages):
        for place, part in enumerate(message.parts):
            if isinstance(part, ToolCall):
                called.add(part.id)
            if isinstance(part, ToolResult) and part.tool_call_id not in called:
                raise InvalidArgumentError.of(
                    f"input.messages[{index}].parts[{place}].tool_result.tool_call_id",
                    f"'{part.tool_call_id}' is no call of an earlier assistant message",
                )


def _check_sizes(text_input: TextInput) -> None:
    size = text_input.text_bytes
    if size > TEXT_BYTES_MAX:
        raise InvalidArgumentError.of(
            "input", f"holds {size} bytes of text, more than {TEXT_BYTES_MAX}; shorten it"
        )
    images = sum(
        len(part.data)
        for message in text_input.messages
        for part in message.parts
        if isinstance(part, ImagePart)
    )
    if images > IMAGES_BYTES_MAX:
        raise InvalidArgumentError.of(
            "input.messages", f"hold {images} bytes of images, more than {IMAGES_BYTES_MAX}"
        )
