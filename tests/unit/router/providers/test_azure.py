# SPDX-License-Identifier: Apache-2.0
"""Azure: deployments, their addresses and their words."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from services.router.domain.outcomes import Outcome
from services.router.domain.text import ReasoningEffort
from services.router.providers.azure import AZURE
from services.router.providers.azure_credential import DEPLOYMENTS_MAX, read_deployments
from services.router.providers.base import CredentialMalformedError, ProviderError
from services.router.providers.hosts import ANY_HOST
from tests.support.provider_streams import NOW, credential, text_call
from tests.support.simulated_providers import azure_key

SLUG = "openai/gpt-4o-mini"
LOOK_ALIKES = (
    "x.openai.azure.com.evil.org",
    "evilopenai.azure.com",
    "x.openai.azure.com.",
    "x.openai.azure.com:8443",
    "user@x.openai.azure.com",
    "x.openai.azure.com@evil.org",
    "evil.org\\.openai.azure.com",
    "x.openai.\u0430zure.com",
    "x.openai.azure.com%2eevil.org",
    "openai.azure.com",
    "10.0.0.5",
)
"""Hosts that are none of Azure's, however they look."""


def deployment(**change: Any) -> dict[str, Any]:
    return {**json.loads(azure_key(SLUG))[0], **change}


def body_of(slug: str, **fields: Any) -> Any:
    request = AZURE.build_request(
        text_call(model=slug, **fields), credential(azure_key(slug)), base_url=ANY_HOST
    )
    return msgspec.json.decode(request.body)


@pytest.mark.requirement("K11", "R4")
class TestRequests:
    def test_the_address_is_used_as_given(self) -> None:
        address = "https://x.cognitiveservices.azure.com//openai/v1/chat/completions?a=b"
        key = json.dumps(deployment(endpoint_url=address, model_id="mine"))
        request = AZURE.build_request(text_call(model=SLUG), credential(key), base_url=ANY_HOST)
        assert request.url == address
        assert request.headers["api-key"] == deployment()["api_key"]
        assert msgspec.json.decode(request.body)["model"] == "mine"

    def test_a_slug_without_a_deployment_is_no_model(self) -> None:
        with pytest.raises(ProviderError) as failed:
            AZURE.build_request(
                text_call(model="openai/other"), credential(azure_key(SLUG)), base_url=ANY_HOST
            )
        assert failed.value.outcome is Outcome.MODEL_NOT_FOUND

    @pytest.mark.requirement("R1")
    def test_the_output_limit_has_the_name_that_the_model_knows(self) -> None:
        assert body_of(SLUG)["max_tokens"] == 100
        thinking = body_of("openai/gpt-5-mini", reasoning_effort=ReasoningEffort.LOW)
        assert thinking["max_completion_tokens"] == 100
        assert thinking["reasoning_effort"] == "low"
        assert body_of("xai/grok-4")["max_tokens"] == 100

    @pytest.mark.requirement("R8")
    def test_what_a_model_refuses_is_known_by_its_slug(self) -> None:
        assert AZURE.unsupported(text_call(model="openai/o4-mini", stop=("x",))) == ["stop"]
        assert AZURE.unsupported(text_call(model="xai/grok-4", stop=("x",))) == []


@pytest.mark.requirement("K11", "R16")
class TestCredentials:
    def test_one_object_is_a_list_of_one(self) -> None:
        [found] = read_deployments(credential(json.dumps(deployment())))
        assert (found.model_slug, found.host) == (SLUG, "contoso.openai.azure.com")

    @pytest.mark.parametrize(
        ("value", "field"),
        [
            ("canary", "secret"),
            ([], "secret"),
            ([deployment()] * 2, "model_slug"),
            ([5], "[0]"),
            (deployment(model_slug="x"), "model_slug"),
            (deployment(model_id="canary canary"), "model_id"),
            (deployment(api_key="canary canary"), "api_key"),
            ([deployment(endpoint_url="https://evil.org/chat/completions")], "[0].endpoint_url"),
            (deployment(endpoint_url="http://x.openai.azure.com/chat/completions"), "endpoint_url"),
            (deployment(endpoint_url="https://x.openai.azure.com/"), "endpoint_url"),
            (deployment(endpoint_url="https://[::1/chat/completions"), "endpoint_url"),
            *((deployment(endpoint_url=f"https://{host}/chat/completions"), "endpoint_url")
              for host in LOOK_ALIKES),
            (deployment(endpoint_url="https://x.openai.azure.com#@evil/chat/completions"),
             "endpoint_url"),
        ],
    )  # fmt: skip
    def test_each_fault_is_named_by_its_path(self, value: Any, field: str) -> None:
        with pytest.raises(CredentialMalformedError) as refused:
            read_deployments(credential(json.dumps(value)))
        assert [fault.field for fault in refused.value.faults] == [field]
        assert "canary" not in str(refused.value)

    def test_text_that_is_no_json_is_refused(self) -> None:
        with pytest.raises(CredentialMalformedError):
            read_deployments(credential("canary"))

    def test_the_number_of_deployments_is_bounded(self) -> None:
        slugs = [f"openai/m{index}" for index in range(DEPLOYMENTS_MAX + 1)]
        assert len(read_deployments(credential(azure_key(*slugs[1:])))) == DEPLOYMENTS_MAX
        with pytest.raises(CredentialMalformedError):
            read_deployments(credential(azure_key(*slugs)))


@pytest.mark.requirement("K3")
class TestProbe:
    def test_a_model_without_a_deployment_is_refused_before_anything_is_sent(self) -> None:
        with pytest.raises(CredentialMalformedError):
            AZURE.probe(credential(azure_key(SLUG)), base_url=ANY_HOST, models=("openai/o3",))

    def test_a_resource_is_asked_once_and_a_failure_ends_the_test(self) -> None:
        probe = AZURE.probe(credential(azure_key(SLUG, "openai/gpt-4o")), base_url=ANY_HOST)
        with pytest.raises(RuntimeError):
            probe.result()
        methods = []
        answer = {
            "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
        while (request := probe.next_request()) is not None:
            methods.append(request.method)
            probe.feed(200, {}, msgspec.json.encode(answer), now=NOW)
        assert methods == ["GET", "POST", "POST"]
        assert [model for model, _ in probe.result().spent_elsewhere] == [SLUG]

    def test_the_transport_s_failure_names_the_deployment(self) -> None:
        probe = AZURE.probe(credential(azure_key(SLUG)), base_url=ANY_HOST)
        probe.fail(AZURE.parse_error(503, {}, b"", now=NOW))
        assert SLUG in probe.result().detail


@pytest.mark.requirement("R11")
@pytest.mark.parametrize(
    ("status", "code", "message", "outcome"),
    [
        (401, "401", "invalid subscription key or wrong API endpoint", Outcome.INVALID_KEY),
        (401, "Unauthorized", "x", Outcome.INVALID_KEY),
        (403, "AccessDenied", "Virtual Network/Firewall rules", Outcome.PERMISSION_DENIED),
        (404, "DeploymentNotFound", "x", Outcome.MODEL_NOT_FOUND),
        (404, "404", "Resource not found", Outcome.NOT_FOUND),
        (400, "content_filter", "x", Outcome.CONTENT_FILTERED),
        (400, "context_length_exceeded", "x", Outcome.CONTEXT_LENGTH),
        (429, "429", "Please retry after 6 seconds", Outcome.RATE_LIMITED),
        (429, "insufficient_quota", "x", Outcome.INSUFFICIENT_CREDIT),
        (503, "ServiceUnavailable", "x", Outcome.OVERLOADED),
    ],
)
def test_each_refusal_has_its_outcome(
    status: int, code: str, message: str, outcome: Outcome
) -> None:
    body = msgspec.json.encode({"error": {"code": code, "message": message}})
    assert AZURE.parse_error(status, {}, body, now=NOW).outcome is outcome


@pytest.mark.requirement("R10")
def test_a_token_limit_s_reset_is_a_hint() -> None:
    error = AZURE.parse_error(429, {"x-rate-limit-reset-tokens": "12"}, b"{}", now=NOW)
    assert error.retry_after_seconds == 12.0
