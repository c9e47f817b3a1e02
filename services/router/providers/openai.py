# SPDX-License-Identifier: Apache-2.0
"""
OpenAI: https://developers.openai.com/api/reference .
"""

from __future__ import annotations

import re
from typing import Any

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    EARLIER_REASONING,
    TOOL_CALL_SIGNATURE,
    TOOL_RESULT_FAILED,
    ReasoningEffort,
    TextCall,
)
from services.router.providers.classify import ErrorRule, ErrorTable, decode_object
from services.router.providers.dialect import HTTPDialect
from services.router.providers.media_format import MediaFormats
from services.router.providers.openai_answer import OpenAIDecoder, parse_openai
from services.router.providers.openai_chat import parse_chat_error
from services.router.providers.openai_chat_request import ChatShape, bearer, build_chat_body
from services.router.providers.openai_images import OPENAI_IMAGES
from services.router.providers.openai_responses_request import (
    build_responses_body,
    needs_responses,
)
from services.router.providers.openai_speech import OPENAI_SPEECH
from services.router.providers.probe import FreeCallFinding, ProbePlan

__all__ = [
    "OPENAI",
    "OPENAI_ERRORS",
    "OPENAI_RULES",
    "effort_fields",
    "is_reasoning",
    "lowest_effort",
    "unsupported_fields",
]

_ERROR_CODES = "https://developers.openai.com/docs/guides/error-codes"
_PERMISSIONS = "https://help.openai.com/en/articles/8867743-assign-api-key-permissions"

_SCOPES = ("api.model.read", "model.read", "api.model.request", "model.request")


def _missing_scope(scope: str) -> ErrorRule:
    return ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source=_PERMISSIONS,
        status=(401, 403),
        text=rf"missing scopes:[^()]*(?<![\w.]){re.escape(scope)}(?![\w])",
        missing_permission=scope,
    )


OPENAI_RULES = (
    *(_missing_scope(scope) for scope in _SCOPES),
    ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source=_ERROR_CODES,
        status=(401,),
        text=r"\bIP\b.*not authorized|must be a member of an organization",
    ),
    ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source=_ERROR_CODES,
        code=("unsupported_country_region_territory", "insufficient_permissions"),
    ),
    ErrorRule(
        outcome=Outcome.INSUFFICIENT_CREDIT,
        source=_ERROR_CODES,
        code=(
            "insufficient_quota",
            "credit_balance_exhausted",
            "billing_hard_limit_reached",
            "billing_not_active",
        ),
    ),
    ErrorRule(outcome=Outcome.INVALID_KEY, source=_ERROR_CODES, code=("invalid_api_key",)),
    ErrorRule(
        outcome=Outcome.RATE_LIMITED,
        source="https://github.com/TheR1D/shell_gpt/issues/653",
        status=(429,),
        text=r"request too large",
        retryable=False,
    ),
    ErrorRule(
        outcome=Outcome.RATE_LIMITED,
        source=_ERROR_CODES,
        code=("rate_limit_exceeded", "slow_down"),
    ),
    ErrorRule(
        outcome=Outcome.OVERLOADED,
        source=_ERROR_CODES,
        code=("server_is_overloaded", "overloaded_error"),
    ),
    ErrorRule(
        outcome=Outcome.CONTEXT_LENGTH,
        source=_ERROR_CODES,
        code=("context_length_exceeded", "string_above_max_length"),
    ),
    ErrorRule(
        outcome=Outcome.CONTEXT_LENGTH,
        source=_ERROR_CODES,
        status=(200, 400),
        text=r"maximum context length|exceeds the context window",
    ),
    ErrorRule(outcome=Outcome.MODEL_NOT_FOUND, source=_ERROR_CODES, code=("model_not_found",)),
    ErrorRule(
        outcome=Outcome.MODEL_NOT_FOUND,
        source="https://github.com/aaif-goose/goose/issues/2564",
        status=(400, 404),
        text=r"only supported in v1/|not a chat model|model .*does not exist",
    ),
    ErrorRule(
        outcome=Outcome.CONTENT_FILTERED,
        source="https://developers.openai.com/docs/guides/safety-best-practices",
        code=(
            "content_policy_violation",
            "content_filter",
            "moderation_blocked",
            "invalid_prompt",
            "cyber_policy_violation",
        ),
    ),
    # Inside a stream there is no status to fall back on.
    ErrorRule(
        outcome=Outcome.INVALID_REQUEST,
        source=_ERROR_CODES,
        status=(200,),
        code=("invalid_request_error",),
    ),
)

OPENAI_ERRORS = ErrorTable(title="OpenAI", rules=OPENAI_RULES)
"""Chat completions and Responses fail in the same words."""

_PLAIN_MODEL = re.compile(r"(?:ft:)?(?:gpt-[34]|chatgpt-|gpt-5(?:\.\d+)?-chat)")
_REASONING_MODEL = re.compile(r"(?:ft:)?(?:o\d|gpt-[5-9]|codex-)")
_PRO_MODEL = re.compile(r"gpt-[5-9](?:\.\d+)?-pro")
_CAN_STOP_THINKING = re.compile(r"gpt-5\.[1-9]")
_O_SERIES = re.compile(r"(?:ft:)?o\d")


def is_reasoning(model: str) -> bool:
    """
    Tell whether a model thinks, https://developers.openai.com/docs/guides/reasoning .
    """
    return bool(_REASONING_MODEL.match(model)) and not _PLAIN_MODEL.match(model)


def lowest_effort(model: str) -> ReasoningEffort | None:
    """
    Give the effort at which a model thinks least.
    """
    if not is_reasoning(model):
        return None
    if _PRO_MODEL.match(model):
        return ReasoningEffort.HIGH
    if needs_responses(model):
        return ReasoningEffort.LOW
    if _CAN_STOP_THINKING.match(model):
        return ReasoningEffort.NONE
    return ReasoningEffort.LOW if _O_SERIES.match(model) else ReasoningEffort.MINIMAL


def _effort_fits(model: str, effort: ReasoningEffort) -> bool:
    """
    Tell whether a model takes an effort, by the model pages as of 2026.

    Models that are in neither family are let through: the provider decides.
    """
    if _PLAIN_MODEL.match(model):
        return effort is ReasoningEffort.NONE
    if not is_reasoning(model):
        return True
    if _PRO_MODEL.match(model):
        # https://developers.openai.com/docs/models/gpt-5-pro ; later ones take medium too.
        return effort in (ReasoningEffort.MEDIUM, ReasoningEffort.HIGH)
    if effort in (ReasoningEffort.NONE, ReasoningEffort.MINIMAL):
        return effort is lowest_effort(model)
    return True


def unsupported_fields(call: TextCall) -> list[str]:
    """
    Name what reasoning models refuse, https://developers.openai.com/docs/guides/reasoning .

    Sampling is theirs to set, unless thinking is switched off; `stop` is not known to them. Of
    earlier turns neither the failure of a tool has a field, nor reasoning, which Responses takes
    back only as what OpenAI itself sealed.
    """
    fields = call.holds(TOOL_RESULT_FAILED, TOOL_CALL_SIGNATURE, EARLIER_REASONING)
    if call.top_k is not None:
        fields.append("top_k")
    if needs_responses(call.model):
        fields += [name for name in ("seed", "stop") if getattr(call, name) not in (None, ())]
    if is_reasoning(call.model):
        thinking = call.reasoning_effort is not ReasoningEffort.NONE
        if thinking and call.temperature not in (None, 1):
            fields.append("temperature")
        if thinking and call.top_p not in (None, 1):
            fields.append("top_p")
        if call.stop and "stop" not in fields:
            fields.append("stop")
    if call.reasoning_effort is not None and not _effort_fits(call.model, call.reasoning_effort):
        fields.append("reasoning_effort")
    return fields


def effort_fields(call: TextCall) -> dict[str, Any]:
    """
    Give the body's field for the reasoning effort.
    """
    # A plain model does not know the field; not thinking is all it does.
    if call.reasoning_effort is None or _PLAIN_MODEL.match(call.model):
        return {}
    return {"reasoning_effort": call.reasoning_effort.value}


def _read_models(body: bytes) -> FreeCallFinding:
    """
    Read GET /v1/models: every model the key's project may use, in one page.
    """
    data = decode_object(body).get("data")
    items = data if isinstance(data, list) else []
    return FreeCallFinding(
        models=tuple(str(item.get("id")) for item in items if isinstance(item, dict))
    )


_SHAPE = ChatShape(
    output_limit_field="max_completion_tokens", own_fields=effort_fields, returns_reasoning=False
)


def _path(call: TextCall) -> str:
    return "/v1/responses" if needs_responses(call.model) else "/v1/chat/completions"


def _build_body(call: TextCall) -> bytes:
    if needs_responses(call.model):
        return build_responses_body(call)
    return build_chat_body(call, shape=_SHAPE)


OPENAI = HTTPDialect(
    provider="openai",
    default_base_url="https://api.openai.com",
    path=_path,
    headers=bearer,
    parse_answer=parse_openai,
    parse_refusal=parse_chat_error,
    make_decoder=OpenAIDecoder,
    table=OPENAI_ERRORS,
    build_body=_build_body,
    probe_plan=ProbePlan(
        free_path="/v1/models",
        read_free_call=_read_models,
        cheap_models=("gpt-4o-mini", "gpt-4.1-nano", "gpt-5-nano"),
        lowest_effort=lowest_effort,
    ),
    unsupported_fields=unsupported_fields,
    media=MediaFormats(image=OPENAI_IMAGES, speech=OPENAI_SPEECH),
)
