# SPDX-License-Identifier: Apache-2.0
"""A provider that keeps failing: shared keys there are passed over, and own keys are not."""

from __future__ import annotations

import asyncio

import pytest
from ownkey.router.v1 import attempt_pb2, explain_pb2, text_pb2

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, text_input
from tests.support.simulated_providers import KEYS, faulty_key

ON_CREDITS = attempt_pb2.SOURCE_CREDITS


@pytest.mark.requirement("R8", "R11", "R13")
async def test_after_many_failures_credits_go_to_another_provider_at_once(
    router: RouterUnderTest,
) -> None:
    """The first requests meet the outage; then the breaker is open, and Explain says so."""
    router.keyvault.put(
        "platform",
        stored_key("platform", "one", "openai", faulty_key("openai", "error500")),
        stored_key("platform", "two", "openrouter", KEYS["openrouter"]),
    )
    for _ in range(3):
        assert (await router.refused(source=ON_CREDITS)).reason == "PROVIDER_DOWN"
    answer = await router.generate(source=ON_CREDITS)
    assert [attempt.provider for attempt in answer.receipt.attempts] == ["openrouter"]
    request = explain_pb2.ExplainRequest(
        text=text_pb2.GenerateTextRequest(
            account="accounts/demo", model="openai/gpt-4o-mini", input=text_input()
        )
    )
    told = await router.stub.Explain(request, timeout=5)
    shut = [
        exclusion.provider
        for exclusion in told.exclusions
        if exclusion.reason == explain_pb2.EXCLUSION_REASON_BREAKER_OPEN
    ]
    assert shut == ["openai"]
    own = [c.provider for c in told.candidates if c.funding == attempt_pb2.FUNDING_OWN_KEY]
    assert own == ["openai"]
    assert any("openai has been failing" in note for note in told.notes)


@pytest.mark.requirement("R10", "R11")
async def test_replicas_learn_of_an_outage_through_keyvault(router: RouterUnderTest) -> None:
    """What this one found is told as a duration, by provider, host and model."""
    router.keyvault.put(
        "platform",
        stored_key("platform", "one", "openai", faulty_key("openai", "error500")),
        stored_key("platform", "two", "openrouter", KEYS["openrouter"]),
    )
    for _ in range(3):
        assert (await router.refused(source=ON_CREDITS)).reason == "PROVIDER_DOWN"
    async with asyncio.timeout(10):
        while not router.keyvault.outages:
            await asyncio.sleep(0.05)
    [outage] = router.keyvault.outages
    assert (outage.provider, outage.model) == ("openai", "openai/gpt-4o-mini")
    assert 0 < outage.remaining.ToTimedelta().total_seconds() <= 5
