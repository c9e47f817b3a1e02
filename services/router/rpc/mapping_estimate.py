# SPDX-License-Identifier: Apache-2.0
"""
Reads workloads, and writes what they would cost.
"""

from __future__ import annotations

from ownkey.router.v1 import explain_pb2 as pb

from services.router.domain.attempts import PriceUsed
from services.router.domain.estimate import Estimate, Workload
from services.router.rpc.mapping_receipt import FUNDINGS
from services.router.rpc.mapping_receipt import price as price_message
from services.shared.errors import InvalidArgumentError
from services.shared.names import ACCOUNT

GENERATIONS_MAX = 1_000_000_000
TOKENS_MAX = 1_000_000_000
MODELS_MAX = 100
IMAGES_MAX = 10
CHARACTERS_MAX = 4_096
VIDEO_SECONDS_MAX = 600


def workload(request: pb.EstimateCostRequest) -> Workload:
    """
    Read a request's workload, and check the rest of it.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    asked = request.workload
    _within("workload.generation_count", asked.generation_count, 1, GENERATIONS_MAX)
    _within("workload.input_token_count", asked.input_token_count, 0, TOKENS_MAX)
    _within("workload.output_token_count", asked.output_token_count, 0, TOKENS_MAX)
    _within("workload.image_count", asked.image_count, 0, IMAGES_MAX)
    _within("workload.character_count", asked.character_count, 0, CHARACTERS_MAX)
    if asked.image_count and asked.character_count:
        raise InvalidArgumentError.of("workload.character_count", "does not go with images")
    _within("workload.video_seconds", asked.video_seconds, 0, VIDEO_SECONDS_MAX)
    if asked.video_seconds and (asked.image_count or asked.character_count):
        raise InvalidArgumentError.of("workload.video_seconds", "does not go with other media")
    if len(request.models) > MODELS_MAX:
        raise InvalidArgumentError.of("models", f"holds more than {MODELS_MAX} models")
    if request.account:
        ACCOUNT.parse(request.account, "account")
    return Workload(
        generations=asked.generation_count,
        input_tokens=asked.input_token_count,
        output_tokens=asked.output_token_count,
        images=asked.image_count,
        image_size=asked.image_size,
        image_quality=asked.image_quality,
        characters=asked.character_count,
        video_seconds=asked.video_seconds,
        video_resolution=asked.video_resolution,
    )


def response(rows: tuple[Estimate, ...], workload: Workload) -> pb.EstimateCostResponse:
    """
    Write estimates.
    """
    return pb.EstimateCostResponse(estimates=[_estimate(row, workload) for row in rows])


def _estimate(row: Estimate, workload: Workload) -> pb.CostEstimate:
    price = None
    if row.price is not None:
        rates = row.price.rates_for(workload.input_tokens)
        price = price_message(PriceUsed(price_id=row.price.price_id, rates=rates))
    return pb.CostEstimate(
        provider=row.provider,
        model=row.model,
        funding=FUNDINGS[row.funding],
        cost_nano_usd=row.cost_nano_usd,
        cost_nano_credits=row.cost_nano_credits,
        price=price,
    )


def _within(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgumentError.of(field, f"must be from {low:,} to {high:,}")
