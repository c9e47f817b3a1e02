# SPDX-License-Identifier: Apache-2.0
"""Two routers that share what they find out: a key's cooldown, and a provider's outage."""

from __future__ import annotations

import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2, explain_pb2, router_service_pb2_grpc, text_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.ids import new_id
from tests.e2e import support

COOLING_SECONDS = 300
FAILING = "gemini"
"""Whose shared key fails in the test of outages; no other test runs meanwhile."""
LEARNING_SECONDS_MAX = 45.0

Router = router_service_pb2_grpc.RouterServiceStub


async def explained(router: Router, account: str, **fields: object) -> explain_pb2.ExplainResponse:
    """The plan of a request at one router."""
    request = text_pb2.GenerateTextRequest(
        account=account, request_id=new_id(), input=support.question(), **fields
    )
    return await router.Explain(explain_pb2.ExplainRequest(text=request))


@pytest.mark.requirement("R10", "K14", "R9")
async def test_a_cooldown_that_one_met_holds_at_the_other_for_as_long_as_is_left(
    clients: Clients, second: Router
) -> None:
    """It is shared as a duration; until its end the key is not called, and credits may not pay."""
    account = await support.new_account(
        clients,
        mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST,
        consent=account_pb2.FALLBACK_CONSENT_NEVER,
    )
    key = await support.add_key(clients, account)
    words = f"ratelimited-seconds{COOLING_SECONDS}"
    async with support.fault(clients, key.secret, words):
        met = await support.refusal(support.generate(clients, account))
        assert met.reason == "RATE_LIMITED"

        async def cooling() -> bool:
            [stored] = await support.list_keys(clients, account)
            return any(h.state == key_pb2.HEALTH_STATE_COOLING for h in stored.health)

        await support.eventually(cooling)
        calls = await support.recorded_requests(clients, key.secret)
        told = await support.refusal(support.generate(clients, account, router=second))
        assert told.metadata["own_key_state"] == "COOLING"
        assert support.attempts_of(told) == []
        plan = await explained(second, account, model=support.MODELS["openai"])
        [own] = [c for c in plan.candidates if c.funding == attempt_pb2.FUNDING_OWN_KEY]
        assert 0 < own.wait.ToTimedelta().total_seconds() <= COOLING_SECONDS
    assert len(await support.recorded_requests(clients, key.secret)) == len(calls)
    await support.assert_untouched(clients, account)


@pytest.mark.requirement("R8", "R10", "R11", "R13")
async def test_an_outage_that_one_found_closes_the_way_at_the_other(
    suite: Suite, clients: Clients
) -> None:
    """The other has made no call at all; requests there go to the next provider at once."""
    account = await support.new_account(clients)
    model = support.MODELS[FAILING]
    only = text_pb2.RoutePreferences(only=[FAILING])
    shared = support.shared_secret(clients.addresses.simulator, FAILING)
    async with (
        support.router_beside(suite, BREAKER_FAILURES="5") as finder,
        support.router_beside(suite, BREAKER_FAILURES="5") as learner,
        support.fault(clients, shared, "error500"),
    ):

        async def learned() -> bool:
            # The finder goes on to meet it, so that its breaker stays open for longer and longer.
            met = await support.refusal(
                support.generate(
                    clients,
                    account,
                    model=model,
                    route=only,
                    source=attempt_pb2.SOURCE_CREDITS,
                    router=finder.router,
                )
            )
            assert met.reason in {"PROVIDER_DOWN", "SERVICE_CAPACITY"}
            plan = await explained(
                learner.router, account, model=model, source=attempt_pb2.SOURCE_CREDITS
            )
            return any(
                exclusion.provider == FAILING
                and exclusion.reason == explain_pb2.EXCLUSION_REASON_BREAKER_OPEN
                for exclusion in plan.exclusions
            )

        await support.eventually(learned, seconds=LEARNING_SECONDS_MAX)
