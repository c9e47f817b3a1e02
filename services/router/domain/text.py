# SPDX-License-Identifier: Apache-2.0
"""
Text generation in provider-neutral terms: the call, the answer, the stream's events.

Pure values. A dialect turns a `TextCall` into one provider's request and that provider's
answer into a `Completion` or a sequence of events. Token counts are normalised here once,
so that nobody downstream adds the wrong fields: see `Usage`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection


REDACTED = "redacted:"
"""Marks a signature over reasoning that its provider keeps to itself: there is no text to it."""


TOOL_RESULT_FAILED = "messages.tool_result.failed"
TOOL_CALL_SIGNATURE = "messages.tool_call.signature"
EARLIER_REASONING = "messages.reasoning"
REASONING_SIGNATURE = "messages.reasoning.signature"
LENIENT_SCHEMA = "response_schema.strict"
"""Fields within others that a call can do without, by the names that requests know them under."""


class Role(StrEnum):
    """
    Who speaks in a message. The system prompt is a field of the call, not a message.
    """

    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class TextPart:
    """
    Plain text.
    """

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """
    An image sent inline, as its bytes.
    """

    media_type: str
    """An IANA media type such as `image/png`."""
    data: bytes


@dataclass(frozen=True, slots=True)
class ImageURLPart:
    """
    An image that the provider fetches by itself from a public HTTPS address.
    """

    url: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """
    Reasoning of an earlier answer, handed back so that the model can continue from it.
    """

    text: str
    signature: str
    """Opaque proof from the provider that the text is unchanged."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """
    A call the model wants made; also a message part when the conversation is handed back.
    """

    id: str
    name: str
    arguments: str
    """JSON text as the model wrote it; it need not be valid."""
    signature: str = ""
    """Opaque state some providers demand back with the call (Gemini's thoughtSignature)."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """
    What came of a tool call.
    """

    tool_call_id: str
    content: str
    failed: bool = False


Part = TextPart | ImagePart | ImageURLPart | ReasoningPart | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    """
    One turn of the conversation.

    A USER message holds text and images, an ASSISTANT message text, reasoning and tool
    calls, a TOOL message tool results only.
    """

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """
    A function the model may ask to be called.
    """

    name: str
    description: str
    parameters_json: str
    """JSON Schema of the arguments, as JSON text of an object."""


class ToolMode(StrEnum):
    """
    Whether the model calls tools, where that is not its own to decide.
    """

    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """
    What the model is to do with the tools.
    """

    mode: ToolMode
    name: str = ""
    """The one tool that it must call; empty for any."""


@dataclass(frozen=True, slots=True)
class ResponseSchema:
    """
    The JSON Schema the answer's text must satisfy.
    """

    name: str
    schema_json: str
    """JSON text of an object."""
    strict: bool = True


class ReasoningEffort(StrEnum):
    """
    How much a reasoning model may think before it answers.
    """

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCall:
    """
    One text generation, addressed to one model of one provider.
    """

    model: str
    """The model id as the provider knows it, e.g. `gpt-4o-mini`."""
    messages: tuple[Message, ...]
    max_output_tokens: int
    """Always sent: the hold for the worst case rests on it. At least 1."""
    system: str = ""
    tools: tuple[Tool, ...] = ()
    response_schema: ResponseSchema | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning_effort: ReasoningEffort | None = None
    tool_choice: ToolChoice | None = None
    """None lets the model decide."""
    top_k: int | None = None
    stream: bool = False

    def without(self, fields: Collection[str]) -> TextCall:
        """
        Give the call without some fields that only tune the answer.
        """
        if not fields:
            return self
        changes = {name: _UNTUNED[name] for name in fields if name in _UNTUNED}
        if LENIENT_SCHEMA in fields and self.response_schema is not None:
            changes["response_schema"] = dataclasses.replace(self.response_schema, strict=True)
        kept = (
            Message(m.role, tuple(part for p in m.parts if (part := _part_without(p, fields))))
            for m in self.messages
        )
        changes["messages"] = tuple(message for message in kept if message.parts)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def holds(self, *fields: str) -> list[str]:
        """
        Name those of some fields within others that the call sets.
        """
        parts = [part for message in self.messages for part in message.parts]
        held = {
            TOOL_RESULT_FAILED: any(isinstance(p, ToolResult) and p.failed for p in parts),
            TOOL_CALL_SIGNATURE: any(isinstance(p, ToolCall) and p.signature for p in parts),
            EARLIER_REASONING: any(isinstance(p, ReasoningPart) for p in parts),
            REASONING_SIGNATURE: any(isinstance(p, ReasoningPart) and p.signature for p in parts),
            LENIENT_SCHEMA: self.response_schema is not None and not self.response_schema.strict,
        }
        return [field for field in fields if held[field]]


def _part_without(part: Part, fields: Collection[str]) -> Part | None:
    match part:
        case ToolResult() if TOOL_RESULT_FAILED in fields:
            return dataclasses.replace(part, failed=False)
        case ToolCall() if TOOL_CALL_SIGNATURE in fields:
            return dataclasses.replace(part, signature="")
        case ReasoningPart() if EARLIER_REASONING in fields:
            return None
        case ReasoningPart() if REASONING_SIGNATURE in fields:
            return dataclasses.replace(part, signature="") if part.text else None
        case _:
            return part


_UNTUNED: dict[str, object] = {
    "temperature": None,
    "top_p": None,
    "stop": (),
    "seed": None,
    "reasoning_effort": None,
    "top_k": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """
    Tokens of one answer, normalised so that every token is counted in exactly one total.

    `input_tokens` and `output_tokens` are totals; the other counts are parts of them and
    never added on top. Providers differ: Anthropic's input excludes cached tokens, Gemini's
    candidates exclude thoughts; the dialects add them in.
    """

    input_tokens: int
    """All input, cache reads and cache writes included."""
    output_tokens: int
    """All output, reasoning included."""
    cached_input_tokens: int = 0
    """Part of the input that was read from the provider's cache."""
    cache_write_tokens: int = 0
    """Part of the input that was written to the provider's cache."""
    reasoning_tokens: int = 0
    """Part of the output that was spent on thinking."""
    image_input_tokens: int = 0
    """Part of the input that is images, where the provider tells it apart."""
    image_output_tokens: int = 0
    """Part of the output that is images, where the provider tells it apart."""
    audio_input_tokens: int = 0
    """Part of the input that is sound and was not read from the cache, where the provider tells it
    apart."""
    audio_output_tokens: int = 0
    """Part of the output that is sound, where the provider tells it apart."""
    images: int = 0
    """Images made."""
    characters: int = 0
    """Characters spoken."""
    media_milliseconds: int = 0
    """Length of the video made."""
    machine_milliseconds: int = 0
    """How long the provider's machine worked, where that is what it bills."""
    provider_cost_nano_usd: int | None = None
    """What the provider itself says the answer cost, rounded up, where it says so."""


class FinishReason(StrEnum):
    """
    Why the model stopped.
    """

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """
    A whole answer.
    """

    text: str
    finish_reason: FinishReason
    model: str
    """The model that answered, by the provider's word; it may differ from the one asked."""
    usage: Usage | None
    """None where the provider did not report it."""
    reasoning: str = ""
    reasoning_signature: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


# The events of streams are made by the thousand: these are made in a quarter of a dataclass's time.


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """
    The next piece of the answer's text; never empty.
    """

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    """
    The next piece of the model's reasoning, or of the signature over it.
    """

    text: str
    signature: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True):
    """
    A piece of a tool call. The first piece of an index carries `id` and `name`.
    """

    index: int
    """Position of the call among the answer's tool calls, from 0."""
    id: str
    name: str
    arguments: str
    """The next piece of the arguments' JSON text."""
    signature: str = ""


class UsageReport(msgspec.Struct, frozen=True):
    """
    Usage so far, cumulative: a later report replaces an earlier one, never adds to it.
    """

    usage: Usage


class Finished(msgspec.Struct, frozen=True):
    """
    The provider's own end of the stream; exactly one, and always the last event.
    """

    finish_reason: FinishReason
    usage: Usage | None
    model: str


StreamEvent = TextDelta | ReasoningDelta | ToolCallDelta | UsageReport | Finished
