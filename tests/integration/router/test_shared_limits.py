# SPDX-License-Identifier: Apache-2.0
"""Shared keys with a limit, behind a real router: moved on from, then the service's own lack."""

from __future__ import annotations

import pytest
from ownkey.router.v1 import attempt_pb2

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest
from tests.support.simulated_providers import KEYS

ON_CREDITS = attempt_pb2.SOURCE_CREDITS
ONE = "accounts/platform/keys/one"


@pytest.mark.requirement("R10", "R11", "K16")
async def test_past_the_limit_another_provider_serves_and_then_nobody(
    router: RouterUnderTest,
) -> None:
    """Nothing is sent past it, and the caller hears when the next minute begins."""
    router.keyvault.put(
        "platform",
        stored_key("platform", "one", "openai", KEYS["openai"]),
        stored_key("platform", "two", "openrouter", KEYS["openrouter"]),
    )
    router.keyvault.limits = {ONE: 2, "accounts/platform/keys/two": 1}
    providers = []
    for _ in range(3):
        answer = await router.generate(source=ON_CREDITS)
        providers.append(answer.receipt.attempts[-1].provider)
    assert sorted(providers) == ["openai", "openai", "openrouter"]
    refused = await router.refused(source=ON_CREDITS)
    assert refused.reason == "SERVICE_CAPACITY"
    assert refused.retry_after_seconds is not None
    assert 1 < refused.retry_after_seconds <= 60
    assert len(await router.calls()) == 3
    own = await router.generate()
    assert own.receipt.attempts[-1].funding == attempt_pb2.FUNDING_OWN_KEY
    assert not router.keyvault.reports


@pytest.mark.requirement("R10", "K16")
async def test_a_plan_caps_an_account_s_part(router: RouterUnderTest) -> None:
    """The ledger's grant names the part; the limit itself has room yet."""
    router.keyvault.put("platform", stored_key("platform", "one", "openai", KEYS["openai"]))
    router.keyvault.limits = {ONE: 60, f"{ONE} accounts/demo": 1}
    router.ledger.shared_part_per_million = 20_000
    assert (await router.generate(source=ON_CREDITS)).text
    refused = await router.refused(source=ON_CREDITS)
    assert refused.reason == "SERVICE_CAPACITY"
    assert len(await router.calls()) == 1
