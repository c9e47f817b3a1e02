# SPDX-License-Identifier: Apache-2.0
"""
Reads requests for text, and writes their answers.

Whatever is wrong in a request whatever the state of the system is refused here, by field.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias, TypeVar

from ownkey.router.v1 import text_pb2 as pb

from services.router.domain.request import (
    Preferences,
    Sort,
    Source,
    TextInput,
    TextRequest,
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
    StreamEvent,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
)
from services.router.domain.token_bound import text_bytes
from services.router.rpc.mapping_receipt import FUNDINGS, receipt
from services.router.usecases.engine import Ended, Event, Started
from services.router.usecases.ports import PLATFORM
from services.shared.errors import InternalError, InvalidArgumentError
from services.shared.ids import parse_uuid
from services.shared.names import ACCOUNT

MESSAGES_MAX = 1_000
PARTS_MAX = 256
TOOLS_MAX = 128
STOPS_MAX = 4
STOP_CHARACTERS_MAX = 256
PROVIDERS_MAX = 32
TEXT_BYTES_MAX = 4 * 1024 * 1024
IMAGE_BYTES_MAX = 20 * 1024 * 1024
IMAGES_BYTES_MAX = 24 * 1024 * 1024
URL_CHARACTERS_MAX = 2_048
OUTPUT_TOKENS_MAX = 1_000_000
TEMPERATURE_MAX = 2.0
TOKEN_RATE_MAX = 10**15

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

T = TypeVar("T")

AnyTextRequest: TypeAlias = pb.GenerateTextRequest | pb.StreamTextRequest

_SOURCES = (Source.AUTO, Source.AUTO, Source.OWN_KEY, Source.CREDITS)
_TIERS = (Tier.DEFAULT, Tier.QUALITY, Tier.SPEED)
_SORTS = (Sort.CATALOGUE, Sort.PRICE, Sort.LATENCY, Sort.THROUGHPUT)
_ROLES = (None, Role.USER, Role.ASSISTANT, Role.TOOL)
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


def text_request(message: AnyTextRequest, *, request_id: str | None = None) -> TextRequest:
    """
    Read a request.

    Args:
        message: What the caller sent.
        request_id: Used where the caller need not send one.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    ACCOUNT.parse(message.account, "account")
    if message.account == PLATFORM:
        raise InvalidArgumentError.of("account", "is reserved for the product's shared keys")
    if message.model and not _MODEL.fullmatch(message.model):
        raise InvalidArgumentError.of(
            "model", "must be vendor/model, for example openai/gpt-4o-mini, or empty"
        )
    return TextRequest(
        account=message.account,
        request_id=request_id or parse_uuid(message.request_id, "request_id"),
        model=message.model,
        tier=_choice(_TIERS, message.tier, "tier"),
        source=_choice(_SOURCES, message.source, "source"),
        preferences=_preferences(message.route),
        input=_text_input(message.input),
        stream=isinstance(message, pb.StreamTextRequest),
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

    def add(self, event: StreamEvent) -> None:
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


def _preferences(route: pb.RoutePreferences) -> Preferences:
    for name in ("order", "only", "ignore"):
        _at_most(len(getattr(route, name)), PROVIDERS_MAX, f"route.{name}", "providers")
    if len(set(route.order)) != len(route.order):
        raise InvalidArgumentError.of("route.order", "names a provider twice")
    limits = {}
    for name in ("input", "output"):
        field = f"{name}_nano_usd_per_million_tokens"
        value = getattr(route.max_price, field) if route.max_price.HasField(field) else None  # type: ignore[arg-type]
        if value is not None and not 0 <= value <= TOKEN_RATE_MAX:
            raise InvalidArgumentError.of(
                f"route.max_price.{field}", f"must be from 0 to {TOKEN_RATE_MAX}"
            )
        limits[name] = value
    return Preferences(
        order=tuple(route.order),
        only=frozenset(route.only),
        ignore=frozenset(route.ignore),
        allow_fallbacks=route.allow_fallbacks if route.HasField("allow_fallbacks") else True,
        max_input_rate=limits["input"],
        max_output_rate=limits["output"],
        require_parameters=route.require_parameters,
        sort=_choice(_SORTS, route.sort, "route.sort"),
    )


def _text_input(message: pb.TextInput) -> TextInput:
    if not message.messages:
        raise InvalidArgumentError.of("input.messages", "must hold at least one message")
    _at_most(len(message.messages), MESSAGES_MAX, "input.messages", "messages")
    _at_most(len(message.tools), TOOLS_MAX, "input.tools", "tools")
    _at_most(len(message.stop), STOPS_MAX, "input.stop", "sequences")
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
        reasoning_effort=_choice(_EFFORTS, message.reasoning_effort, "input.reasoning_effort"),
    )
    _check_sizes(text_input)
    return text_input


def _message(message: pb.Message, field: str) -> Message:
    role = _choice(_ROLES, message.role, f"{field}.role")
    if role is None:
        raise InvalidArgumentError.of(f"{field}.role", "is required")
    if not message.parts:
        raise InvalidArgumentError.of(f"{field}.parts", "must hold at least one part")
    _at_most(len(message.parts), PARTS_MAX, f"{field}.parts", "parts")
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
            return _image(part.image, f"{field}.image")
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


def _image(image: pb.Image, field: str) -> ImagePart | ImageURLPart:
    if image.WhichOneof("content") == "url":
        if not image.url.startswith("https://") or len(image.url) > URL_CHARACTERS_MAX:
            raise InvalidArgumentError.of(
                f"{field}.url", f"must begin with https:// and have {URL_CHARACTERS_MAX} at most"
            )
        return ImageURLPart(image.url)
    if not 1 <= len(image.data) <= IMAGE_BYTES_MAX:
        raise InvalidArgumentError.of(f"{field}.data", f"must be 1 to {IMAGE_BYTES_MAX} bytes")
    if image.media_type not in _IMAGE_TYPES:
        raise InvalidArgumentError.of(
            f"{field}.media_type", f"must be one of {', '.join(sorted(_IMAGE_TYPES))}"
        )
    return ImagePart(image.media_type, image.data)


def _tool(tool: pb.Tool, field: str) -> Tool:
    _tool_name(tool.name, f"{field}.name")
    schema = tool.parameters_json or '{"type":"object","properties":{}}'
    _check_object(schema, f"{field}.parameters_json")
    return Tool(tool.name, tool.description, schema)


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


def _check_sizes(text_input: TextInput) -> None:
    size = text_bytes(text_input)
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


def _at_most(count: int, limit: int, field: str, what: str) -> None:
    if count > limit:
        raise InvalidArgumentError.of(field, f"holds {count} {what}, more than {limit}")


def _choice(options: tuple[T, ...], value: int, field: str) -> T:
    if not 0 <= value < len(options):
        raise InvalidArgumentError.of(field, f"{value} is no value of this field")
    return options[value]
