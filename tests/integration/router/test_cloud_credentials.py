# SPDX-License-Identifier: Apache-2.0
"""Credentials of the clouds: really verified by the simulator, over real HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from services.router.domain.media import ImageCall
from services.router.domain.outcomes import Outcome
from services.router.domain.text import ImagePart
from services.router.providers.base import HTTPRequest
from services.router.providers.registry import DIALECTS
from simulator.bedrock_api import PERMISSIONS, STREAM
from simulator.credentials import access_key, service_account, short_term_key
from simulator.media import image
from simulator.vertex_api import PERMISSION, ROLE
from tests.support.provider_streams import credential, text_of
from tests.support.simulated_providers import (
    KEYS,
    PRIVATE_KEY,
    azure_key,
    faulty_key,
    serve_simulator,
)
from tests.support.simulator_client import MODELS, Client, a_call

PAGE = Path("docs/call/cloud-credentials.md")
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
SLOW_SECONDS = 0.1


def _policies() -> list[dict[str, Any]]:
    """Give the policies that the page shows."""
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [json.loads(block) for block in blocks]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with (
        serve_simulator(slow_seconds=SLOW_SECONDS) as simulator,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, simulator)


@pytest.mark.requirement("K11", "R4")
class TestBedrockCredentials:
    @BOTH_WAYS
    @pytest.mark.parametrize("key_id", ["AKIA_sim_0123456789", "ASIA_sim_0123456789"])
    async def test_signed_requests_are_served(
        self, client: Client, key_id: str, *, stream: bool
    ) -> None:
        key = access_key(key_id, region="eu-west-1")
        call = a_call("amazon-bedrock", stream=stream, model="eu.amazon.nova-micro-v1:0")
        if stream:
            assert text_of(await client.events("amazon-bedrock", call, key))
        else:
            assert (await client.complete("amazon-bedrock", call, key)).text

    async def test_a_signature_by_another_secret_is_refused(self, client: Client) -> None:
        key = access_key("AKIA_sim_0123456789").replace('Key": "', 'Key": "x')
        error = await client.failure("amazon-bedrock", key, stream=False)
        assert error.outcome is Outcome.INVALID_KEY

    async def test_a_changed_body_breaks_the_signature(self, client: Client) -> None:
        key = access_key("AKIA_sim_0123456789")
        signed = await client.request("amazon-bedrock", a_call("amazon-bedrock"), key)
        changed = HTTPRequest("POST", signed.url, signed.headers, signed.body + b" ")
        status, headers, body = await client.send(changed)
        error = DIALECTS["amazon-bedrock"].parse_error(status, headers, body, now=datetime.now(UTC))
        assert (status, error.outcome) == (403, Outcome.INVALID_KEY)

    async def test_a_fault_is_chosen_by_the_access_key_s_id(self, client: Client) -> None:
        key = access_key("AKIA_sim_ratelimited_seconds3_x")
        error = await client.failure("amazon-bedrock", key, stream=True)
        assert (error.outcome, error.retry_after_seconds) == (Outcome.RATE_LIMITED, 3.0)

    async def test_a_short_term_key_works_in_the_region_that_it_names(self, client: Client) -> None:
        key = short_term_key("eu-west-1")
        assert (await client.complete("amazon-bedrock", a_call("amazon-bedrock"), key)).text

    @pytest.mark.requirement("K3")
    @pytest.mark.parametrize("key", [KEYS["amazon-bedrock"], access_key("AKIA_sim_0123456789")])
    async def test_the_documented_policy_suffices(self, client: Client, key: str) -> None:
        """InvokeModel and InvokeModelWithResponseStream: listing models is refused to it."""
        probe = DIALECTS["amazon-bedrock"].probe(
            credential(key), base_url=client.base_url("amazon-bedrock")
        )
        free_call = probe.next_request()
        assert free_call is not None
        status, _, _ = await client.send(await client.authorized("amazon-bedrock", free_call, key))
        assert status == 403
        result = await client.probe("amazon-bedrock", key)
        assert (result.outcome, result.credit_checked) == (None, True)

    @pytest.mark.requirement("K3")
    @BOTH_WAYS
    @pytest.mark.parametrize("key_id", ["AKIA_sim_{}_0123456789", "ABSK-sim-{}-0123456789abcdef"])
    async def test_each_half_of_the_policy_is_needed_for_its_own_calls(
        self, client: Client, key_id: str, *, stream: bool
    ) -> None:
        """Without one of the two its calls are refused with its name, the other's are served."""
        words = {"noinvoke": "bedrock:InvokeModel", "nostream": STREAM}
        lacks, has = ("nostream", "noinvoke") if stream else ("noinvoke", "nostream")
        keys = {word: key_id.format(word) for word in words}
        if key_id.startswith("AKIA"):
            keys = {word: access_key(key) for word, key in keys.items()}
        error = await client.failure("amazon-bedrock", keys[lacks], stream=stream)
        assert (error.outcome, error.missing_permission) == (
            Outcome.PERMISSION_DENIED,
            words[lacks],
        )
        call = a_call("amazon-bedrock", stream=stream)
        if stream:
            assert text_of(await client.events("amazon-bedrock", call, keys[has]))
        else:
            assert (await client.complete("amazon-bedrock", call, keys[has])).text

    @pytest.mark.requirement("K3")
    def test_the_documented_policy_is_the_enforced_one(self) -> None:
        [policy] = _policies()
        [statement] = policy["Statement"]
        assert (statement["Effect"], set(statement["Action"])) == ("Allow", PERMISSIONS)

    @pytest.mark.requirement("K3")
    async def test_a_refusal_names_region_and_missing_permission(self, client: Client) -> None:
        result = await client.probe("amazon-bedrock", faulty_key("amazon-bedrock", "forbidden"))
        assert result.missing_permission == "bedrock:InvokeModel"
        result = await client.probe("amazon-bedrock", faulty_key("amazon-bedrock", "revoked"))
        assert "us-east-1" in result.detail


@pytest.mark.requirement("K11", "R4")
class TestVertexCredentials:
    @BOTH_WAYS
    @pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-haiku-4-5@20251001"])
    @pytest.mark.parametrize("region", ["global", "europe-west1"])
    async def test_both_publishers_are_served_in_every_region(
        self, client: Client, model: str, region: str, *, stream: bool
    ) -> None:
        key = service_account(region=region, private_key=PRIVATE_KEY)
        call = a_call("google-vertex", model=model, stream=stream)
        if stream:
            assert text_of(await client.events("google-vertex", call, key))
        else:
            assert (await client.complete("google-vertex", call, key)).text

    async def test_an_assertion_by_another_key_is_refused(self, client: Client) -> None:
        fields = json.loads(KEYS["google-vertex"])
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        fields["private_key"] = json.loads(service_account(private_key=other))["private_key"]
        error = await client.failure("google-vertex", json.dumps(fields), stream=False)
        assert error.outcome is Outcome.INVALID_KEY

    @pytest.mark.requirement("K3")
    async def test_a_missing_role_is_named(self, client: Client) -> None:
        result = await client.probe("google-vertex", faulty_key("google-vertex", "forbidden"))
        assert result.missing_permission == PERMISSION

    @pytest.mark.requirement("K3")
    @BOTH_WAYS
    @pytest.mark.parametrize("model", ["gemini-2.5-flash", "claude-haiku-4-5@20251001"])
    async def test_a_role_that_may_only_look_is_refused_at_both_publishers(
        self, client: Client, model: str, *, stream: bool
    ) -> None:
        key = service_account(fault="viewer", private_key=PRIVATE_KEY)
        error = await client.failure("google-vertex", key, stream=stream, model=model)
        assert (error.outcome, error.missing_permission) == (
            Outcome.PERMISSION_DENIED,
            PERMISSION,
        )
        result = await client.probe("google-vertex", key)
        assert result.missing_permission == PERMISSION

    @pytest.mark.requirement("K3")
    def test_the_documented_role_is_the_one_that_every_test_has(self) -> None:
        page = PAGE.read_text()
        assert f"`{ROLE}`" in page
        assert f"`{PERMISSION}`" in page


@pytest.mark.requirement("K11", "R16")
class TestAzureCredentials:
    async def test_each_deployment_is_found_by_its_slug(self, client: Client) -> None:
        call = a_call("azure", model="openai/gpt-5-mini")
        assert (await client.complete("azure", call)).model == "gpt-5-mini"

    async def test_a_key_is_taken_by_its_own_resource_alone(self, client: Client) -> None:
        key = azure_key(MODELS["azure"], api_key="azure-fabrikam-sim-0123456789abcdefghij")
        error = await client.failure("azure", key, stream=False)
        assert error.outcome is Outcome.INVALID_KEY

    @BOTH_WAYS
    async def test_a_deployment_of_responses_serves(self, client: Client, *, stream: bool) -> None:
        [deployment] = json.loads(azure_key("openai/gpt-5-mini"))
        host = "https://contoso.openai.azure.com"
        key = json.dumps({**deployment, "endpoint_url": f"{host}/openai/v1/responses"})
        call = a_call("azure", model="openai/gpt-5-mini", stream=stream)
        if stream:
            assert text_of(await client.events("azure", call, key))
        else:
            assert (await client.complete("azure", call, key)).text
        result = await client.probe("azure", key)
        assert (result.outcome, result.credit_checked) == (None, True)

    @pytest.mark.requirement("R3")
    async def test_images_are_made_from_images_beside_the_deployment_s_address(
        self, client: Client
    ) -> None:
        key = azure_key("openai/gpt-image-1-mini").replace("chat/completions", "images/generations")
        picture = ImagePart("image/png", image("image/png", size=2_000))
        call = ImageCall(
            model="openai/gpt-image-1-mini", prompt="A boat", count=1, images=(picture,)
        )
        dialect, url = DIALECTS["azure"], client.base_url("azure")
        request = dialect.build_request(call, credential(key), base_url=url)
        status, headers, body = await client.send(request)
        assert (status, request.url.partition("?")[0].rpartition("/")[2]) == (200, "edits")
        answer = dialect.parse_images(call, headers, body, now=datetime.now(UTC))
        assert [medium.media_type for medium in answer.media] == ["image/png"]

    @pytest.mark.requirement("K3")
    async def test_the_deployment_that_fails_is_named(self, client: Client) -> None:
        result = await client.probe("azure", azure_key(MODELS["azure"], "openai/no-such"))
        assert result.outcome is Outcome.MODEL_NOT_FOUND
        assert "openai/no-such" in result.detail
        assert [model for model, _ in result.spent_elsewhere] == [MODELS["azure"]]
