# SPDX-License-Identifier: Apache-2.0
"""
Writes answers, streams, models and errors as Anthropic does.

https://docs.anthropic.com/en/api/messages and .../messages-streaming
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from services.router.domain.text import (
    REDACTED,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from services.router.http.telling import failed_attempts, http_status, receipt_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.router.domain.attempts import Receipt
    from services.router.domain.catalogue import Model
    from services.router.domain.media import AnswerEvent
    from services.router.domain.text import Usage
    from services.router.usecases.engine import Started
    from services.shared.errors import ServiceError

_STOPS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
    FinishReason.OTHER: "end_turn",
    None: "end_turn",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_UNDATED = "1970-01-01T00:00:00Z"


class MessageAnswer:
    """
    One answer, whole or in events.

    Args:
        request_id: Names it.
    """

    def __init__(self, request_id: str) -> None:
        self._id = f"msg_{request_id}"
        self._blocks: list[dict[str, Any]] = []
        self._block: object = None
        """What the block under way holds: a kind, or a tool call's index."""

    def add(self, event: AnswerEvent) -> None:
        """
        Take one event of a whole answer in.
        """
        block = self._at(event)
        match event:
            case TextDelta():
                block["text"] += event.text
            case ReasoningDelta() if block["type"] == "thinking":
                block["thinking"] += event.text
                block["signature"] += event.signature
            case ToolCallDelta():
                block["input"] += event.arguments

    def whole(self, receipt: Receipt) -> dict[str, Any]:
        """
        Write the whole answer.
        """
        for block in self._blocks:
            if block["type"] == "tool_use":
                block["input"] = _arguments(block["input"])
        return {
            **self._message(receipt.served.model, receipt.served.usage),
            "content": self._blocks,
            "stop_reason": _STOPS[receipt.finish_reason],
        }

    def begin(self, started: Started) -> bytes:
        """
        Write a stream's first event.
        """
        return _event("message_start", message=self._message(started.model, None))

    def delta(self, event: AnswerEvent) -> bytes:
        """
        Write one piece of a stream, and the turn of a block where it begins one.
        """
        before = len(self._blocks)
        block = self._at(event)
        head = b""
        if len(self._blocks) > before:
            empty = {**block, "input": {}} if block["type"] == "tool_use" else block
            head = self._stop(before - 1)
            head += _event("content_block_start", index=before, content_block=empty)
        index = len(self._blocks) - 1
        return head + b"".join(
            _event("content_block_delta", index=index, delta=delta) for delta in _deltas(event)
        )

    def finish(self, receipt: Receipt) -> bytes:
        """
        Write a stream's end.
        """
        delta = {"stop_reason": _STOPS[receipt.finish_reason], "stop_sequence": None}
        return (
            self._stop(len(self._blocks) - 1)
            + _event(
                "message_delta",
                delta=delta,
                usage=_usage(receipt.served.usage),
                ownkey=receipt_object(receipt),
            )
            + _event("message_stop")
        )

    def broken(self, error: ServiceError) -> bytes:
        """
        Write the failure that ends a stream, with its attempts; the SDK raises it.
        """
        body = error_body(error)
        body["error"]["attempts"] = failed_attempts(error)
        return f"event: error\ndata: {json.dumps(body)}\n\n".encode()

    def _at(self, event: AnswerEvent) -> dict[str, Any]:
        """
        Give the block that an event belongs to, a new one where it is of another kind.
        """
        match event:
            case TextDelta():
                kind: object = "text"
                empty: dict[str, Any] = {"type": "text", "text": "", "citations": None}
            case ReasoningDelta():
                kind = "thinking"
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                if event.signature.startswith(REDACTED):
                    kind = event.signature
                    data = event.signature.removeprefix(REDACTED)
                    empty = {"type": "redacted_thinking", "data": data}
            case ToolCallDelta():
                kind = event.index
                empty = {"type": "tool_use", "id": event.id, "name": event.name, "input": ""}
            case _:
                raise AssertionError("a reader of events gets content only")
        if kind != self._block:
            self._block = kind
            self._blocks.append(empty)
        return self._blocks[-1]

    def _stop(self, index: int) -> bytes:
        return _event("content_block_stop", index=index) if index >= 0 else b""

    def _message(self, model: str, usage: Usage | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(usage),
        }


def error_body(error: ServiceError) -> dict[str, Any]:
    """
    Write a failure.
    """
    status, reason = http_status(error)
    return {
        "type": "error",
        "error": {
            "type": _TYPES.get(status, "api_error"),
            "message": error.message,
            "code": reason.lower(),
            "metadata": error.metadata,
        },
    }


def model_object(model: Model) -> dict[str, Any]:
    """
    Write one model.
    """
    return {
        "id": model.id,
        "type": "model",
        "display_name": model.display_name,
        "created_at": _UNDATED,
    }


def model_list(models: Sequence[Model]) -> dict[str, Any]:
    """
    Write all models, as one page.
    """
    data = [model_object(model) for model in models]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _deltas(event: AnswerEvent) -> list[dict[str, Any]]:
    match event:
        case TextDelta():
            return [{"type": "text_delta", "text": event.text}]
        case ReasoningDelta() if not event.signature.startswith(REDACTED):
            deltas = []
            if event.text:
                deltas.append({"type": "thinking_delta", "thinking": event.text})
            if event.signature:
                deltas.append({"type": "signature_delta", "signature": event.signature})
            return deltas
        case ToolCallDelta():
            return [{"type": "input_json_delta", "partial_json": event.arguments}]
        case _:
            return []


def _arguments(text: str) -> Any:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        # The model wrote no JSON; the SDK's shape holds an object.
        return {"malformed_json": text}
    return value


def _usage(usage: Usage | None) -> dict[str, int]:
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    # Anthropic's input leaves out what was read from and written to the cache.
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    return {
        "input_tokens": max(0, plain),
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
    }


def _event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()
