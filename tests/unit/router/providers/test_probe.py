# SPDX-License-Identifier: Apache-2.0
"""The live test of a key, step by step."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import ProviderError
from services.router.providers.probe import GENERATIONS_MAX, OUTPUT_TOKENS_MAX
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import NOW, TEXT_PROVIDERS, credential_of

pytestmark = pytest.mark.requirement("K3")

ANSWER = {
    "model": "gpt-4o-mini",
    "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
MODELS = {"data": [{"id": "gpt-4o-mini"}, {"id": "gpt-4o"}]}


def probe(provider: str = "openai", *models: str) -> Any:
    return DIALECTS[provider].probe(credential_of(provider), base_url="https://x", models=models)


def feed(machine: Any, status: int, body: Any) -> None:
    machine.feed(status, {}, msgspec.json.encode(body), now=NOW)


def refusal(code: str | None, message: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": "x"}}


def sent_model(machine: Any) -> str:
    return str(msgspec.json.decode(machine.next_request().body)["model"])


class TestFreeCall:
    @pytest.mark.parametrize(
        ("provider", "url"),
        [
            ("openai", "https://x/v1/models"),
            ("openrouter", "https://x/api/v1/key"),
            ("anthropic", "https://x/v1/models?limit=1000"),
            ("gemini", "https://x/v1beta/models?pageSize=1000"),
        ],
    )
    def test_the_free_call_comes_first(self, provider: str, url: str) -> None:
        request = probe(provider).next_request()
        assert (request.method, request.url, request.body) == ("GET", url, b"")

    def test_a_bad_key_ends_the_test_at_no_cost(self) -> None:
        machine = probe()
        feed(machine, 401, refusal("invalid_api_key"))
        assert machine.next_request() is None
        result = machine.result()
        assert (result.outcome, result.usage, result.model) == (Outcome.INVALID_KEY, None, "")

    def test_a_spent_key_limit_is_no_credit(self) -> None:
        machine = probe("openrouter")
        feed(machine, 200, {"data": {"limit": 5, "limit_remaining": 0}})
        result = machine.result()
        assert (result.outcome, result.credit_checked) == (Outcome.INSUFFICIENT_CREDIT, True)

    @pytest.mark.parametrize("left", [3.5, None])
    def test_a_key_without_a_spent_limit_may_still_lack_credit(self, left: float | None) -> None:
        machine = probe("openrouter")
        feed(machine, 200, {"data": {"limit_remaining": left}})
        assert sent_model(machine) == "openai/gpt-4o-mini"

    def test_a_403_leaves_the_word_to_a_generation(self) -> None:
        machine = probe()
        feed(machine, 403, refusal(None, "Missing scopes: api.model.read"))
        assert machine.next_request().method == "POST"

    def test_a_rate_limit_ends_the_test_with_its_hint(self) -> None:
        machine = probe()
        machine.feed(429, {"retry-after": "9"}, b"{}", now=NOW)
        assert machine.result().retry_after_seconds == 9.0

    @pytest.mark.parametrize("body", [{}, {"data": 5}, {"models": [1]}, []])
    @pytest.mark.parametrize("provider", TEXT_PROVIDERS)
    def test_a_list_that_cannot_be_read_says_nothing(self, provider: str, body: Any) -> None:
        machine = probe(provider)
        feed(machine, 200, body)
        assert machine.next_request().method == "POST"


class TestGeneration:
    def test_it_is_minimal_and_proves_credit(self) -> None:
        machine = probe()
        feed(machine, 200, MODELS)
        body = msgspec.json.decode(machine.next_request().body)
        assert body["max_completion_tokens"] == OUTPUT_TOKENS_MAX == 16
        feed(machine, 200, ANSWER)
        result = machine.result()
        assert (result.outcome, result.credit_checked) == (None, True)
        assert (result.model, result.usage.output_tokens) == ("gpt-4o-mini", 1)

    def test_no_money_is_found(self) -> None:
        machine = probe()
        feed(machine, 200, MODELS)
        feed(machine, 429, refusal("insufficient_quota"))
        result = machine.result()
        assert (result.outcome, result.credit_checked) == (Outcome.INSUFFICIENT_CREDIT, True)

    def test_a_missing_permission_is_named(self) -> None:
        machine = probe()
        feed(machine, 403, refusal(None, "Missing scopes: api.model.read"))
        feed(machine, 403, refusal(None, "Missing scopes: model.request"))
        result = machine.result()
        assert result.outcome is Outcome.PERMISSION_DENIED
        assert result.missing_permission == "model.request"

    def test_the_key_s_own_models_are_used(self) -> None:
        machine = probe("openai", "gpt-5-nano")
        feed(machine, 200, MODELS)
        body = msgspec.json.decode(machine.next_request().body)
        assert (body["model"], body["reasoning_effort"]) == ("gpt-5-nano", "minimal")

    @pytest.mark.parametrize(
        ("model", "effort"), [("gpt-5.2", "none"), ("o4-mini", "low"), ("gpt-4o", None)]
    )
    def test_a_reasoning_model_thinks_as_little_as_it_can(
        self, model: str, effort: str | None
    ) -> None:
        machine = probe("openai", model)
        feed(machine, 200, MODELS)
        assert msgspec.json.decode(machine.next_request().body).get("reasoning_effort") == effort

    @pytest.mark.parametrize(
        ("model", "thinking"),
        [
            ("gemini-2.5-flash", {"thinkingBudget": 0}),
            ("gemini-3.1-flash-lite", {"thinkingLevel": "minimal", "includeThoughts": True}),
            ("gemini-3-pro", {"thinkingLevel": "low", "includeThoughts": True}),
            ("gemini-2.5-pro", None),
            ("gemini-2.0-flash", None),
        ],
    )
    def test_gemini_thinks_as_little_as_it_can(self, model: str, thinking: Any) -> None:
        machine = probe("gemini", model)
        feed(machine, 200, {"models": [{"name": f"models/{model}"}]})
        config = msgspec.json.decode(machine.next_request().body)["generationConfig"]
        assert config.get("thinkingConfig") == thinking

    def test_a_model_that_the_key_sees_is_preferred_dated_names_included(self) -> None:
        machine = probe("anthropic")
        feed(machine, 200, {"data": [{"id": "claude-haiku-4-5-20251001"}]})
        assert sent_model(machine) == "claude-haiku-4-5"

    def test_a_missing_model_says_nothing_about_the_key(self) -> None:
        machine = probe()
        feed(machine, 403, refusal(None))
        seen = []
        for _ in range(GENERATIONS_MAX):
            seen.append(sent_model(machine))
            feed(machine, 404, refusal("model_not_found"))
        result = machine.result()
        assert len(set(seen)) == GENERATIONS_MAX
        assert (result.outcome, result.credit_checked) == (None, False)

    def test_a_missing_model_that_the_key_is_bound_to_is_told(self) -> None:
        machine = probe("openai", "gpt-9")
        feed(machine, 200, MODELS)
        feed(machine, 404, refusal("model_not_found"))
        assert machine.result().outcome is Outcome.MODEL_NOT_FOUND

    def test_a_failing_transport_ends_the_test(self) -> None:
        machine = probe()
        machine.fail(
            ProviderError(outcome=Outcome.NETWORK, safe_message="no way", billed=Billed.NOT_SENT)
        )
        result = machine.result()
        assert (result.outcome, result.detail, result.http_status) == (
            Outcome.NETWORK,
            "no way",
            None,
        )

    def test_a_result_before_the_end_is_a_bug(self) -> None:
        with pytest.raises(RuntimeError):
            probe().result()
