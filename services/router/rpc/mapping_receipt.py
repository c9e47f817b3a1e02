# SPDX-License-Identifier: Apache-2.0
"""
Writes attempts, receipts and prices as messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import duration_pb2
from ownkey.router.v1 import attempt_pb2 as pb

from services.router.domain.attempts import (
    AttemptBilled,
    AttemptRecord,
    PriceUsed,
    Receipt,
    UsageBasis,
)
from services.router.domain.plan import Funding
from services.router.domain.text import Usage

FUNDINGS = {
    Funding.OWN_KEY: pb.FUNDING_OWN_KEY,
    Funding.CREDITS: pb.FUNDING_CREDITS,
}
_BILLED = {
    AttemptBilled.YES: pb.BILLED_YES,
    AttemptBilled.NOT_SENT: pb.BILLED_NOT_SENT,
    AttemptBilled.REFUSED: pb.BILLED_REFUSED,
    AttemptBilled.MAYBE: pb.BILLED_MAYBE,
}
_BASES = {
    UsageBasis.EXACT: pb.USAGE_BASIS_EXACT,
    UsageBasis.ESTIMATED: pb.USAGE_BASIS_ESTIMATED,
    None: pb.USAGE_BASIS_UNSPECIFIED,
}


def receipt(value: Receipt) -> pb.Receipt:
    """
    Write a receipt.
    """
    served = value.served
    return pb.Receipt(
        payer=FUNDINGS[served.funding],
        fallback=served.fallback,
        provider=served.provider,
        model=served.model,
        key_hint=served.key_hint,
        attempts=[attempt(item) for item in value.attempts],
        usage=_usage(served.usage, served.basis),
        cost_nano_usd=value.cost_nano_usd,
        charged_nano_credits=value.charged_nano_credits,
        price=price(value.price) if value.price else None,
        settlement_state=(
            pb.SETTLEMENT_STATE_SETTLED if value.settled else pb.SETTLEMENT_STATE_PENDING
        ),
        notes=value.notes,
        replayed=value.replayed,
    )


def attempt_list(attempts: Iterable[AttemptRecord]) -> pb.AttemptList:
    """
    Write the attempts of a failure.
    """
    return pb.AttemptList(attempts=[attempt(item) for item in attempts])


def attempt(value: AttemptRecord) -> pb.Attempt:
    """
    Write one attempt.
    """
    return pb.Attempt(
        provider=value.provider,
        model=value.model,
        provider_model=value.provider_model,
        funding=FUNDINGS[value.funding],
        key=value.key,
        key_hint=value.key_hint,
        outcome=pb.Outcome.Value(f"OUTCOME_{value.outcome.upper()}"),
        billed=_BILLED[value.billed],
        usage=_usage(value.usage, value.basis),
        cost_nano_usd=value.cost_nano_usd,
        charged_nano_credits=value.charged_nano_credits,
        latency=duration(value.latency_seconds),
        http_status=value.http_status,
        fallback=value.fallback,
    )


def price(value: PriceUsed) -> pb.PriceUsed:
    """
    Write a price.
    """
    rates = value.rates
    return pb.PriceUsed(
        price_id=value.price_id,
        input_nano_usd_per_million_tokens=rates.input,
        cached_input_nano_usd_per_million_tokens=rates.cached_input,
        cache_write_nano_usd_per_million_tokens=rates.cache_write,
        output_nano_usd_per_million_tokens=rates.output,
        image_input_nano_usd_per_million_tokens=rates.image_input or 0,
        image_output_nano_usd_per_million_tokens=rates.image_output or 0,
        audio_input_nano_usd_per_million_tokens=rates.audio_input or 0,
        audio_output_nano_usd_per_million_tokens=rates.audio_output or 0,
        nano_usd_per_image=rates.image,
        nano_usd_per_million_characters=rates.characters,
        nano_usd_per_media_second=rates.media_second,
        nano_usd_per_machine_second=rates.machine_second,
    )


def duration(seconds: float) -> duration_pb2.Duration:
    """
    Write a span, to the millisecond.
    """
    message = duration_pb2.Duration()
    message.FromMilliseconds(round(seconds * 1000))
    return message


def _usage(value: Usage | None, basis: UsageBasis | None) -> pb.Usage | None:
    if value is None:
        return None
    return pb.Usage(
        input_token_count=value.input_tokens,
        cached_input_token_count=value.cached_input_tokens,
        cache_write_token_count=value.cache_write_tokens,
        output_token_count=value.output_tokens,
        reasoning_token_count=value.reasoning_tokens,
        image_input_token_count=value.image_input_tokens,
        image_output_token_count=value.image_output_tokens,
        audio_input_token_count=value.audio_input_tokens,
        audio_output_token_count=value.audio_output_tokens,
        image_count=value.images,
        character_count=value.characters,
        media_milliseconds=value.media_milliseconds,
        machine_milliseconds=value.machine_milliseconds,
        basis=_BASES[basis],
    )
