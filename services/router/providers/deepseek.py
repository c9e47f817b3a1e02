# SPDX-License-Identifier: Apache-2.0
"""
DeepSeek: https://api-docs.deepseek.com/api/create-chat-completion .

1. `reasoning_content` comes before `content`; usage stands on the chunk with the finish reason.
2. Under load blank lines come before an answer and `: keep-alive` comments in a stream.
3. The model that answers may have another name than the one asked for.
4. In thinking mode, on by default but in `deepseek-chat`, sampling is without effect, and the
   thoughts before a tool call must come back with it:
   https://api-docs.deepseek.com/guides/thinking_mode .
5. An error's `code` is often `invalid_request_error` whatever the cause: the status decides.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    REASONING_SIGNATURE,
    TOOL_CALL_SIGNATURE,
    TOOL_RESULT_FAILED,
    ImagePart,
    ImageURLPart,
    ReasoningEffort,
    TextCall,
)
from services.router.providers.classify import ErrorRule, ErrorTable, decode_object
from services.router.providers.dialect import HTTPDialect
from services.router.providers.openai_answer import OpenAIDecoder, parse_openai
from services.router.providers.openai_chat import parse_chat_error
from services.router.providers.openai_chat_request import ChatShape, bearer, build_chat_body
from services.router.providers.probe import FreeCallFinding, ProbePlan

__all__ = ["DEEPSEEK"]

_ERRORS = "https://api-docs.deepseek.com/quick_start/error_codes"

_RULES = (
    ErrorRule(
        outcome=Outcome.INSUFFICIENT_CREDIT,
        source=_ERRORS,
        text=r"insufficient balance",
    ),
    ErrorRule(
        outcome=Outcome.CONTEXT_LENGTH,
        source="https://github.com/Aider-AI/aider/issues/4851",
        status=(400, 422),
        text=r"maximum context length|context length exceeded",
    ),
    ErrorRule(
        outcome=Outcome.MODEL_NOT_FOUND,
        source=_ERRORS,
        status=(400, 404, 422),
        text=r"model not exist|model .*(?:does not exist|not found)|supported API model names",
    ),
    ErrorRule(
        outcome=Outcome.CONTENT_FILTERED,
        source=_ERRORS,
        status=(400, 403),
        text=r"content exists risk",
    ),
    # Inside a stream there is no status to fall back on.
    ErrorRule(
        outcome=Outcome.INVALID_REQUEST,
        source=_ERRORS,
        status=(200,),
        code=("invalid_request_error",),
    ),
)

_PLAIN_MODEL = "deepseek-chat"
_EFFORTS = {
    # https://api-docs.deepseek.com/guides/thinking_mode : lower words stand for `high`.
    ReasoningEffort.LOW: "high",
    ReasoningEffort.MEDIUM: "high",
    ReasoningEffort.HIGH: "high",
}


def _unsupported(call: TextCall) -> list[str]:
    """
    Name what the API lacks: `seed`, images, JSON schemas, and the smallest effort.

    https://api-docs.deepseek.com/guides/json_mode knows `json_object` alone.
    """
    fields = call.holds(TOOL_RESULT_FAILED, TOOL_CALL_SIGNATURE, REASONING_SIGNATURE)
    parts = (part for message in call.messages for part in message.parts)
    if any(isinstance(part, ImagePart | ImageURLPart) for part in parts):
        fields.append("messages.image")
    if call.seed is not None:
        fields.append("seed")
    if call.top_k is not None:
        fields.append("top_k")
    if call.response_schema is not None:
        fields.append("response_schema")
    if call.reasoning_effort is ReasoningEffort.MINIMAL:
        fields.append("reasoning_effort")
    if _thinks(call):
        if call.temperature not in (None, 1):
            fields.append("temperature")
        if call.top_p not in (None, 1):
            fields.append("top_p")
    return fields


def _thinks(call: TextCall) -> bool:
    if call.reasoning_effort is None:
        return call.model != _PLAIN_MODEL
    return call.reasoning_effort is not ReasoningEffort.NONE


def _own_fields(call: TextCall) -> dict[str, Any]:
    effort = call.reasoning_effort
    if effort is None:
        return {}
    if effort is ReasoningEffort.NONE:
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "enabled"}, "reasoning_effort": _EFFORTS[effort]}


def _read_balance(body: bytes) -> FreeCallFinding:
    """
    Read GET /user/balance, https://api-docs.deepseek.com/api/get-user-balance .
    """
    return FreeCallFinding(out_of_credit=decode_object(body).get("is_available") is False)


def _lowest_effort(model: str) -> ReasoningEffort | None:
    return None if model == "deepseek-reasoner" else ReasoningEffort.NONE


_SHAPE = ChatShape(
    output_limit_field="max_tokens",
    own_fields=_own_fields,
    returns_reasoning=False,
    returns_reasoning_text=True,
)

DEEPSEEK = HTTPDialect(
    provider="deepseek",
    default_base_url="https://api.deepseek.com",
    path=lambda _: "/chat/completions",
    headers=bearer,
    parse_answer=parse_openai,
    parse_refusal=parse_chat_error,
    make_decoder=OpenAIDecoder,
    table=ErrorTable(title="DeepSeek", rules=_RULES),
    build_body=partial(build_chat_body, shape=_SHAPE),
    probe_plan=ProbePlan(
        free_path="/user/balance",
        read_free_call=_read_balance,
        cheap_models=("deepseek-v4-flash", "deepseek-chat", "deepseek-v4-pro"),
        lowest_effort=_lowest_effort,
    ),
    unsupported_fields=_unsupported,
)
