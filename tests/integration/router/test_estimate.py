# SPDX-License-Identifier: Apache-2.0
"""What a workload would cost, side by side."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from ownkey.ledger.v1 import authorization_pb2, plan_pb2
from ownkey.router.v1 import attempt_pb2, explain_pb2

from services.shared.status import RichStatus, from_rpc_error
from tests.support.router_service import RouterUnderTest

MINI, OLD_HAIKU, HAIKU = (
    "openai/gpt-4o-mini",
    "anthropic/claude-3-haiku",
    "anthropic/claude-haiku-4-5",
)
FLASHCARDS = explain_pb2.Workload(
    generation_count=100, input_token_count=1_000, output_token_count=40
)
OWN, CREDITS = attempt_pb2.FUNDING_OWN_KEY, attempt_pb2.FUNDING_CREDITS


async def _estimate(router: RouterUnderTest, **fields: object) -> list[explain_pb2.CostEstimate]:
    values = {"workload": FLASHCARDS, **fields}
    request = explain_pb2.EstimateCostRequest(**values)  # type: ignore[arg-type]
    answer = await router.stub.EstimateCost(request, timeout=5)
    return list(answer.estimates)


async def _refused(router: RouterUnderTest, **fields: object) -> RichStatus:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _estimate(router, **fields)
    return from_rpc_error(caught.value)


@pytest.mark.requirement("R6")
async def test_the_flashcard_comparison_comes_out_exactly(router: RouterUnderTest) -> None:
    """$0.50 in credits, $0.0174 and $0.0300 on own keys, today's Haiku beside them."""
    text = plan_pb2.OperationPrice(
        operation=authorization_pb2.OPERATION_TEXT, price_nano_credits=500_000_000
    )
    router.ledger.plans["demo"] = plan_pb2.Plan(
        name="plans/flat",
        credit_value_nano_usd=10_000_000,
        markup_parts_per_million=1_200_000,
        operation_prices=[text],
    )
    rows = await _estimate(router, models=[MINI, OLD_HAIKU, HAIKU], account="accounts/demo")
    on_credits = [row for row in rows if row.funding == CREDITS]
    assert [(row.cost_nano_usd, row.cost_nano_credits) for row in on_credits] == [
        (500_000_000, 50_000_000_000)
    ]
    listed = {row.model: row for row in rows if row.provider == "openrouter"}
    assert {name: row.cost_nano_usd for name, row in listed.items()} == {
        MINI: 17_400_000,
        OLD_HAIKU: 30_000_000,
        HAIKU: 120_000_000,
    }
    assert listed[HAIKU].price.input_nano_usd_per_million_tokens == 1_000_000_000
    assert not listed[HAIKU].HasField("cost_nano_credits")
    costs = [row.cost_nano_usd for row in rows]
    assert costs == sorted(costs)


@pytest.mark.requirement("R6")
async def test_credits_by_cost_carry_the_plans_markup(router: RouterUnderTest) -> None:
    """Only where a shared key reaches the provider: here OpenAI's."""
    rows = await _estimate(router, models=[MINI], account="accounts/demo")
    found = [(row.provider, row.cost_nano_usd) for row in rows if row.funding == CREDITS]
    assert found == [("openai", 20_880_000)]
    assert next(r for r in rows if r.funding == CREDITS).cost_nano_credits == 2_088_000_000


@pytest.mark.requirement("R6")
async def test_a_models_own_price_wins_over_the_operations_and_the_markup(
    router: RouterUnderTest,
) -> None:
    text = plan_pb2.OperationPrice(
        operation=authorization_pb2.OPERATION_TEXT, price_nano_credits=500_000_000
    )
    own_price = {MINI: 70_000_000}
    for operation_prices in ([text], []):
        router.ledger.plans["demo"] = plan_pb2.Plan(
            name="plans/table",
            credit_value_nano_usd=10_000_000,
            markup_parts_per_million=1_200_000,
            operation_prices=operation_prices,
            model_price_nano_credits=own_price,
        )
        rows = await _estimate(router, models=[MINI], account="accounts/demo")
        found = {
            row.model: (row.cost_nano_usd, row.cost_nano_credits)
            for row in rows
            if row.funding == CREDITS
        }
        assert found.pop(MINI) == (70_000_000, 7_000_000_000)
        assert found == ({"": (500_000_000, 50_000_000_000)} if operation_prices else {})


@pytest.mark.requirement("R6")
async def test_without_account_and_models_it_is_every_priced_offer_on_an_own_key(
    router: RouterUnderTest,
) -> None:
    rows = await _estimate(router)
    assert len(rows) > 20
    assert {row.funding for row in rows} == {OWN}
    assert not router.ledger.asked


@pytest.mark.requirement("R6", "R11")
@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"workload": explain_pb2.Workload()}, "INVALID_ARGUMENT", "workload.generation_count"),
        ({"models": ["m"] * 101}, "INVALID_ARGUMENT", "models"),
        ({"models": ["nobody/nothing"]}, "MODEL_NOT_FOUND", None),
        ({"account": "demo"}, "INVALID_ARGUMENT", "account"),
        ({"account": "accounts/nobody"}, "ACCOUNT_NOT_FOUND", None),
        (
            {
                "workload": explain_pb2.Workload(
                    generation_count=10**9, input_token_count=10**9, output_token_count=10**9
                )
            },
            "INVALID_ARGUMENT",
            "workload",
        ),
    ],
)
async def test_bad_input_is_named(
    router: RouterUnderTest, fields: dict[str, object], reason: str, field: str | None
) -> None:
    failure = await _refused(router, **fields)
    assert failure.reason == reason
    assert failure.metadata.get("field") == field


@pytest.mark.requirement("R6", "R3")
async def test_videos_are_compared_by_their_length_and_resolution(router: RouterUnderTest) -> None:
    workload = explain_pb2.Workload(generation_count=2, video_seconds=8, video_resolution="4k")
    rows = await _estimate(router, workload=workload)
    assert {(row.model, row.provider): row.cost_nano_usd for row in rows} == {
        ("google/veo-3.1-fast", "gemini"): 4_800_000_000,
        ("google/veo-3.1-fast", "google-vertex"): 4_800_000_000,
        ("google/veo-3.1", "gemini"): 9_600_000_000,
        ("google/veo-3.1", "google-vertex"): 9_600_000_000,
    }
    assert rows[0].price.nano_usd_per_media_second == 300_000_000
    # No model makes seven seconds.
    workload = explain_pb2.Workload(generation_count=1, video_seconds=7)
    assert await _estimate(router, workload=workload) == []
