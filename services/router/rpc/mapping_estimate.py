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
    if len(request.models) > MODELS_MAX:
        raise InvalidArgumentError.of("models", f"holds more than {MODELS_MAX} models")
    if request.account:
        ACCOUNT.parse(request.account, "account")
    return Workload(
        generations=asked.generation_count,
        input_tokens=asked.input_token_count,
        output_tokens=asked.output_token_count,
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
