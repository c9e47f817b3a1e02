# SPDX-License-Identifier: Apache-2.0
"""Structured credentials: each fault by its path, and hints that hold nothing of the secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.keyvault.domain.credentials import clean_secret, hint_of
from services.keyvault.domain.structured_credentials import (
    DEPLOYMENTS_MAX,
    HINT_CHARACTERS_MAX,
    faults_of,
)
from services.keyvault.errors import SecretFault, SecretMalformedError

pytestmark = pytest.mark.requirement("K11", "K2")

ADDRESS = "https://contoso.openai.azure.com/openai/deployments/mini/chat/completions"
DEPLOYMENT = {
    "model_slug": "openai/gpt-4o-mini",
    "endpoint_url": f"{ADDRESS}?api-version=2024-10-21",
    "api_key": "canary0123456789",
    "model_id": "mini",
}
ACCESS_KEY = {
    "accessKeyId": "AKIAIOSFODNN7EXAMPLE",
    "secretAccessKey": "canary0123456789",
    "region": "eu-west-1",
}
ACCOUNT = {
    "type": "service_account",
    "project_id": "my-project",
    "private_key_id": "0123456789abcdef",
    "private_key": "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n",
    "client_email": "a@my-project.iam.gserviceaccount.com",
    "client_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
    "region": "global",
}
GOOD = {"azure": DEPLOYMENT, "amazon-bedrock": ACCESS_KEY, "google-vertex": ACCOUNT}


def faults(provider: str, value: Any) -> list[str]:
    return [fault.field for fault in faults_of(json.dumps(value), provider)]


@pytest.mark.parametrize("provider", GOOD)
def test_a_good_one_has_no_fault(provider: str) -> None:
    text = json.dumps(GOOD[provider])
    assert clean_secret(text, provider) == text


@pytest.mark.parametrize(
    ("provider", "change", "field"),
    [
        ("azure", {"model_slug": "gpt-4o-mini"}, "secret.model_slug"),
        ("azure", {"model_id": "a b"}, "secret.model_id"),
        ("azure", {"api_key": "canary canary"}, "secret.api_key"),
        ("azure", {"endpoint_url": ADDRESS.replace("https", "http")}, "secret.endpoint_url"),
        ("azure", {"endpoint_url": ADDRESS.replace(".com", ".com.evil.org")},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": ADDRESS.replace("contoso.openai", "evilopenai")},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": ADDRESS.replace(".com/", ".com:8443/")}, "secret.endpoint_url"),
        ("azure", {"endpoint_url": ADDRESS.replace("https://", "https://a@")},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": "https://10.0.0.1/chat/completions"}, "secret.endpoint_url"),
        ("azure", {"endpoint_url": ADDRESS.replace(".com/", ".com./")}, "secret.endpoint_url"),
        ("azure", {"endpoint_url": ADDRESS.replace("azure", "\u0430zure")},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": ADDRESS.replace(".com/", ".com%2eevil.org/")},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": "https://openai.azure.com/chat/completions"},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": "https://.openai.azure.com/chat/completions"},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": "https://evil.org\\.openai.azure.com/chat/completions"},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": "https://[x.openai.azure.com/chat/completions"},
         "secret.endpoint_url"),
        ("azure", {"endpoint_url": "https://contoso.openai.azure.com/"}, "secret.endpoint_url"),
        ("azure", {"more": "canary"}, "secret.more"),
        ("amazon-bedrock", {"accessKeyId": "AKIA"}, "secret.accessKeyId"),
        ("amazon-bedrock", {"secretAccessKey": None}, "secret.secretAccessKey"),
        ("amazon-bedrock", {"region": "Europe"}, "secret.region"),
        ("amazon-bedrock", {"accessKeyId": "ASIAIOSFODNN7EXAMPLE"}, "secret.sessionToken"),
        ("google-vertex", {"type": "authorized_user"}, "secret.type"),
        ("google-vertex", {"project_id": "x"}, "secret.project_id"),
        ("google-vertex", {"private_key": "canary"}, "secret.private_key"),
        ("google-vertex", {"client_email": "nobody"}, "secret.client_email"),
        ("google-vertex", {"region": ""}, "secret.region"),
        ("google-vertex", {"region": "us"}, "secret.region"),
        ("google-vertex", {"token_uri": "https://evil.org/token"}, "secret.token_uri"),
        ("google-vertex", {"token_uri": "http://oauth2.googleapis.com/token"}, "secret.token_uri"),
        ("google-vertex", {"token_uri": "https://googleapis.com.evil.org/token"},
         "secret.token_uri"),
        ("google-vertex", {"token_uri": 5}, "secret.token_uri"),
    ],
)  # fmt: skip
def test_each_fault_is_named_by_its_path_with_an_example(
    provider: str, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(SecretMalformedError) as refused:
        clean_secret(json.dumps({**GOOD[provider], **change}), provider)
    assert refused.value.fault is SecretFault.FIELDS
    assert [fault.field for fault in refused.value.fields] == [field]
    told = f"{refused.value.message} {refused.value.metadata} {refused.value.fields}"
    assert "canary" not in told
    assert "evil" not in told


def test_a_deployment_in_a_list_is_named_by_its_place() -> None:
    other = {**DEPLOYMENT, "model_slug": "openai/o3", "api_key": ""}
    assert faults("azure", [DEPLOYMENT, other]) == ["secret[1].api_key"]
    assert faults("azure", [DEPLOYMENT, DEPLOYMENT]) == ["secret[1].model_slug"]
    assert faults("azure", [DEPLOYMENT, 5]) == ["secret[1]"]


@pytest.mark.parametrize("count", [0, DEPLOYMENTS_MAX + 1])
def test_the_number_of_deployments_is_bounded(count: int) -> None:
    many = [{**DEPLOYMENT, "model_slug": f"openai/m{index}"} for index in range(count)]
    assert faults("azure", many) == ["secret"]
    assert faults("azure", many[:-1]) == ([] if count else ["secret"])


@pytest.mark.parametrize(
    ("secret", "provider"),
    [
        ("{", "azure"),
        ("a-plain-key-0123456789", "azure"),
        ("AIzaSy0123456789", "google-vertex"),
        ("[]", "google-vertex"),
        ('{"api_key": "x"}', "openai"),
    ],
)
def test_the_wrong_kind_of_text_is_refused(secret: str, provider: str) -> None:
    with pytest.raises(SecretMalformedError) as refused:
        clean_secret(secret, provider)
    assert refused.value.fault is SecretFault.FIELDS


def test_a_plain_bedrock_key_is_a_key() -> None:
    assert clean_secret("ABSKQmVkcm9ja0FQSUtleS0wMTIz", "amazon-bedrock")


@pytest.mark.requirement("K8")
@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (DEPLOYMENT, "contoso/mini"),
        ([DEPLOYMENT, {**DEPLOYMENT, "model_id": "other"}], "contoso/mini, contoso/other"),
        (ACCESS_KEY, "eu-west-1 AKIA…MPLE"),
        (ACCOUNT, "my-project global …cdef"),
        ({**ACCOUNT, "private_key_id": ""}, "my-project global"),
    ],
)
def test_a_hint_tells_resource_and_region(value: Any, hint: str) -> None:
    assert hint_of(json.dumps(value)) == hint


@pytest.mark.requirement("K8")
def test_many_deployments_are_counted_where_there_is_no_room() -> None:
    many = [{**DEPLOYMENT, "model_id": f"deployment-{index}"} for index in range(9)]
    hint = hint_of(json.dumps(many))
    assert hint == "contoso/deployment-0, contoso/deployment-1 +7"
    assert len(hint_of(json.dumps([{**DEPLOYMENT, "model_id": "m" * 64}]))) == HINT_CHARACTERS_MAX
