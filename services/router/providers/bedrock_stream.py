# SPDX-License-Identifier: Apache-2.0
"""
Reads what Bedrock's runtime answers, whole and as binary event streams.

1. Converse and ConverseStream:
   https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html .
   Usage comes in `metadata`, after `messageStop`, and is the end.
2. InvokeModel: each `chunk` holds, as base64, an event of the Messages API where the model is
   Anthropic's, one of ConverseStream where it is Amazon's
   (https://docs.aws.amazon.com/nova/latest/userguide/using-invoke-api.html ). It is read, not
   sent: Converse reaches every model that writes text, under the same two permissions, and recorded
   exchanges of either operation hold this decoder.
3. A failure after status 200 is a message of the type `exception`.
4. Input tokens exclude what was read from and written to the cache; `Usage` includes both.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime

import msgspec

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
from services.router.providers.anthropic import AnthropicDecoder, parse_message
from services.router.providers.anthropic_request import REDACTED
from services.router.providers.base import ProviderError
from services.router.providers.classify import (
    ErrorFacts,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.event_stream import BROKEN, EventStreamParser
from services.router.providers.sse import SSEEvent
from services.router.providers.sse_decoder import HTTP_OK, SSEDecoder
from services.router.providers.typed_events import (
    NO_ARGUMENTS,
    BlockCalls,
    arguments_text,
    kind_of,
)

__all__ = ["BedrockDecoder", "parse_answer", "parse_refusal"]

_DELTA = b"event/contentBlockDelta"
"""Nearly all messages of a stream."""

_SERVER_TOOL = "server_tool_use"
"""A call that Bedrock answers itself:
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolUseBlock.html ."""

_FINISH_REASONS = {
    # https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_MessageStopEvent.html
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "guardrail_intervened": FinishReason.CONTENT_FILTER,
    "content_filtered": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.CONTENT_FILTER,
}


class _ReasoningText(msgspec.Struct, gc=False):
    text: str | None = None
    signature: str | None = None


class _Reasoning(msgspec.Struct, rename="camel"):
    """
    A whole block (`reasoningText`) and a delta (`text`, `signature`).
    """

    reasoning_text: _ReasoningText | None = None
    redacted_content: str | None = None
    text: str | None = None
    signature: str | None = None

    def proof(self) -> str:
        """
        Give the signature; redacted thinking is nothing but proof.
        """
        if self.redacted_content:
            return REDACTED + self.redacted_content
        block = self if self.reasoning_text is None else self.reasoning_text
        return block.signature or ""


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: str | None = None
    name: str | None = None
    input: msgspec.Raw = NO_ARGUMENTS
    type: str | None = None


class _Block(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None


class _ToolInput(msgspec.Struct, gc=False):
    input: str | None = None


class _Delta(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    tool_use: _ToolInput | None = None
    reasoning_content: _Reasoning | None = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] | None = None


class _Output(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Usage(msgspec.Struct, rename="camel", gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None

    def normalised(self) -> Usage:
        """
        Add the cached tokens, which Bedrock counts beside the input.
        """
        read = self.cache_read_input_tokens or 0
        written = self.cache_write_input_tokens or 0
        return Usage(
            input_tokens=(self.input_tokens or 0) + read + written,
            output_tokens=self.output_tokens or 0,
            cached_input_tokens=read,
            cache_write_tokens=written,
        )


class _Answer(msgspec.Struct, rename="camel", gc=False):
    output: _Output | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Start(msgspec.Struct, rename="camel"):
    tool_use: _ToolUse | None = None


class _Event(msgspec.Struct, rename="camel", gc=False):
    """
    Every event of ConverseStream, and the `chunk` of InvokeModelWithResponseStream.
    """

    content_block_index: int | None = None
    start: _Start | None = None
    delta: _Delta | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    bytes: str | None = None


_NAMES = frozenset(
    {"contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"}
)
_decode_named = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class BedrockDecoder(SSEDecoder):
    """
    Decodes the binary event stream of either operation.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self.parser = EventStreamParser()
        self._messages = AnthropicDecoder(table, now=now)
        """Reads what stands inside the chunks of an Anthropic model."""
        self._calls = BlockCalls()
        self._stop_reason = ""

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one message; events that are not known carry nothing.
        """
        if event.event == _DELTA:
            self._delta(_decode_event(event.data), out)
            return
        if event is BROKEN:
            raise broken(self.table, http_status=HTTP_OK, cut=False, usage=self.usage)
        kind, _, name = event.event.partition(b"/")
        if kind != b"event":
            raise self.error(_facts(event.data, code=name.decode(), usage=self.usage))
        if name == b"contentBlockStart":
            self._block_start(_decode_event(event.data), out)
        elif name == b"contentBlockStop":
            self._calls.end(_decode_event(event.data).content_block_index, out)
        elif name == b"messageStop":
            self._stop_reason = _decode_event(event.data).stop_reason or ""
        elif name == b"metadata":
            self._metadata(_decode_event(event.data), out)
        elif name == b"chunk":
            self._chunk(_decode_event(event.data), out)

    def _delta(self, read: _Event, out: list[StreamEvent]) -> None:
        delta = read.delta
        if delta is None:
            return
        if delta.text:
            out.append(TextDelta(delta.text))
        if delta.tool_use is not None and delta.tool_use.input:
            self._calls.add(read.content_block_index, delta.tool_use.input, out)
        reasoning = delta.reasoning_content
        if reasoning is not None and (reasoning.text or reasoning.proof()):
            out.append(ReasoningDelta(reasoning.text or "", reasoning.proof()))

    def _block_start(self, read: _Event, out: list[StreamEvent]) -> None:
        tool = None if read.start is None else read.start.tool_use
        if tool is not None and tool.type != _SERVER_TOOL:
            name = tool.name or ""
            self._calls.begin(read.content_block_index, tool.tool_use_id or "", name, out)

    def _metadata(self, read: _Event, out: list[StreamEvent]) -> None:
        if read.usage is not None:
            self.usage = read.usage.normalised()
            out.append(UsageReport(self.usage))
        if self._stop_reason:
            self.end(_FINISH_REASONS.get(self._stop_reason, FinishReason.OTHER), out)

    def _chunk(self, read: _Event, out: list[StreamEvent]) -> None:
        """
        Read what a model wrote itself: Amazon's say each event's name and body, others its type.
        """
        try:
            data = base64.b64decode(read.bytes or "", validate=True)
        except binascii.Error:
            raise broken(self.table, http_status=HTTP_OK, cut=False, usage=self.usage) from None
        if kind_of(data) is not None:
            self.read_by(self._messages, SSEEvent(b"", data), out)
            return
        for name, body in _decode_named(data).items():
            if name in _NAMES:
                self.read_event(SSEEvent(b"event/" + name.encode(), bytes(body)), out)

    def stray_error(self, stray: bytes) -> ErrorFacts | None:  # noqa: ARG002 - a hook
        """
        Give None: nothing stands outside the frames.
        """
        return None


def parse_answer(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    """
    Read a whole answer of Converse, or of InvokeModel of an Anthropic model.

    Raises:
        ProviderError: The status is not 200, or the body is no answer.
    """
    if status != HTTP_OK:
        raise parse_refusal(table, status, headers, body, now=now)
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = _Answer()
    if answer.output is None:
        return parse_message(table, status, headers, body, now=now)
    usage = None if answer.usage is None else answer.usage.normalised()
    message = answer.output.message
    if message is None or message.content is None or not answer.stop_reason:
        raise broken(table, http_status=status, cut=False, usage=usage)
    return _completion(message.content, answer.stop_reason, usage)


def _completion(content: list[_Block], stop_reason: str, usage: Usage | None) -> Completion:
    texts: list[str] = []
    thoughts: list[str] = []
    proofs: list[str] = []
    calls: list[ToolCall] = []
    for block in content:
        if block.text:
            texts.append(block.text)
        reasoning, tool = block.reasoning_content, block.tool_use
        if reasoning is not None:
            thoughts.append((reasoning.reasoning_text or _ReasoningText()).text or "")
            proofs.append(reasoning.proof())
        if tool is not None and tool.type != _SERVER_TOOL:
            arguments = arguments_text(tool.input)
            calls.append(ToolCall(tool.tool_use_id or "", tool.name or "", arguments))
    # A signature proves one block: it is worthless over several that were joined.
    signatures = [proof for proof in proofs if proof]
    return Completion(
        text="".join(texts),
        reasoning="".join(thoughts),
        reasoning_signature=signatures[0] if len(signatures) == 1 else "",
        tool_calls=tuple(calls),
        finish_reason=_FINISH_REASONS.get(stop_reason, FinishReason.OTHER),
        usage=usage,
        # The answer does not name its model.
        model="",
    )


def parse_refusal(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> ProviderError:
    """
    Classify an answer whose status is not 200; its type stands in a header, cut at the colon.
    """
    code = headers.get("x-amzn-errortype", "").partition(":")[0]
    facts = _facts(body, code=code, status=status, headers=headers)
    return classify(table, facts, http_status=status, now=now)


def _facts(
    body: bytes,
    *,
    code: str,
    status: int = HTTP_OK,
    headers: Mapping[str, str] | None = None,
    usage: Usage | None = None,
) -> ErrorFacts:
    """
    Take the facts out of `{"message": …}`; answers to bearer keys write `Message`.
    """
    fields = decode_object(body)
    kind = code or str(fields.get("__type") or fields.get("code") or "").rpartition("#")[2]
    text = fields.get("message") or fields.get("Message") or fields.get("originalMessage")
    return ErrorFacts(
        status=status,
        codes=frozenset({kind.lower()}),
        text=text if isinstance(text, str) else "",
        headers=headers or {},
        inside_answer=status == HTTP_OK,
        usage=usage,
    )
