# SPDX-License-Identifier: Apache-2.0
"""
OpenRouter: https://openrouter.ai/docs/api/reference/overview .
"""

from __future__ import annotations

from functools import partial
from typing import Any

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    TOOL_CALL_SIGNATURE,
    TOOL_RESULT_FAILED,
    ReasoningEffort,
    TextCall,
)
from services.router.providers.classify import ErrorRule, ErrorTable, decode_object
from services.router.providers.dialect import HTTPDialect
from services.router.providers.openai_answer import OpenAIDecoder, parse_openai
from services.router.providers.openai_chat import parse_chat_error
from services.router.providers.openai_chat_request import ChatShape, bearer, build_chat_body
from services.router.providers.probe import FreeCallFinding, ProbePlan

__all__ = ["OPENROUTER"]

_ERRORS = "https://openrouter.ai/docs/api/errors"
_LIMITS = "https://openrouter.ai/docs/use-cases/limits"

_RULES = (
    ErrorRule(outcome=Outcome.EXPIRED_CREDENTIALS, source=_ERRORS, status=(401,), text=r"expired"),
    # The budget for requests that are running comes back by itself, with a Retry-After.
    ErrorRule(
        outcome=Outcome.RATE_LIMITED,
        source=_ERRORS,
        status=(402, 429),
        code=("openrouter_in_flight_budget",),
    ),
    ErrorRule(
        outcome=Outcome.INSUFFICIENT_CREDIT,
        source=_ERRORS,
        status=(402, 403),
        code=(
            "openrouter_credits",
            "openrouter_key_limit",
            "openrouter_guardrail_budget",
            "openrouter_workspace_budget",
        ),
    ),
    ErrorRule(
        outcome=Outcome.INSUFFICIENT_CREDIT,
        source="https://github.com/can1357/oh-my-pi/issues/9569",
        status=(403,),
        text=r"(?:key|spending|budget|weekly|monthly|daily) limit exceeded|limit exceeded",
    ),
    ErrorRule(
        outcome=Outcome.CONTENT_FILTERED,
        source=_ERRORS,
        status=(400, 403),
        code=("metadata.reasons", "content_policy_violation"),
    ),
    ErrorRule(
        outcome=Outcome.CONTENT_FILTERED,
        source=_ERRORS,
        status=(403,),
        text=r"flagged|moderation|guardrail",
    ),
    ErrorRule(
        outcome=Outcome.CONTEXT_LENGTH,
        source=_LIMITS,
        status=(400, 413),
        text=r"maximum context length|context window|token limit reached|too many tokens"
        r"|prompt is too long",
    ),
    ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source="https://openrouter.ai/docs/features/privacy-and-logging",
        status=(404,),
        text=r"data policy|guardrail restrictions",
    ),
    ErrorRule(
        outcome=Outcome.INVALID_REQUEST,
        source="https://openrouter.ai/docs/features/provider-routing",
        status=(404,),
        text=r"no endpoints found that (?:support|can handle)",
    ),
    ErrorRule(
        outcome=Outcome.MODEL_NOT_FOUND,
        source=_ERRORS,
        status=(400, 404),
        text=r"not a valid model|no endpoints found|no allowed providers|model not found"
        r"|model .*(?:does not exist|unavailable)",
    ),
    ErrorRule(outcome=Outcome.OVERLOADED, source=_ERRORS, status=(502, 503)),
)


def _unsupported(call: TextCall) -> list[str]:
    """
    Name what the format lacks; beyond it OpenRouter alone knows what a model takes, and
    `_own_fields` makes it say so.
    """
    return call.holds(TOOL_RESULT_FAILED, TOOL_CALL_SIGNATURE)


def _own_fields(call: TextCall) -> dict[str, Any]:
    """
    Give OpenRouter's own fields.

    Upstreams that do not know a parameter would drop it in silence; `require_parameters` has
    them left out instead, https://openrouter.ai/docs/features/provider-routing .
    """
    fields: dict[str, Any] = {} if call.top_k is None else {"top_k": call.top_k}
    if call.reasoning_effort is ReasoningEffort.NONE:
        fields["reasoning"] = {"enabled": False}
    elif call.reasoning_effort is not None:
        fields["reasoning"] = {"effort": call.reasoning_effort.value}
    optional = (call.temperature, call.top_p, call.top_k, call.seed, call.response_schema)
    if call.tools or call.stop or any(value is not None for value in optional):
        fields["provider"] = {"require_parameters": True}
    return fields


def _read_key(body: bytes) -> FreeCallFinding:
    """
    Read GET /api/v1/key. A key without a limit of its own may still lack account credit.
    """
    data = decode_object(body).get("data")
    left = data.get("limit_remaining") if isinstance(data, dict) else None
    return FreeCallFinding(out_of_credit=isinstance(left, int | float) and left <= 0)


def _lowest_effort(model: str) -> ReasoningEffort | None:
    """
    Give none: the test models do not think, and a parameter narrows the choice of upstreams.
    """
    del model
    return None


_SHAPE = ChatShape(output_limit_field="max_tokens", own_fields=_own_fields, returns_reasoning=True)

OPENROUTER = HTTPDialect(
    provider="openrouter",
    default_base_url="https://openrouter.ai",
    path=lambda _: "/api/v1/chat/completions",
    headers=bearer,
    parse_answer=parse_openai,
    parse_refusal=parse_chat_error,
    make_decoder=OpenAIDecoder,
    table=ErrorTable(title="OpenRouter", rules=_RULES),
    build_body=partial(build_chat_body, shape=_SHAPE),
    probe_plan=ProbePlan(
        free_path="/api/v1/key",
        read_free_call=_read_key,
        cheap_models=("openai/gpt-4o-mini", "openai/gpt-4.1-nano", "anthropic/claude-3-haiku"),
        lowest_effort=_lowest_effort,
    ),
    unsupported_fields=_unsupported,
)
