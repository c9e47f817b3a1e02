# SPDX-License-Identifier: Apache-2.0
"""
Decodes OpenAI's Responses format, https://developers.openai.com/api/reference/resources/responses .

The end of a stream is `response.completed` or `response.incomplete`; there is no `[DONE]`.
A stream can fail after its 200 by an `error` event, by `response.failed`, or by both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
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
from services.router.providers.classify import (
    ErrorFacts,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.openai_chat import error_facts, nano_usd, parse_chat_error
from services.router.providers.sse import SSEEvent
from services.router.providers.sse_decoder import HTTP_OK, SSEDecoder
from services.router.providers.typed_events import kind_of

__all__ = ["ResponsesDecoder", "parse_responses"]

_INCOMPLETE_REASONS = {
    "max_output_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_TEXT_EVENTS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING_EVENTS = frozenset(
    {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}
)
_ENDS = frozenset({"response.completed", "response.incomplete"})
_EVENTS = (
    _TEXT_EVENTS
    | _REASONING_EVENTS
    | _ENDS
    | {
        "error",
        "response.failed",
        "response.function_call_arguments.delta",
        "response.output_item.added",
    }
)


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cost: Decimal | None = None
    """OpenRouter: USD."""

    def normalised(self) -> Usage:
        """
        Totals are totals already.
        """
        inputs = self.input_tokens_details or _InputDetails()
        outputs = self.output_tokens_details or _OutputDetails()
        return Usage(
            input_tokens=self.input_tokens or 0,
            output_tokens=self.output_tokens or 0,
            cached_input_tokens=inputs.cached_tokens or 0,
            reasoning_tokens=outputs.reasoning_tokens or 0,
            provider_cost_nano_usd=nano_usd(self.cost),
        )


class _Content(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[_Content] | None = None
    summary: list[_Content] | None = None


class _IncompleteDetails(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    """
    What an event tells of its response; the output came in pieces before.
    """

    model: str | None = None
    status: str | None = None
    usage: _Usage | None = None
    error: Any = None
    incomplete_details: _IncompleteDetails | None = None


class _WholeResponse(_Response):
    output: list[_Item] | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    delta: str | None = None
    output_index: int | None = None
    item: _Item | None = None
    response: _Response | None = None
    error: Any = None
    code: str | None = None
    message: str | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_WholeResponse).decode


def _read_event(data: bytes) -> _Event | None:
    """
    Give an event; None where its type is not known and its shape is another.

    Raises:
        msgspec.DecodeError: It is not JSON, or not of the shape of its type.
    """
    try:
        return _decode_event(data)
    except msgspec.ValidationError:
        if kind_of(data) in _EVENTS:
            raise
        return None


class ResponsesDecoder(SSEDecoder):
    """
    Decodes a stream of Responses events.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self._tool_indexes: dict[int, int] = {}
        self._refused = False

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one event; unknown ones carry nothing that is needed.
        """
        read = _read_event(event.data)
        if read is None:
            return
        # The field names the event; gateways that drop it leave the line that names it too.
        kind = read.type or event.event.decode()
        if kind in _TEXT_EVENTS:
            self._refused = self._refused or kind == "response.refusal.delta"
            if read.delta:
                out.append(TextDelta(read.delta))
        elif kind in _REASONING_EVENTS:
            if read.delta:
                out.append(ReasoningDelta(read.delta))
        elif kind == "response.function_call_arguments.delta":
            index = self._tool_index(read.output_index)
            out.append(ToolCallDelta(index, "", "", read.delta or ""))
        elif kind == "response.output_item.added":
            self._item_added(read, out)
        elif kind == "error":
            error = read.error or {"code": read.code, "message": read.message}
            raise self.error(_inside(error, self.usage))
        elif read.response is not None:
            self._response(kind, read.response, out)

    def _item_added(self, read: _Event, out: list[StreamEvent]) -> None:
        item = read.item
        if item is not None and item.type == "function_call":
            index = self._tool_index(read.output_index)
            out.append(
                ToolCallDelta(index, item.call_id or "", item.name or "", item.arguments or "")
            )

    def _response(self, kind: str, response: _Response, out: list[StreamEvent]) -> None:
        self.model = response.model or self.model
        if response.usage is not None:
            self.usage = response.usage.normalised()
        if kind == "response.failed":
            raise self.error(_inside(response.error, self.usage))
        if kind in _ENDS:
            if self.usage is not None:
                out.append(UsageReport(self.usage))
            reason = _finish_reason(
                response, called=bool(self._tool_indexes), refused=self._refused
            )
            self.end(reason, out)

    def _tool_index(self, output_index: int | None) -> int:
        return self._tool_indexes.setdefault(output_index or 0, len(self._tool_indexes))

    def stray_error(self, stray: bytes) -> ErrorFacts | None:
        """
        Find the error object of a body that is plain JSON in place of a stream.
        """
        error = decode_object(stray).get("error")
        return None if error is None else _inside(error, self.usage)


def parse_responses(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    """
    Read a whole answer.

    Raises:
        ProviderError: The status is not 200, or the response failed.
    """
    if status != HTTP_OK:
        raise parse_chat_error(table, status, headers, body, now=now)
    try:
        response = _decode_response(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(table, http_status=status, cut=False) from None
    usage = None if response.usage is None else response.usage.normalised()
    if response.error is not None or response.status == "failed":
        facts = _inside(response.error, usage)
        raise classify(table, facts, http_status=status, now=now)
    if response.output is None or response.status not in ("completed", "incomplete"):
        raise broken(table, http_status=status, cut=False, usage=usage)
    items = response.output
    contents = [part for item in items if item.type == "message" for part in item.content or ()]
    refused = any(part.refusal for part in contents)
    calls = tuple(
        ToolCall(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")
        for item in items
        if item.type == "function_call"
    )
    return Completion(
        text="".join(part.text or part.refusal or "" for part in contents),
        reasoning="".join(part.text or "" for item in items for part in _thoughts(item)),
        tool_calls=calls,
        finish_reason=_finish_reason(response, called=bool(calls), refused=refused),
        usage=usage,
        model=response.model or "",
    )


def _thoughts(item: _Item) -> list[_Content]:
    """
    Give the pieces of an item that are thoughts: open models tell them whole, others in summary.
    """
    return [*(item.summary or ()), *(item.content or ())] if item.type == "reasoning" else []


def _finish_reason(response: _Response, *, called: bool, refused: bool) -> FinishReason:
    if response.status == "incomplete" or response.incomplete_details is not None:
        details = response.incomplete_details or _IncompleteDetails()
        return _INCOMPLETE_REASONS.get(details.reason or "", FinishReason.OTHER)
    if refused:
        return FinishReason.CONTENT_FILTER
    return FinishReason.TOOL_CALLS if called else FinishReason.STOP


def _inside(error: object, usage: Usage | None) -> ErrorFacts:
    return error_facts(error, status=HTTP_OK, inside_answer=True, usage=usage)
