# SPDX-License-Identifier: Apache-2.0
"""
The simulated Anthropic, under `/anthropic/v1`.

Formats follow https://platform.claude.com/docs/en/api/messages , errors
https://platform.claude.com/docs/en/api/errors and recorded answers.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from aiohttp import web

from simulator.api import (
    Generation,
    InvalidRequestError,
    ProviderAPI,
    Refusal,
    RefusalKind,
    json_response,
    sse,
)
from simulator.bearer_api import peek_json, require_json
from simulator.faults import HintForm
from simulator.tokens import Answer, Finish, Prompt, pieces

__all__ = ["AnthropicAPI"]

MODELS = (
    "claude-sonnet-4-6",
    "claude-opus-4-6",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
    "claude-haiku-4-5-20251001",
    "claude-sonnet-4-20250514",
    "claude-3-haiku-20240307",
    "claude-3-haiku",
)
API_VERSION = "2023-06-01"
_THINKING_TOKENS_MIN = 1024


class _Text(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


class _Base64Source(msgspec.Struct, tag_field="type", tag="base64", forbid_unknown_fields=True):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class _URLSource(msgspec.Struct, tag_field="type", tag="url", forbid_unknown_fields=True):
    url: str


class _Image(msgspec.Struct, tag_field="type", tag="image", forbid_unknown_fields=True):
    source: _Base64Source | _URLSource


class _ToolUse(msgspec.Struct, tag_field="type", tag="tool_use", forbid_unknown_fields=True):
    id: str
    name: str
    input: dict[str, Any]


class _ToolResult(msgspec.Struct, tag_field="type", tag="tool_result", forbid_unknown_fields=True):
    tool_use_id: str
    content: str | list[_Text | _Image] = ""
    is_error: bool = False


class _Thinking(msgspec.Struct, tag_field="type", tag="thinking", forbid_unknown_fields=True):
    thinking: str
    signature: str


class _Redacted(
    msgspec.Struct, tag_field="type", tag="redacted_thinking", forbid_unknown_fields=True
):
    data: str


_Block = _Text | _Image | _ToolUse | _ToolResult | _Thinking | _Redacted


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: str | list[_Block]


class _Tool(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    input_schema: dict[str, Any]
    description: str = ""


class _Enabled(msgspec.Struct, tag_field="type", tag="enabled", forbid_unknown_fields=True):
    budget_tokens: int


class _Adaptive(msgspec.Struct, tag_field="type", tag="adaptive", forbid_unknown_fields=True):
    pass


class _Disabled(msgspec.Struct, tag_field="type", tag="disabled", forbid_unknown_fields=True):
    pass


class _Format(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    effort: Literal["low", "medium", "high", "max"] | None = None
    format: _Format | None = None


class _ToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str | None = None


class _Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    max_tokens: int
    messages: list[_Message]
    system: str | list[_Text] = ""
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] = []
    tools: list[_Tool] = []
    tool_choice: _ToolChoice | None = None
    thinking: _Enabled | _Adaptive | _Disabled | None = None
    output_config: _OutputConfig | None = None
    metadata: _Metadata | None = None


class AnthropicAPI(ProviderAPI):
    """
    GET /v1/models and POST /v1/messages.
    """

    name = "anthropic"
    key_prefixes = ("sk-ant-api03-",)

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        return [
            web.get("/anthropic/v1/models", self._models),
            web.post("/anthropic/v1/messages", self.generate),
        ]

    def key_of(self, request: web.Request) -> str:
        """
        Take the key out of `x-api-key`.
        """
        return request.headers.get("x-api-key", "")

    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:  # noqa: ARG002 - shared
        """
        Give model and stream flag for the recording.
        """
        return peek_json(body)

    def knows(self, model: str) -> bool:
        """
        Tell whether a model is served.
        """
        return model in MODELS

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.
        """
        _require_headers(request)
        require_json(request)
        return self.read_body(body)

    def read_body(self, body: bytes) -> Generation:
        """
        Read a Messages body strictly.

        Raises:
            InvalidRequestError: The API would refuse it.
        """
        try:
            read = msgspec.json.decode(body, type=_Body)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(str(error)) from error
        if read.max_tokens < 1:
            raise InvalidRequestError("max_tokens: Input should be greater than or equal to 1")
        if not read.messages:
            raise InvalidRequestError("messages: at least one message is required")
        if read.temperature is not None and not 0 <= read.temperature <= 1:
            raise InvalidRequestError("temperature: range: 0..1")
        if read.temperature is not None and read.top_p is not None:
            raise InvalidRequestError(
                "`temperature` and `top_p` cannot both be specified for this model."
            )
        _check_thinking(read)
        return Generation(prompt=_prompt(read), stream=read.stream)

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in Anthropic's words.
        """
        status, kind, message = _REFUSALS[refusal.kind]
        headers = {"request-id": "req_simulated"}
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            headers |= refusal.fault.headers(HintForm.SECONDS, now=self.now)
            message += refusal.fault.sentence(HintForm.SECONDS)
        message = message.format(model=refusal.model, detail=refusal.detail)
        body = _error(kind, message)
        return json_response(body, status=status, headers=headers)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """
        content: list[dict[str, Any]] = []
        if answer.reasoning_tokens:
            thinking = {"thinking": "Simulated thinking.", "signature": "c2ltdWxhdGVk"}
            content.append({"type": "thinking", **thinking})
        if answer.tool_name:
            content.append(
                {
                    "type": "tool_use",
                    "id": "toolu_simulated0001",
                    "name": answer.tool_name,
                    "input": answer.tool_arguments,
                }
            )
        elif answer.text:
            content.append({"type": "text", "text": answer.text})
        return {
            **_head(answer),
            "content": content,
            "stop_reason": _STOP_REASONS[answer.finish],
            "stop_sequence": None,
            "usage": _usage(answer, answer.output_tokens),
        }

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:  # noqa: ARG002 - always
        """
        Give the events from `message_start` to `message_stop`, with a ping among them.
        """
        whole = self.answer(answer)
        start = {**_head(answer), "content": [], "stop_reason": None, "stop_sequence": None}
        start["usage"] = _usage(answer, min(1, answer.output_tokens))
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
        for index, block in enumerate(whole["content"]):
            events += _block_events(index, block)
        events.insert(2, {"type": "ping"})
        delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        usage = _usage(answer, answer.output_tokens)
        events.append({"type": "message_delta", "delta": delta, "usage": usage})
        events.append({"type": "message_stop"})
        return [sse(event, event=event["type"]) for event in events]

    def error_frame(self) -> bytes:
        """
        Give an overload as it comes inside a stream.
        """
        return sse(_error("overloaded_error", "Overloaded"), event="error")

    async def _models(self, request: web.Request) -> web.StreamResponse:
        try:
            _require_headers(request)
        except InvalidRequestError as error:
            return self.refuse(Refusal(kind=RefusalKind.INVALID_REQUEST, detail=str(error)))
        data = [
            {
                "type": "model",
                "id": model,
                "display_name": model,
                "created_at": "2026-01-01T00:00:00Z",
            }
            for model in MODELS
        ]
        body = {"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
        return await self.free(request, body)


_REFUSALS: dict[RefusalKind, tuple[int, str, str]] = {
    RefusalKind.MISSING_KEY: (401, "authentication_error", "x-api-key header is required"),
    RefusalKind.INVALID_KEY: (401, "authentication_error", "invalid x-api-key"),
    RefusalKind.NO_CREDIT: (
        400,
        "invalid_request_error",
        (
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & "
            "Billing to upgrade or purchase credits."
        ),
    ),
    RefusalKind.RATE_LIMITED: (
        429,
        "rate_limit_error",
        "This request would exceed the rate limit for your organization of 50 requests per minute.",
    ),
    RefusalKind.FORBIDDEN: (
        403,
        "permission_error",
        "Your API key does not have permission to use the specified resource.",
    ),
    RefusalKind.ERROR: (500, "api_error", "Internal server error"),
    RefusalKind.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    RefusalKind.MODEL_NOT_FOUND: (404, "not_found_error", "model: {model}"),
    RefusalKind.INVALID_REQUEST: (400, "invalid_request_error", "{detail}"),
}
_STOP_REASONS = {
    Finish.STOP: "end_turn",
    Finish.LENGTH: "max_tokens",
    Finish.TOOL_CALL: "tool_use",
    Finish.FILTERED: "refusal",
}


def _require_headers(request: web.Request) -> None:
    """
    Hold the version's header, and that nothing in beta is asked for: here nothing is.
    """
    if request.headers.get("anthropic-version") != API_VERSION:
        raise InvalidRequestError("anthropic-version: header is required")
    beta = request.headers.get("anthropic-beta")
    if beta is not None:
        raise InvalidRequestError(f"Unexpected value(s) `{beta}` for the `anthropic-beta` header.")


def _check_thinking(body: _Body) -> None:
    thinking = body.thinking
    if isinstance(thinking, _Enabled):
        if thinking.budget_tokens < _THINKING_TOKENS_MIN:
            raise InvalidRequestError(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            )
        if thinking.budget_tokens >= body.max_tokens:
            raise InvalidRequestError("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if isinstance(thinking, _Enabled | _Adaptive) and body.temperature not in (None, 1):
        raise InvalidRequestError("`temperature` may only be set to 1 when thinking is enabled.")


def _prompt(body: _Body) -> Prompt:
    texts: list[str] = []
    images = 0
    system = [_Text(body.system)] if isinstance(body.system, str) else body.system
    texts += [block.text for block in system]
    for message in body.messages:
        content = message.content
        for block in [_Text(content)] if isinstance(content, str) else content:
            if isinstance(block, _Text):
                texts.append(block.text)
            elif isinstance(block, _ToolResult) and isinstance(block.content, str):
                texts.append(block.content)
            elif isinstance(block, _Image):
                images += 1
    last = body.messages[-1].content
    answered = not isinstance(last, str) and any(isinstance(item, _ToolResult) for item in last)
    tool = body.tools[0] if body.tools and not answered else None
    form = body.output_config.format if body.output_config is not None else None
    return Prompt(
        model=body.model,
        texts=tuple(texts),
        image_count=images,
        output_tokens_max=body.max_tokens,
        stop=tuple(body.stop_sequences),
        tool=None if tool is None else (tool.name, tool.input_schema),
        schema=None if form is None else form.schema,
        thinks=isinstance(body.thinking, _Enabled | _Adaptive),
    )


def _head(answer: Answer) -> dict[str, Any]:
    return {
        "id": "msg_simulated",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
    }


def _usage(answer: Answer, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _block_events(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    """
    Give the events of one content block.
    """
    if block["type"] == "thinking":
        empty: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    elif block["type"] == "tool_use":
        empty = {**block, "input": {}}
        text = msgspec.json.encode(block["input"]).decode()
        half = len(text) // 2
        deltas = [
            {"type": "input_json_delta", "partial_json": piece}
            for piece in ("", text[:half], text[half:])
        ]
    else:
        empty = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    return [
        {"type": "content_block_start", "index": index, "content_block": empty},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _error(kind: str, message: str) -> dict[str, Any]:
    error = {"type": kind, "message": message}
    return {"type": "error", "error": error, "request_id": "req_simulated"}
