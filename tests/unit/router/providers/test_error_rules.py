# SPDX-License-Identifier: Apache-2.0
"""Every row of every provider's error table is reached by a refusal made up for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from services.router.domain.outcomes import Outcome
from services.router.providers.classify import ErrorTable
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import NOW, drain, sse

pytestmark = pytest.mark.requirement("R11")


def chat(status: int, code: Any = None, message: str = "", **metadata: Any) -> tuple[int, Any]:
    return status, {"error": {"code": code, "message": message, "metadata": metadata}}


def messages(status: int, kind: str, message: str = "") -> tuple[int, Any]:
    return status, {"type": "error", "error": {"type": kind, "message": message}}


def google(status: int, state: str, message: str = "", *details: Any) -> tuple[int, Any]:
    return status, {"error": {"status": state, "message": message, "details": details}}


def amazon(status: int, kind: str = "", message: str = "") -> tuple[int, Any]:
    return status, {"__type": kind, "message": message}


def lacking(action: str) -> tuple[int, Any]:
    return amazon(403, "AccessDeniedException", f"User: x is not authorized to perform: {action}")


OPENAI = [
    *(
        chat(403, None, f"Missing scopes: {scope}")
        for scope in ("api.model.read", "model.read", "api.model.request", "model.request")
    ),
    chat(401, None, "Your IP 192.0.2.1 is not authorized"),
    chat(403, "insufficient_permissions"),
    chat(429, "billing_hard_limit_reached"),
    chat(401, "invalid_api_key"),
    chat(429, None, "Request too large for gpt-4o"),
    chat(429, "slow_down"),
    chat(503, "server_is_overloaded"),
    chat(400, "string_above_max_length"),
    chat(400, None, "Your input exceeds the context window of this model"),
    chat(404, "model_not_found"),
    chat(404, None, "This model is only supported in v1/responses and not in v1/chat/completions."),
    chat(400, "moderation_blocked"),
]
ANTHROPIC = [
    messages(401, "authentication_error", "the token has expired"),
    messages(400, "invalid_request_error", "Your credit balance is too low"),
    messages(402, "billing_error"),
    messages(400, "invalid_request_error", "Output blocked by content filtering policy"),
    messages(400, "invalid_request_error", "This organization has been disabled."),
    messages(413, "request_too_large", "prompt is too long"),
    messages(401, "authentication_error"),
    messages(403, "permission_error"),
    messages(404, "not_found_error", "model: x"),
    messages(404, "not_found_error"),
    messages(429, "rate_limit_error"),
    messages(529, "overloaded_error"),
    messages(504, "timeout_error"),
    messages(500, "api_error"),
    messages(400, "invalid_request_error"),
]
GEMINI = [
    google(400, "INVALID_ARGUMENT", "API key expired."),
    google(401, "UNAUTHENTICATED"),
    google(403, "PERMISSION_DENIED", "Your API key was reported as leaked."),
    google(403, "PERMISSION_DENIED", "", {"reason": "SERVICE_DISABLED"}),
    google(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
    google(400, "INVALID_ARGUMENT", "The input token count exceeds the maximum number of tokens"),
    google(400, "FAILED_PRECONDITION", "User location is not supported"),
    google(429, "RESOURCE_EXHAUSTED", "", {"violations": [{"quotaId": "PerDay"}]}),
    google(429, "RESOURCE_EXHAUSTED"),
    google(404, "NOT_FOUND"),
    google(503, "UNAVAILABLE"),
    google(504, "DEADLINE_EXCEEDED"),
    google(403, "PERMISSION_DENIED"),
]
REFUSALS: dict[str, list[tuple[int, Any]]] = {
    "openai": OPENAI,
    "openrouter": [
        chat(401, 401, "This key has expired"),
        chat(402, 402, "x", limit_source="openrouter_in_flight_budget"),
        chat(402, 402, "x", limit_source="openrouter_credits"),
        chat(403, 403, "Key limit exceeded (monthly limit)."),
        chat(403, 403, "x", reasons=["violence"]),
        chat(403, 403, "Blocked by a guardrail"),
        chat(400, 400, "maximum context length is 5 tokens"),
        chat(404, 404, "No endpoints found matching your data policy"),
        chat(404, 404, "No endpoints found that support tool use"),
        chat(400, 400, "x is not a valid model ID"),
        chat(502, 502),
    ],
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "azure": [
        chat(400, "content_filter"),
        chat(404, "DeploymentNotFound"),
        chat(403, "AccessDenied", "Access denied due to Virtual Network/Firewall rules."),
        chat(401, "Unauthorized"),
        chat(429, "RateLimitReached"),
        chat(429, "insufficient_quota"),
    ],
    "amazon-bedrock": [
        lacking("bedrock:InvokeModelWithResponseStream"),
        lacking("bedrock:InvokeModel"),
        lacking("bedrock:ListFoundationModels"),
        lacking("bedrock:CallWithBearerToken"),
        amazon(403, "ExpiredTokenException"),
        amazon(403, "", "The security token included in the request is expired"),
        amazon(403, "InvalidSignatureException"),
        amazon(403, "", "Authentication failed: Please make sure your API Key is valid."),
        amazon(403, "AccessDeniedException", "Model access is denied: INVALID_PAYMENT_INSTRUMENT"),
        amazon(403, "AccessDeniedException"),
        amazon(429, "ThrottlingException", "Too many tokens per day"),
        amazon(429, "ThrottlingException", "Too many requests"),
        amazon(429, "ModelNotReadyException"),
        amazon(503, "ServiceUnavailableException"),
        amazon(408, "ModelTimeoutException"),
        amazon(500, "InternalServerException"),
        amazon(424),
        amazon(400, "ValidationException", "The provided model identifier is invalid."),
        amazon(404, "ResourceNotFoundException"),
        amazon(400, "ValidationException", "Input is too long for requested model."),
        amazon(400, "ValidationException", "Output blocked by content filter"),
        amazon(400, "ValidationException"),
    ],
    "google-vertex": [
        google(
            403,
            "PERMISSION_DENIED",
            "Permission 'aiplatform.endpoints.predict' denied",
            {"reason": "IAM_PERMISSION_DENIED"},
        ),
        google(403, "PERMISSION_DENIED", "", {"reason": "SERVICE_DISABLED"}),
        google(403, "PERMISSION_DENIED", "", {"reason": "BILLING_DISABLED"}),
        google(429, "RESOURCE_EXHAUSTED"),
        messages(429, "rate_limit_error"),
    ],
    "deepseek": [
        chat(402, "invalid_request_error", "Insufficient Balance"),
        chat(400, "invalid_request_error", "This model's maximum context length is 5 tokens"),
        chat(400, "invalid_request_error", "Model Not Exist"),
        chat(400, "invalid_request_error", "Content Exists Risk"),
    ],
    "stability": [
        (403, {"name": "content_moderation", "errors": ["x"]}),
        (402, {"name": "payment_required", "errors": ["x"]}),
        (429, {"name": "rate_limit_exceeded", "errors": ["x"]}),
        (401, {"name": "unauthorized", "errors": ["x"]}),
        (404, {"name": "not_found", "errors": ["no such engine"]}),
    ],
    "replicate": [
        (401, {"title": "Unauthenticated", "detail": "x"}),
        (402, {"title": "Insufficient credit", "detail": "x"}),
        (403, {"title": "Forbidden", "detail": "You have insufficient credit to run this model"}),
        (429, {"detail": "Request was throttled. Expected available in ~5s.", "retry_after": 5}),
        (400, {"detail": "The input was flagged as sensitive. (E005)"}),
        (422, {"title": "Invalid version or not permitted", "detail": "x"}),
        (404, {"detail": "x"}),
    ],
}
INSIDE = {
    "openai": [{"error": {"type": "invalid_request_error", "message": "x"}}],
    "deepseek": [{"error": {"code": "invalid_request_error", "message": "x"}}],
    "gemini": [{"promptFeedback": {"blockReason": "SAFETY"}}],
}
"""Failures that have no status of their own, because they come inside a stream."""


def marked(provider: str) -> tuple[Any, dict[str, int]]:
    """Give a dialect whose errors tell which row they came from."""
    dialect: Any = DIALECTS[provider]
    rules = dialect.table.rules
    names = {f"row {place}": id(rule) for place, rule in enumerate(rules)}
    rows = [
        dataclasses.replace(rule, missing_permission=name)
        for name, rule in zip(names, rules, strict=True)
    ]
    table = ErrorTable(title=dialect.table.title, rules=tuple(rows))
    return dataclasses.replace(dialect, table=table), names


def reached(provider: str) -> list[int]:
    """Give the rows that a provider's refusals come from."""
    dialect, names = marked(provider)
    found = []
    for status, body in REFUSALS[provider]:
        error = dialect.parse_error(status, {}, msgspec.json.encode(body), now=NOW)
        found.append(error.missing_permission)
    for body in INSIDE.get(provider, ()):
        _, failure = drain(dialect.stream_decoder(now=NOW), [sse(body)])
        assert failure is not None
        found.append(failure.missing_permission)
    assert "" not in found, f"{provider}: {found.index('')} is left to its status"
    return [names[name] for name in found]


def test_every_row_of_every_table_is_reached() -> None:
    found = {row for provider in REFUSALS for row in reached(provider)}
    for provider, dialect in DIALECTS.items():
        for place, rule in enumerate(dialect.table.rules):  # type: ignore[attr-defined]
            assert id(rule) in found, f"{provider}: row {place}, {rule}"


NO_MONEY = {
    "openai": chat(429, "insufficient_quota"),
    "openrouter": chat(402, 402, "Insufficient credits"),
    "anthropic": messages(400, "invalid_request_error", "Your credit balance is too low"),
    "gemini": google(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
    "azure": chat(429, "insufficient_quota"),
    "amazon-bedrock": amazon(403, "AccessDeniedException", "INVALID_PAYMENT_INSTRUMENT"),
    "google-vertex": google(403, "PERMISSION_DENIED", "", {"reason": "BILLING_DISABLED"}),
    "deepseek": chat(402, "invalid_request_error", "Insufficient Balance"),
    "stability": (402, {"name": "payment_required", "errors": ["x"]}),
    "replicate": (402, {"title": "Insufficient credit", "detail": "x"}),
}
TOO_FAST = {
    "openai": chat(429, "rate_limit_exceeded", "Rate limit reached for requests"),
    "openrouter": chat(429, 429, "Provider returned error"),
    "anthropic": messages(429, "rate_limit_error"),
    "gemini": google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota"),
    "azure": chat(429, "429", "Requests have exceeded the call rate limit"),
    "amazon-bedrock": amazon(429, "ThrottlingException", "Too many requests"),
    "google-vertex": google(429, "RESOURCE_EXHAUSTED"),
    "deepseek": chat(429, "invalid_request_error", "Rate limit reached"),
    "stability": (429, {"name": "rate_limit_exceeded", "errors": ["x"]}),
    "replicate": (429, {"detail": "Request was throttled.", "status": 429, "retry_after": 5}),
}


@pytest.mark.requirement("K3", "R10")
@pytest.mark.parametrize("provider", sorted(DIALECTS))
def test_no_money_is_told_from_a_rate_limit(provider: str) -> None:
    """The sentence says what to do, and names the provider."""
    for refusals, outcome, advice in (
        (NO_MONEY, Outcome.INSUFFICIENT_CREDIT, "top up"),
        (TOO_FAST, Outcome.RATE_LIMITED, "wait"),
    ):
        status, body = refusals[provider]
        dialect: Any = DIALECTS[provider]
        error = dialect.parse_error(status, {}, msgspec.json.encode(body), now=NOW)
        assert error.outcome is outcome
        assert advice in error.safe_message
        assert dialect.table.title in error.safe_message
