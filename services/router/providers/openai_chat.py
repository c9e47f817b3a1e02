# SPDX-License-Identifier: Apache-2.0
"""
The chat-completions format, shared by every provider that speaks it.

https://developers.openai.com/api/reference/resources/chat : what differs between providers is
data beside it, not code. The end of a stream is `data: [DONE]` after a `finish_reason`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

import msgspec

from services.router.domain.text import (
    Completion,
    FinishReason,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from services.router.providers.base import ProviderError
from services.router.providers.classify import (
    ErrorFacts,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.sse import SSEEvent
from services.router.providers.sse_decoder import HTTP_OK, SSEDecoder

__all__ = ["ChatDecoder", "error_facts", "nano_usd", "parse_chat", "parse_chat_error"]

_DONE = b"[DONE]"

_FILTERED = "content_filter"
_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    _FILTERED: FinishReason.CONTENT_FILTER,
}

_FINISH_ERROR = "error"
"""OpenRouter: the upstream failed, https://openrouter.ai/docs/api/errors ."""

_STATUS = re.compile(r"[45]\d\d")
_NANO = Decimal(1_000_000_000)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _ReasoningDetail(msgspec.Struct):
    signature: str | None = None


class _Message(msgspec.Struct):
    """
    A whole message and a delta: the same fields.
    """

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    """OpenRouter's name."""
    reasoning_content: str | None = None
    """DeepSeek's name."""
    reasoning_details: list[_ReasoningDetail] | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    """The one call of the older format."""

    def calls(self) -> Sequence[_ToolCall]:
        """
        Give the tool calls, or the pieces of them.
        """
        if self.function_call is not None:
            return (_ToolCall(function=self.function_call),)
        return self.tool_calls or ()


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's name for cached tokens."""
    cost: Decimal | None = None
    """OpenRouter: USD."""

    def normalised(self) -> Usage:
        """
        Totals are totals already: prompt includes cached, completion includes reasoning.
        """
        inputs = self.prompt_tokens_details or _InputDetails()
        outputs = self.completion_tokens_details or _OutputDetails()
        return Usage(
            input_tokens=self.prompt_tokens or 0,
            output_tokens=self.completion_tokens or 0,
            cached_input_tokens=inputs.cached_tokens or self.prompt_cache_hit_tokens or 0,
            cache_write_tokens=inputs.cache_write_tokens or 0,
            reasoning_tokens=outputs.reasoning_tokens or 0,
            audio_input_tokens=inputs.audio_tokens or 0,
            audio_output_tokens=outputs.audio_tokens or 0,
            provider_cost_nano_usd=nano_usd(self.cost),
        )


class _Answer(msgspec.Struct):
    """
    A whole answer and a chunk of a stream: the same fields.
    """

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None

    def choice(self) -> _Choice | None:
        """
        Give the first of the alternatives; one is all that is asked for.
        """
        return next((choice for choice in self.choices or () if not choice.index), None)


_decode = msgspec.json.Decoder(_Answer).decode


class ChatDecoder(SSEDecoder):
    """
    Decodes a stream of chat-completion chunks.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self._finish_reason: FinishReason | None = None
        self._refused = False
        self._called = False

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one chunk.
        """
        if event.data == _DONE:
            self._done(out)
            return
        answer = _decode(event.data)
        if answer.error is not None:
            if answer.usage is not None:
                self.usage = answer.usage.normalised()
            raise self.error(_inside(answer.error, self.usage))
        if answer.model:
            self.model = answer.model
        # Azure's first chunk and OpenAI's usage chunk have no choices.
        choice = answer.choice()
        if choice is not None:
            self._choice(choice, out)
        if answer.usage is not None:
            self.usage = answer.usage.normalised()
            out.append(UsageReport(self.usage))

    def _choice(self, choice: _Choice, out: list[StreamEvent]) -> None:
        if choice.error is not None:
            raise self.error(_inside(choice.error, self.usage))
        delta = choice.delta
        if delta is not None:
            if delta.content:
                out.append(TextDelta(delta.content))
            if delta.refusal:
                self._refused = True
                out.append(TextDelta(delta.refusal))
            reasoning = delta.reasoning or delta.reasoning_content or ""
            signature = _signature(delta)
            if reasoning or signature:
                out.append(ReasoningDelta(reasoning, signature))
            for call in delta.calls():
                self._called = True
                function = call.function or _Function()
                name, arguments = function.name or "", function.arguments or ""
                out.append(ToolCallDelta(call.index or 0, call.id or "", name, arguments))
        if choice.finish_reason == _FINISH_ERROR:
            raise self.error(_inside({"code": _FINISH_ERROR}, self.usage))
        if choice.finish_reason:
            self._finish_reason = _finish_reason(
                choice.finish_reason, refused=self._refused, called=self._called
            )

    def _done(self, out: list[StreamEvent]) -> None:
        if self._finish_reason is None:
            raise broken(self.table, http_status=HTTP_OK, cut=True, usage=self.usage)
        self.end(self._finish_reason, out)

    def is_end_marker(self, event: SSEEvent) -> bool:
        """
        Tell whether this is `[DONE]`.
        """
        return event.data == _DONE

    def stray_error(self, stray: bytes) -> ErrorFacts | None:
        """
        Find the error object of a body that is plain JSON in place of a stream.
        """
        error = decode_object(stray).get("error")
        return None if error is None else _inside(error, self.usage)


def parse_chat(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    """
    Read a whole answer. Leading blanks in the body are keep-alive, and harmless.

    Raises:
        ProviderError: The status is not 200, or the body carries an error.
    """
    if status != HTTP_OK:
        raise parse_chat_error(table, status, headers, body, now=now)
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(table, http_status=status, cut=False) from None
    usage = None if answer.usage is None else answer.usage.normalised()
    choice = answer.choice() or _Choice()
    error = answer.error if answer.error is not None else choice.error
    if error is None and choice.finish_reason == _FINISH_ERROR:
        error = {"code": _FINISH_ERROR}
    if error is not None:
        facts = _inside(error, usage, headers)
        raise classify(table, facts, http_status=status, now=now)
    # Azure leaves the message out of an answer that its filter held back whole.
    filtered = choice.finish_reason == _FILTERED
    if not choice.finish_reason or (choice.message is None and not filtered):
        raise broken(table, http_status=status, cut=False, usage=usage)
    message = choice.message or _Message()
    calls = tuple(_tool_call(call) for call in message.calls())
    return Completion(
        text=message.content or message.refusal or "",
        reasoning=message.reasoning or message.reasoning_content or "",
        reasoning_signature=_signature(message),
        tool_calls=calls,
        finish_reason=_finish_reason(
            choice.finish_reason, refused=bool(message.refusal), called=bool(calls)
        ),
        usage=usage,
        model=answer.model or "",
    )


def parse_chat_error(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> ProviderError:
    """
    Classify an answer whose status is not 200.
    """
    refusal = decode_object(body)
    # Gateways before the API answer without the envelope: `{statusCode, message}`.
    error = refusal.get("error") or refusal
    facts = error_facts(error, status=status, headers=headers)
    return classify(table, facts, http_status=status, now=now)


def error_facts(
    error: object,
    *,
    status: int,
    headers: Mapping[str, str] | None = None,
    inside_answer: bool = False,
    usage: Usage | None = None,
) -> ErrorFacts:
    """
    Take the facts out of an `error` value: `{message, type, param, code, metadata}` or text.

    OpenRouter's `code` is a number that stands for a status, Azure's is text; `metadata` holds
    OpenRouter's `limit_source`, `raw` (the upstream's own words), `headers` and `resets_at`.
    """
    fields = error if isinstance(error, dict) else {"message": error}
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    code = fields.get("code")
    words = (code, fields.get("type"), metadata.get("limit_source"), metadata.get("error_type"))
    merged = dict(headers or {})
    extra = metadata.get("headers")
    if isinstance(extra, dict):
        merged.update((str(name).lower(), str(value)) for name, value in extra.items())
    texts = (fields.get("message"), metadata.get("raw"))
    return ErrorFacts(
        status=_status_of(code) or status if inside_answer else status,
        codes=frozenset(str(word).lower() for word in words if word is not None)
        | frozenset({"metadata.reasons"} if metadata.get("reasons") else ()),
        text=" ".join(text for text in texts if isinstance(text, str)),
        reset=str(metadata.get("resets_at") or ""),
        headers=merged,
        inside_answer=inside_answer,
        usage=usage,
    )


def nano_usd(cost: Decimal | None) -> int | None:
    """
    Give a cost in USD as nano-USD, rounded up.
    """
    return None if cost is None else int((cost * _NANO).to_integral_value(ROUND_CEILING))


def _status_of(code: object) -> int | None:
    """
    Read a code that stands for a status, which only what came inside an answer needs.
    """
    text = str(code)
    return int(text) if _STATUS.fullmatch(text) else None


def _inside(
    error: object, usage: Usage | None, headers: Mapping[str, str] | None = None
) -> ErrorFacts:
    return error_facts(error, status=HTTP_OK, headers=headers, inside_answer=True, usage=usage)


def _finish_reason(word: str, *, refused: bool, called: bool) -> FinishReason:
    """
    Give the reason for an end; that of a call which was asked for by name is told as `stop`
    (https://developers.openai.com/docs/guides/function-calling ).
    """
    if refused:
        return FinishReason.CONTENT_FILTER
    reason = _FINISH_REASONS.get(word, FinishReason.OTHER)
    return FinishReason.TOOL_CALLS if called and reason is FinishReason.STOP else reason


def _signature(message: _Message) -> str:
    for detail in message.reasoning_details or ():
        if detail.signature:
            return detail.signature
    return ""


def _tool_call(call: _ToolCall) -> ToolCall:
    function = call.function or _Function()
    return ToolCall(id=call.id or "", name=function.name or "", arguments=function.arguments or "")
