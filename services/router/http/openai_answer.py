# SPDX-License-Identifier: Apache-2.0
"""
Writes answers, streams, models and errors as OpenAI does.

https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from services.router.domain.text import (
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

_FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.OTHER: "stop",
    None: "stop",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ChatAnswer:
    """
    One answer, whole or in chunks.

    Args:
        request_id: Names it.
        created: Unix seconds.
        include_usage: Whether a stream's end tells the usage.
    """

    def __init__(self, request_id: str, *, created: int, include_usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": created}
        self._include_usage = include_usage
        self._model = ""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, event: AnswerEvent) -> None:
        """
        Take one event of a whole answer in.
        """
        match event:
            case TextDelta():
                self._text.append(event.text)
            case ReasoningDelta():
                self._reasoning.append(event.text)
            case ToolCallDelta():
                empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                call = self._calls.setdefault(event.index, empty)
                call["id"] += event.id
                call["function"]["name"] += event.name
                call["function"]["arguments"] += event.arguments

    def whole(self, receipt: Receipt) -> dict[str, Any]:
        """
        Write the whole answer.
        """
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._text) or None,
            "refusal": None,
        }
        if self._reasoning:
            message["reasoning"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [call for _, call in sorted(self._calls.items())]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _FINISH[receipt.finish_reason],
        }
        return {
            **self._head,
            "object": "chat.completion",
            "model": receipt.served.model,
            "choices": [choice],
            "usage": _usage(receipt.served.usage),
        }

    def begin(self, started: Started) -> bytes:
        """
        Write a stream's first chunk.
        """
        self._model = started.model
        return self._chunk([_choice({"role": "assistant", "content": ""})])

    def delta(self, event: AnswerEvent) -> bytes:
        """
        Write one piece of a stream.
        """
        match event:
            case TextDelta():
                return self._chunk([_choice({"content": event.text})])
            case ReasoningDelta():
                return self._chunk([_choice({"reasoning": event.text})])
            case ToolCallDelta():
                function = {"arguments": event.arguments}
                call: dict[str, Any] = {"index": event.index, "function": function}
                if event.id:
                    call |= {"id": event.id, "type": "function"}
                    function["name"] = event.name
                return self._chunk([_choice({"tool_calls": [call]})])
            case _:
                return b""

    def finish(self, receipt: Receipt) -> bytes:
        """
        Write a stream's end.
        """
        last = self._chunk(
            [_choice({}, _FINISH[receipt.finish_reason])], ownkey=receipt_object(receipt)
        )
        if self._include_usage:
            last += self._chunk([], usage=_usage(receipt.served.usage))
        return last + b"data: [DONE]\n\n"

    def broken(self, error: ServiceError) -> bytes:
        """
        Write the failure that ends a stream, with its attempts; the SDK raises it.
        """
        body = error_body(error)
        body["error"]["attempts"] = failed_attempts(error)
        return _event(body)

    def _chunk(self, choices: list[dict[str, Any]], **more: object) -> bytes:
        head = {**self._head, "object": "chat.completion.chunk", "model": self._model}
        return _event({**head, "choices": choices, **more})


def error_body(error: ServiceError) -> dict[str, Any]:
    """
    Write a failure.
    """
    status, reason = http_status(error)
    field = error.metadata.get("field", "").removeprefix("input.")
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status, "api_error"),
            "param": field or None,
            "code": reason.lower(),
            "metadata": error.metadata,
        }
    }


def model_object(model: Model) -> dict[str, Any]:
    """
    Write one model.
    """
    vendor = model.id.partition("/")[0]
    return {"id": model.id, "object": "model", "created": 0, "owned_by": vendor}


def model_list(models: Sequence[Model]) -> dict[str, Any]:
    """
    Write all models.
    """
    return {"object": "list", "data": [model_object(model) for model in models]}


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
