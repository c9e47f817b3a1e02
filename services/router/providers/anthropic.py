# SPDX-License-Identifier: Apache-2.0
"""
Anthropic's Messages API: https://platform.claude.com/docs/en/api/messages .

The end of a stream is `message_stop`. Usage in a stream is cumulative: the last word counts.
Input tokens exclude what was read from and written to the cache; `Usage` includes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Completion,
    FinishReason,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCall,
    Usage,
    UsageReport,
)
from services.router.providers.anthropic_request import (
    REDACTED,
    build_messages_body,
    unsupported_fields,
)
from services.router.providers.base import Credential, ProviderError
from services.router.providers.classify import (
    ErrorFacts,
    ErrorRule,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.dialect import HTTPDialect
from services.router.providers.probe import FreeCallFinding, ProbePlan
from services.router.providers.sse import SSEEvent
from services.router.providers.sse_decoder import HTTP_OK, SSEDecoder
from services.router.providers.typed_events import (
    NO_ARGUMENTS,
    BlockCalls,
    arguments_text,
    kind_of,
)

__all__ = ["ANTHROPIC", "TABLE", "AnthropicDecoder", "parse_message", "parse_message_error"]

API_VERSION = "2023-06-01"
"""https://platform.claude.com/docs/en/api/versioning"""

_ERRORS = "https://platform.claude.com/docs/en/api/errors"

TABLE = ErrorTable(
    title="Anthropic",
    rules=(
        ErrorRule(
            outcome=Outcome.EXPIRED_CREDENTIALS, source=_ERRORS, status=(401,), text=r"expired"
        ),
        ErrorRule(
            outcome=Outcome.INSUFFICIENT_CREDIT,
            source="https://github.com/anthropics/claude-code/issues/35792",
            text=r"credit balance is too low|(?:usage|spend(?:ing)?) limits?\b.*regain access"
            r"|reached your specified .*usage limits|monthly spend",
        ),
        ErrorRule(outcome=Outcome.INSUFFICIENT_CREDIT, source=_ERRORS, code=("billing_error",)),
        ErrorRule(
            outcome=Outcome.CONTENT_FILTERED,
            source=_ERRORS,
            text=r"blocked by content filtering policy",
        ),
        ErrorRule(
            outcome=Outcome.PERMISSION_DENIED,
            source=_ERRORS,
            status=(400,),
            text=r"organization has been disabled",
        ),
        ErrorRule(
            outcome=Outcome.CONTEXT_LENGTH,
            source="https://platform.claude.com/docs/en/build-with-claude/context-windows",
            code=("invalid_request_error", "request_too_large"),
            text=r"prompt is too long|exceed context limit|context window",
        ),
        ErrorRule(outcome=Outcome.INVALID_KEY, source=_ERRORS, code=("authentication_error",)),
        ErrorRule(outcome=Outcome.PERMISSION_DENIED, source=_ERRORS, code=("permission_error",)),
        ErrorRule(
            outcome=Outcome.MODEL_NOT_FOUND,
            source=_ERRORS,
            code=("not_found_error",),
            text=r"\bmodel\b",
        ),
        ErrorRule(outcome=Outcome.NOT_FOUND, source=_ERRORS, code=("not_found_error",)),
        ErrorRule(outcome=Outcome.RATE_LIMITED, source=_ERRORS, code=("rate_limit_error",)),
        ErrorRule(outcome=Outcome.OVERLOADED, source=_ERRORS, code=("overloaded_error",)),
        ErrorRule(outcome=Outcome.TIMEOUT, source=_ERRORS, code=("timeout_error",)),
        ErrorRule(outcome=Outcome.SERVER_ERROR, source=_ERRORS, code=("api_error",)),
        ErrorRule(
            outcome=Outcome.INVALID_REQUEST,
            source=_ERRORS,
            code=("invalid_request_error", "request_too_large"),
        ),
    ),
)

_FINISH_REASONS = {
    # https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None

    def update(self, later: _Usage) -> None:
        """
        Take what a later report says; it may leave fields out.
        """
        for name in self.__struct_fields__:
            value = getattr(later, name)
            if value is not None:
                setattr(self, name, value)

    def normalised(self) -> Usage:
        """
        Add the cached tokens, which Anthropic counts beside the input.
        """
        read = self.cache_read_input_tokens or 0
        written = self.cache_creation_input_tokens or 0
        return Usage(
            input_tokens=(self.input_tokens or 0) + read + written,
            output_tokens=self.output_tokens or 0,
            cached_input_tokens=read,
            cache_write_tokens=written,
        )


class _Block(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = NO_ARGUMENTS

    def reasoning_signature(self) -> str:
        """
        Give the proof over a thinking block; redacted thinking is nothing but proof.
        """
        if self.type == "redacted_thinking":
            return REDACTED + (self.data or "")
        return self.signature or ""


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    content: list[_Block] | None = None
    stop_reason: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    type: str | None = None
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str | None = None
    message: _Message | None = None
    index: int | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_decode_message = msgspec.json.Decoder(_Message).decode


_EVENTS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    }
)
_decode_event = msgspec.json.Decoder(_Event).decode


class AnthropicDecoder(SSEDecoder):
    """
    Decodes a stream of Messages events.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self._calls = BlockCalls()
        self._counts = _Usage()
        self._stop_reason: str | None = None

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one event; `ping` and unknown events are ignored, as the API's page asks.
        """
        try:
            read = _decode_event(event.data)
        except msgspec.ValidationError:
            if kind_of(event.data) in _EVENTS:
                raise
            return
        if read.type == "content_block_delta":
            self._delta(read, out)
        elif read.type == "content_block_start":
            self._block_start(read, out)
        elif read.type == "content_block_stop":
            self._calls.end(read.index, out)
        elif read.type == "message_start" and read.message is not None:
            self.model = read.message.model or ""
            self._report(read.message.usage, out)
        elif read.type == "message_delta":
            self._message_delta(read, out)
        elif read.type == "error":
            raise self.error(_facts(read.error, status=HTTP_OK, usage=self.usage))
        elif read.type == "message_stop":
            self._message_stop(out)

    def _delta(self, read: _Event, out: list[StreamEvent]) -> None:
        delta = read.delta
        if delta is None:
            return
        if delta.type == "text_delta":
            if delta.text:
                out.append(TextDelta(delta.text))
        elif delta.type == "input_json_delta":
            self._calls.add(read.index, delta.partial_json or "", out)
        elif delta.thinking or delta.signature:
            out.append(ReasoningDelta(delta.thinking or "", delta.signature or ""))

    def _block_start(self, read: _Event, out: list[StreamEvent]) -> None:
        block = read.content_block or _Block()
        if block.type == "tool_use":
            self._calls.begin(read.index, block.id or "", block.name or "", out)
        elif block.text:
            out.append(TextDelta(block.text))
        elif block.thinking or block.reasoning_signature():
            out.append(ReasoningDelta(block.thinking or "", block.reasoning_signature()))

    def _message_delta(self, read: _Event, out: list[StreamEvent]) -> None:
        if read.delta is not None and read.delta.stop_reason:
            self._stop_reason = read.delta.stop_reason
        self._report(read.usage, out)

    def _message_stop(self, out: list[StreamEvent]) -> None:
        if self._stop_reason is None:
            raise broken(self.table, http_status=HTTP_OK, cut=True, usage=self.usage)
        self.end(_FINISH_REASONS.get(self._stop_reason, FinishReason.OTHER), out)

    def _report(self, usage: _Usage | None, out: list[StreamEvent]) -> None:
        if usage is not None:
            self._counts.update(usage)
            self.usage = self._counts.normalised()
            out.append(UsageReport(self.usage))

    def stray_error(self, stray: bytes) -> ErrorFacts | None:
        """
        Find the error object of a body that is plain JSON in place of a stream.
        """
        error = decode_object(stray).get("error")
        return None if error is None else _facts(error, status=HTTP_OK, usage=self.usage)


def parse_message(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    """
    Read a whole answer.

    Raises:
        ProviderError: The status is not 200, or the body carries an error.
    """
    if status != HTTP_OK:
        raise parse_message_error(table, status, headers, body, now=now)
    try:
        message = _decode_message(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(table, http_status=status, cut=False) from None
    usage = None if message.usage is None else message.usage.normalised()
    if message.type == "error":
        facts = _facts(message.error, status=status, usage=usage)
        raise classify(table, facts, http_status=status, now=now)
    if message.content is None or not message.stop_reason:
        raise broken(table, http_status=status, cut=False, usage=usage)
    blocks = message.content
    # A signature proves one block: it is worthless over several that were joined.
    signatures = [sign for block in blocks if (sign := block.reasoning_signature())]
    return Completion(
        text="".join(block.text or "" for block in blocks if block.type == "text"),
        reasoning="".join(block.thinking or "" for block in blocks),
        reasoning_signature=signatures[0] if len(signatures) == 1 else "",
        tool_calls=tuple(
            ToolCall(block.id or "", block.name or "", arguments_text(block.input))
            for block in blocks
            if block.type == "tool_use"
        ),
        finish_reason=_FINISH_REASONS.get(message.stop_reason, FinishReason.OTHER),
        usage=usage,
        model=message.model or "",
    )


def parse_message_error(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> ProviderError:
    """
    Classify an answer whose status is not 200.
    """
    facts = _facts(decode_object(body).get("error"), status=status, headers=headers)
    return classify(table, facts, http_status=status, now=now)


def _facts(
    error: object,
    *,
    status: int,
    headers: Mapping[str, str] | None = None,
    usage: Usage | None = None,
) -> ErrorFacts:
    fields = error if isinstance(error, dict) else {}
    return ErrorFacts(
        status=status,
        codes=frozenset({str(fields.get("type")).lower()}),
        text=str(fields.get("message") or ""),
        headers=headers or {},
        inside_answer=status == HTTP_OK,
        usage=usage,
    )


def _read_models(body: bytes) -> FreeCallFinding:
    """
    Read GET /v1/models: one page of up to 1,000 models.
    """
    data = decode_object(body).get("data")
    items = data if isinstance(data, list) else []
    return FreeCallFinding(
        models=tuple(str(item.get("id")) for item in items if isinstance(item, dict))
    )


def _headers(credential: Credential) -> dict[str, str]:
    return {"x-api-key": credential.secret.reveal(), "anthropic-version": API_VERSION}


ANTHROPIC = HTTPDialect(
    provider="anthropic",
    default_base_url="https://api.anthropic.com",
    table=TABLE,
    path=lambda _: "/v1/messages",
    headers=_headers,
    build_body=build_messages_body,
    unsupported_fields=unsupported_fields,
    parse_answer=parse_message,
    parse_refusal=parse_message_error,
    make_decoder=AnthropicDecoder,
    probe_plan=ProbePlan(
        free_path="/v1/models?limit=1000",
        read_free_call=_read_models,
        cheap_models=("claude-3-haiku-20240307", "claude-haiku-4-5", "claude-sonnet-4-6"),
        lowest_effort=lambda _: None,
    ),
)
