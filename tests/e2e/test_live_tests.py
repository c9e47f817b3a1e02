# SPDX-License-Identifier: Apache-2.0
"""
The live test before a key is stored, for every kind of credential that the clouds, DeepSeek and the
media providers take; those of the four others are tested beside their answers.
"""

from __future__ import annotations

import pytest
from ownkey.keyvault.v1 import key_pb2, live_test_pb2

from deploy.local.clients import Clients
from simulator.credentials import access_key
from tests.e2e import support
from tests.e2e.test_providers import FINDINGS
from tests.support.simulated_providers import KEYS, azure_key, faulty_key

KINDS = {
    "azure": "azure",
    "bedrock-key": "amazon-bedrock",
    "bedrock-signed": "amazon-bedrock",
    "vertex": "google-vertex",
    "deepseek": "deepseek",
    "stability": "stability",
    "replicate": "replicate",
}
"""Kinds of credential, each with its provider."""

RESULTS = ("VALID", "NO_CREDIT", "RATE_LIMITED", "INVALID", "FORBIDDEN", "UNREACHABLE")
FREE_OF_CHARGE = frozenset({"stability"})
"""Kinds whose free call shows the balance: no generation is needed, so there is no cost."""

pytestmark = pytest.mark.requirement("K3", "K11", "R4")


def credential(kind: str, fault: str) -> str:
    """A credential of a kind that fails in the way a fault's words say."""
    if kind == "bedrock-signed":
        words = f"_{fault.replace('-', '_')}_" if fault else "_"
        return access_key(f"AKIA_sim{words}0123456789")
    if kind == "azure":
        words = f"-{fault}-" if fault else "-"
        return azure_key("openai/gpt-4o-mini", api_key=f"azure-contoso-sim{words}0123456789ab")
    return faulty_key(KINDS[kind], fault) if fault else KEYS[KINDS[kind]]


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_it_finds_what_is_the_matter_and_the_key_is_stored_or_not(
    clients: Clients, kind: str, result: str
) -> None:
    finding, provider = FINDINGS[result], KINDS[kind]
    account = await support.new_account(clients)
    secret = credential(kind, finding.fault)
    if finding.reason:
        status = await support.refusal(
            support.create_key(clients, account, secret, provider=provider)
        )
        assert (status.code, status.reason) == (finding.code, finding.reason)
        assert len(status.message.split()) > 5
        assert await support.list_keys(clients, account) == []
        return
    created = await support.create_key(clients, account, secret, provider=provider)
    test, health = created.test, created.key.health[0]
    assert (test.result, health.state) == (finding.result, finding.health)
    if result == "RATE_LIMITED":
        assert test.retry_after.ToSeconds() == 90
    else:
        assert test.credit_checked
    paid = result == "VALID" and kind not in FREE_OF_CHARGE
    assert (test.cost_nano_usd > 0) is paid


@pytest.mark.parametrize("kind", KINDS)
async def test_where_nobody_can_be_asked_it_is_stored_untested_only_if_that_is_wanted(
    clients: Clients, kind: str
) -> None:
    account = await support.new_account(clients)
    created = await support.create_key(
        clients, account, credential(kind, "down"), provider=KINDS[kind], store_unverified=True
    )
    assert created.test.result == live_test_pb2.TEST_RESULT_UNREACHABLE
    assert created.test.cost_nano_usd == 0
    assert created.key.health[0].state == key_pb2.HEALTH_STATE_SUSPECT
