# SPDX-License-Identifier: Apache-2.0
"""
Credentials of the clouds and of DeepSeek, from a paste to a paid answer.

Each is tested live before it is stored, shown by a hint that holds nothing of its secret, and
serves whole answers and streams at the exact price.
"""

from __future__ import annotations

import json
import secrets

import grpc
import pytest
from ownkey.keyvault.v1 import live_test_pb2
from ownkey.ledger.v1 import account_pb2

from deploy.local.clients import Clients
from services.shared.status import from_rpc_error
from simulator.credentials import access_key, service_account
from simulator.tokens import answer_text, count_tokens
from tests.e2e import support
from tests.support.simulated_providers import azure_key

PLAIN = f"canary-{secrets.token_hex(12)}"
CREDENTIALS = {
    "azure": (
        "azure",
        azure_key("openai/gpt-4o-mini", api_key=f"azure-contoso-{PLAIN}"),
        "openai/gpt-4o-mini",
        "gpt-4o-mini",
        "contoso/gpt-4o-mini",
    ),
    "bedrock-key": (
        "amazon-bedrock",
        f"ABSK-{PLAIN}",
        "amazon/nova-micro",
        "amazon.nova-micro-v1:0",
        f"ABSK…{PLAIN[-4:]}",
    ),
    "bedrock-signed": (
        "amazon-bedrock",
        access_key("AKIA_canary_0123456789", region="eu-central-1"),
        "anthropic/claude-haiku-4-5",
        "global.anthropic.claude-haiku-4-5-20251001-v1:0",
        "eu-central-1 AKIA…6789",
    ),
    "vertex-gemini": (
        "google-vertex",
        service_account(region="global"),
        "google/gemini-2.5-flash",
        "gemini-2.5-flash",
        "",
    ),
    "vertex-claude": (
        "google-vertex",
        service_account(region="us-east5"),
        "anthropic/claude-haiku-4-5",
        "claude-haiku-4-5@20251001",
        "",
    ),
    "deepseek": (
        "deepseek",
        f"sk-{PLAIN}",
        "deepseek/deepseek-chat",
        "deepseek-chat",
        f"sk-…{PLAIN[-4:]}",
    ),
}
"""Provider, secret, model, the model's name there, and the hint where it can be predicted."""


def remember(secret: str) -> None:
    """Have every log searched for what is secret in a credential."""
    parts = [secret]
    if secret.startswith(("{", "[")):
        value = json.loads(secret)
        fields = value[0] if isinstance(value, list) else value
        hidden = ("api_key", "secretAccessKey", "private_key")
        parts = [fields[name] for name in hidden if name in fields]
    support.SECRETS.extend(parts)


@pytest.mark.requirement("K3", "K8", "K11", "R1", "R2", "R4", "R12")
@pytest.mark.parametrize("name", CREDENTIALS)
async def test_a_credential_is_tested_stored_and_serves(clients: Clients, name: str) -> None:
    provider, secret, model, provider_model, hint = CREDENTIALS[name]
    remember(secret)
    account = await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
    created = await support.create_key(clients, account, secret, provider=provider)
    assert created.test.result == live_test_pb2.TEST_RESULT_VALID
    assert created.test.credit_checked
    assert created.key.hint == hint or (not hint and "simulated-project" in created.key.hint)
    expected = answer_text(provider_model, count_tokens(support.QUESTION))
    answer = await support.generate(clients, account, model=model)
    assert answer.text == expected
    assert (answer.receipt.provider, answer.receipt.key_hint) == (provider, created.key.hint)
    priced = provider != "deepseek"
    assert (answer.receipt.cost_nano_usd > 0) is priced
    streamed = await support.stream(clients, account, model=model)
    assert streamed.error is None
    assert streamed.text == expected
    assert streamed.receipt.usage == answer.receipt.usage


@pytest.mark.requirement("K3", "K11")
@pytest.mark.parametrize(
    ("provider", "secret", "field"),
    [
        ("azure", azure_key("no-slash"), "secret[0].model_slug"),
        ("azure", azure_key("openai/m").replace("https:", "http:"), "secret[0].endpoint_url"),
        ("amazon-bedrock", '{"accessKeyId":"AKIAIOSFODNN7EXAMPLE"}', "secret.secretAccessKey"),
        (
            "google-vertex",
            service_account().replace("oauth2.googleapis.com", "evil.org"),
            "secret.token_uri",
        ),
    ],
)
async def test_a_fault_is_told_by_its_path_and_nothing_is_stored(
    clients: Clients, provider: str, secret: str, field: str
) -> None:
    account = await support.new_account(clients)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await support.create_key(clients, account, secret, provider=provider)
    status = from_rpc_error(refused.value)
    assert (status.code, status.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "SECRET_MALFORMED",
    )
    assert field in status.message
    assert await support.list_keys(clients, account) == []


@pytest.mark.requirement("K3", "K11")
@pytest.mark.parametrize(
    ("provider", "secret"),
    [
        ("azure", azure_key("openai/gpt-4o-mini", api_key="azure-fabrikam-0123456789")),
        ("amazon-bedrock", access_key("AKIA_sim_0123456789").replace('Key": "', 'Key": "x')),
        ("google-vertex", service_account(fault="revoked")),
    ],
)
async def test_a_credential_that_its_provider_refuses_is_not_stored(
    clients: Clients, provider: str, secret: str
) -> None:
    account = await support.new_account(clients)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await support.create_key(clients, account, secret, provider=provider)
    assert from_rpc_error(refused.value).reason == "KEY_INVALID"
    assert await support.list_keys(clients, account) == []
