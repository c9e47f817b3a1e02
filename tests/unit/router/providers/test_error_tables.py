# SPDX-License-Identifier: Apache-2.0
"""Each provider's refusals, classified; and that nothing of their text gets through."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import Dialect
from services.router.providers.classify import decode_object
from services.router.providers.openai import OPENAI
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import CANARY, NOW, drain, sse

pytestmark = pytest.mark.requirement("R11")


def openai(status: int, code: str | None, message: str = "", kind: str = "x") -> tuple[Any, ...]:
    return "openai", status, {"error": {"message": message, "type": kind, "code": code}}


def openrouter(code: int, message: str = "", **metadata: Any) -> tuple[Any, ...]:
    return "openrouter", code, {"error": {"code": code, "message": message, "metadata": metadata}}


def anthropic(status: int, kind: str, message: str = "") -> tuple[Any, ...]:
    return "anthropic", status, {"type": "error", "error": {"type": kind, "message": message}}


def gemini(code: int, state: str, message: str = "", *details: Any) -> tuple[Any, ...]:
    error = {"code": code, "status": state, "message": message, "details": list(details)}
    return "gemini", code, {"error": error}


TABLE = [
    (openai(401, "invalid_api_key", "Incorrect API key provided: sk-x"), Outcome.INVALID_KEY),
    (openai(401, None, "Your IP is not authorized"), Outcome.PERMISSION_DENIED),
    (openai(403, "unsupported_country_region_territory"), Outcome.PERMISSION_DENIED),
    (openai(403, None, "Missing scopes: api.model.read."), Outcome.PERMISSION_DENIED),
    (openai(404, "model_not_found"), Outcome.MODEL_NOT_FOUND),
    (openai(400, "model_not_found"), Outcome.MODEL_NOT_FOUND),
    (openai(404, None), Outcome.NOT_FOUND),
    (openai(400, "context_length_exceeded"), Outcome.CONTEXT_LENGTH),
    (openai(400, None, "This model's maximum context length is 8192"), Outcome.CONTEXT_LENGTH),
    (openai(400, None), Outcome.INVALID_REQUEST),
    (openai(422, None), Outcome.INVALID_REQUEST),
    (openai(400, "content_policy_violation"), Outcome.CONTENT_FILTERED),
    (openai(429, "insufficient_quota"), Outcome.INSUFFICIENT_CREDIT),
    (
        openai(429, "credit_balance_exhausted", kind="insufficient_quota"),
        Outcome.INSUFFICIENT_CREDIT,
    ),
    (openai(429, "rate_limit_exceeded", kind="tokens"), Outcome.RATE_LIMITED),
    (openai(429, "slow_down"), Outcome.RATE_LIMITED),
    (openai(429, None), Outcome.RATE_LIMITED),
    (openai(503, "server_is_overloaded"), Outcome.OVERLOADED),
    (openai(500, None, kind="server_error"), Outcome.SERVER_ERROR),
    (openai(504, None), Outcome.TIMEOUT),
    (openai(302, None), Outcome.SERVER_ERROR),
    (openrouter(401, "User not found."), Outcome.INVALID_KEY),
    (openrouter(401, "The key has expired"), Outcome.EXPIRED_CREDENTIALS),
    (openrouter(402, limit_source="openrouter_credits"), Outcome.INSUFFICIENT_CREDIT),
    (openrouter(402, "can only afford 5"), Outcome.INSUFFICIENT_CREDIT),
    (openrouter(402, limit_source="openrouter_in_flight_budget"), Outcome.RATE_LIMITED),
    (openrouter(403, limit_source="openrouter_key_limit"), Outcome.INSUFFICIENT_CREDIT),
    (openrouter(403, "Key limit exceeded (monthly limit)"), Outcome.INSUFFICIENT_CREDIT),
    (openrouter(403, "flagged", reasons=["violence"]), Outcome.CONTENT_FILTERED),
    (openrouter(403, "Your input was flagged"), Outcome.CONTENT_FILTERED),
    (openrouter(403, "no"), Outcome.PERMISSION_DENIED),
    (openrouter(408), Outcome.TIMEOUT),
    (openrouter(429, "Provider returned error", raw="rate-limited"), Outcome.RATE_LIMITED),
    (openrouter(400, "foo is not a valid model ID"), Outcome.MODEL_NOT_FOUND),
    (openrouter(404, "No endpoints found for foo."), Outcome.MODEL_NOT_FOUND),
    (openrouter(404, "No endpoints found that support tool use"), Outcome.INVALID_REQUEST),
    (openrouter(404, "No endpoints found matching your data policy"), Outcome.PERMISSION_DENIED),
    (openrouter(400, "x", raw="maximum context length is 5 tokens"), Outcome.CONTEXT_LENGTH),
    (openrouter(502), Outcome.OVERLOADED),
    (openrouter(503), Outcome.OVERLOADED),
    (openrouter(500), Outcome.SERVER_ERROR),
    (anthropic(401, "authentication_error", "invalid x-api-key"), Outcome.INVALID_KEY),
    (anthropic(401, "authentication_error", "token has expired"), Outcome.EXPIRED_CREDENTIALS),
    (anthropic(402, "billing_error"), Outcome.INSUFFICIENT_CREDIT),
    (
        anthropic(400, "invalid_request_error", "Your credit balance is too low to"),
        Outcome.INSUFFICIENT_CREDIT,
    ),
    (
        anthropic(
            400, "invalid_request_error", "You have reached your specified API usage limits."
        ),
        Outcome.INSUFFICIENT_CREDIT,
    ),
    (anthropic(403, "permission_error"), Outcome.PERMISSION_DENIED),
    (anthropic(404, "not_found_error", "model: claude-x"), Outcome.MODEL_NOT_FOUND),
    (anthropic(404, "not_found_error", "Not found"), Outcome.NOT_FOUND),
    (
        anthropic(400, "invalid_request_error", "prompt is too long: 3 tokens > 2 maximum"),
        Outcome.CONTEXT_LENGTH,
    ),
    (anthropic(413, "request_too_large"), Outcome.INVALID_REQUEST),
    (
        anthropic(400, "invalid_request_error", "Output blocked by content filtering policy"),
        Outcome.CONTENT_FILTERED,
    ),
    (anthropic(429, "rate_limit_error"), Outcome.RATE_LIMITED),
    (anthropic(500, "api_error"), Outcome.SERVER_ERROR),
    (anthropic(504, "timeout_error"), Outcome.TIMEOUT),
    (anthropic(529, "overloaded_error"), Outcome.OVERLOADED),
    (
        gemini(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}),
        Outcome.INVALID_KEY,
    ),
    (
        gemini(400, "INVALID_ARGUMENT", "API key expired.", {"reason": "API_KEY_INVALID"}),
        Outcome.EXPIRED_CREDENTIALS,
    ),
    (gemini(401, "UNAUTHENTICATED"), Outcome.INVALID_KEY),
    (gemini(403, "PERMISSION_DENIED", "Your API key was reported as leaked"), Outcome.INVALID_KEY),
    (
        gemini(403, "PERMISSION_DENIED", "", {"reason": "SERVICE_DISABLED"}),
        Outcome.PERMISSION_DENIED,
    ),
    (gemini(400, "FAILED_PRECONDITION", "User location"), Outcome.PERMISSION_DENIED),
    (
        gemini(400, "FAILED_PRECONDITION", "Please enable billing on your project"),
        Outcome.INSUFFICIENT_CREDIT,
    ),
    (gemini(402, "X"), Outcome.INSUFFICIENT_CREDIT),
    (
        gemini(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
        Outcome.INSUFFICIENT_CREDIT,
    ),
    (gemini(429, "RESOURCE_EXHAUSTED"), Outcome.RATE_LIMITED),
    (gemini(404, "NOT_FOUND"), Outcome.MODEL_NOT_FOUND),
    (gemini(400, "INVALID_ARGUMENT"), Outcome.INVALID_REQUEST),
    (
        gemini(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum"),
        Outcome.CONTEXT_LENGTH,
    ),
    (gemini(503, "UNAVAILABLE"), Outcome.OVERLOADED),
    (gemini(504, "DEADLINE_EXCEEDED"), Outcome.TIMEOUT),
    (gemini(500, "INTERNAL"), Outcome.SERVER_ERROR),
]


def classify(provider: str, status: int, body: Any, headers: dict[str, str] | None = None) -> Any:
    dialect = DIALECTS[provider]
    return dialect.parse_error(status, headers or {}, msgspec.json.encode(body), now=NOW)


@pytest.mark.parametrize(("refusal", "outcome"), TABLE)
def test_refusals_have_their_outcome(refusal: tuple[Any, ...], outcome: Outcome) -> None:
    error = classify(*refusal)
    assert (error.outcome, error.http_status) == (outcome, refusal[1])


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.provider)
class TestEveryProvider:
    @pytest.mark.parametrize(
        ("status", "billed"),
        [
            (400, Billed.REFUSED),
            (429, Billed.REFUSED),
            (503, Billed.REFUSED),
            (529, Billed.REFUSED),
            (408, Billed.MAYBE_BILLED),
            (500, Billed.MAYBE_BILLED),
            (502, Billed.MAYBE_BILLED),
            (504, Billed.MAYBE_BILLED),
        ],
    )
    def test_only_statuses_before_any_work_are_unbilled(
        self, dialect: Dialect, status: int, billed: Billed
    ) -> None:
        assert dialect.parse_error(status, {}, b"", now=NOW).billed is billed

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[]",
            b"[1]",
            b"1",
            b'{"error": null}',
            b'{"error": "text"}',
            b'{"error": [1]}',
            b'{"error": {"details": [1], "metadata": 5}}',
            b"[" * 100_000,
        ],
    )
    def test_bodies_of_any_form_are_classified_by_the_status(
        self, dialect: Dialect, body: bytes
    ) -> None:
        assert dialect.parse_error(401, {}, body, now=NOW).outcome is Outcome.INVALID_KEY

    def test_a_header_s_hint_is_taken_along(self, dialect: Dialect) -> None:
        error = dialect.parse_error(429, {"retry-after": "7"}, b"{}", now=NOW)
        assert (error.retry_after_seconds, error.retryable) == (7.0, True)

    def test_every_rule_names_its_source(self, dialect: Dialect) -> None:
        for rule in dialect.table.rules:  # type: ignore[attr-defined]
            assert rule.source.startswith("https://")


@pytest.mark.requirement("K8", "R15")
@given(
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1, max_size=40),
    st.sampled_from(sorted(DIALECTS)),
    st.sampled_from([200, 400, 401, 402, 403, 404, 408, 429, 500, 503, 529]),
)
def test_no_text_of_a_provider_is_in_an_error(text: str, provider: str, status: int) -> None:
    dialect = DIALECTS[provider]
    words = f"{text} {CANARY}"
    error = {
        "message": words,
        "type": words,
        "code": words,
        "status": words,
        "param": words,
        "details": [{"reason": words, "retryDelay": words}],
        "metadata": {"raw": words, "limit_source": words, "headers": {words: words}},
    }
    body = msgspec.json.encode({"type": "error", "error": error})
    refused = dialect.parse_error(status, {"retry-after": words}, body, now=NOW)
    _, failed = drain(dialect.stream_decoder(now=NOW), [sse({"type": "error", "error": error})])
    for caught in (refused, failed):
        shown = f"{caught} {caught!r} {vars(caught)}"
        assert text not in shown
        assert CANARY not in shown


class TestRateLimits:
    @pytest.mark.requirement("R10")
    def test_gemini_s_retry_info_is_in_the_body(self) -> None:
        refusal = gemini(429, "RESOURCE_EXHAUSTED", "", {"retryDelay": "48s"})
        assert classify(*refusal).retry_after_seconds == 48.0

    @pytest.mark.requirement("R10")
    def test_openai_s_wait_is_in_the_text(self) -> None:
        refusal = openai(429, "rate_limit_exceeded", "Please try again in 174ms.")
        assert classify(*refusal).retry_after_seconds == pytest.approx(0.174)

    @pytest.mark.requirement("R10")
    def test_openrouter_s_reset_is_in_the_metadata(self) -> None:
        headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1788264010000"}
        assert classify(*openrouter(429, headers=headers)).retry_after_seconds == 10.0
        budget = openrouter(
            403, limit_source="openrouter_workspace_budget", resets_at="2026-09-01T13:00:00Z"
        )
        assert classify(*budget).retry_after_seconds == 3600.0

    @pytest.mark.parametrize(
        "refusal",
        [
            openai(
                429, "rate_limit_exceeded", "Request too large for gpt-4o: Limit 3, Requested 4"
            ),
            gemini(429, "RESOURCE_EXHAUSTED", "", {"violations": [{"quotaId": "PerDayPerModel"}]}),
            gemini(429, "RESOURCE_EXHAUSTED", "", {"violations": [{"quotaValue": "0"}, 5]}),
            gemini(429, "RESOURCE_EXHAUSTED", "Quota exceeded, limit: 0, model: x"),
        ],
    )
    def test_limits_that_no_wait_mends_are_not_retryable(self, refusal: tuple[Any, ...]) -> None:
        error = classify(*refusal)
        assert (error.outcome, error.retryable) == (Outcome.RATE_LIMITED, False)


@pytest.mark.requirement("K3")
@pytest.mark.parametrize("scope", ["api.model.read", "model.read", "model.request"])
def test_a_missing_permission_is_named(scope: str) -> None:
    error = classify(*openai(403, None, f"Missing scopes: {scope}. Check that you have"))
    assert error.missing_permission == scope
    assert scope in error.safe_message


def test_an_array_around_an_error_is_looked_into() -> None:
    assert decode_object(b'[{"error": 1}]') == {"error": 1}
    assert OPENAI.parse_error(500, {}, b'[{"error":{"code":"slow_down"}}]', now=NOW).outcome is (
        Outcome.RATE_LIMITED
    )
