# SPDX-License-Identifier: Apache-2.0
"""
Writes the catalogue and explanations as messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from ownkey.router.v1 import attempt_pb2, catalogue_pb2, explain_pb2, probe_pb2

from services.router.domain.attempts import PriceUsed
from services.router.domain.catalogue import (
    Capability,
    Catalogue,
    ImageTraits,
    Model,
    Offer,
    Provider,
    SpeechTraits,
)
from services.router.domain.keys import HealthState
from services.router.domain.plan import Candidate, Exclusion, Funding
from services.router.domain.prices import Price
from services.router.rpc.mapping_receipt import FUNDINGS, duration
from services.router.rpc.mapping_receipt import price as price_message
from services.router.rpc.status import STATUS_TABLE
from services.router.usecases.explain import Explanation
from services.router.usecases.probe_key import ProbeReport

_UNHEALTHY = {
    HealthState.COOLING: (explain_pb2.EXCLUSION_REASON_COOLING, "rate-limited for now"),
    HealthState.REJECTED: (explain_pb2.EXCLUSION_REASON_REJECTED, "refused by its provider"),
    HealthState.NO_CREDIT: (explain_pb2.EXCLUSION_REASON_NO_CREDIT, "out of money at its provider"),
    HealthState.UNOPENED: (
        explain_pb2.EXCLUSION_REASON_KEY_UNAVAILABLE,
        "keyvault cannot open it now",
    ),
    HealthState.NOT_BROUGHT: (
        explain_pb2.EXCLUSION_REASON_NOT_BROUGHT,
        "its browser holds it, and the request does not bring it",
    ),
}


def provider(value: Provider, catalogue: Catalogue) -> catalogue_pb2.Provider:
    """
    Write a provider.
    """
    return catalogue_pb2.Provider(
        name=f"providers/{value.id}",
        provider_id=value.id,
        display_name=value.display_name,
        key_page_url=value.key_page_url,
        key_shape=value.key_shape,
        default_model=value.default_model,
        curated_models=value.curated_models,
        capabilities=_capabilities(catalogue.capabilities_of(value.id)),
    )


def model(value: Model) -> catalogue_pb2.Model:
    """
    Write a model.
    """
    return catalogue_pb2.Model(
        name=f"models/{value.id}",
        model_id=value.id,
        display_name=value.display_name,
        capabilities=_capabilities(value.capabilities),
        context_token_count=value.context_tokens,
        default_max_output_token_count=value.default_max_output_tokens,
        max_output_token_count=value.output_tokens_max,
        offers=[_offer(item) for item in value.offers],
        image=None if value.image is None else _image(value.image),
        speech=None if value.speech is None else _speech(value.speech),
    )


def _capabilities(values: Iterable[Capability]) -> list[catalogue_pb2.Capability.ValueType]:
    return [catalogue_pb2.Capability.Value(f"CAPABILITY_{item.name}") for item in sorted(values)]


def _image(value: ImageTraits) -> catalogue_pb2.ImageTraits:
    return catalogue_pb2.ImageTraits(
        sizes=value.sizes,
        qualities=value.qualities,
        media_types=value.media_types,
        max_count=value.count_max,
        max_input_image_count=value.images_max,
        max_prompt_character_count=value.prompt_characters_max,
    )


def _speech(value: SpeechTraits) -> catalogue_pb2.SpeechTraits:
    return catalogue_pb2.SpeechTraits(
        voices=value.voices,
        media_types=value.media_types,
        max_text_character_count=value.text_characters_max,
    )


def probe_response(report: ProbeReport) -> probe_pb2.ProbeKeyResponse:
    """
    Write what a live test found.
    """
    result = probe_pb2.ProbeResult.Value(f"PROBE_RESULT_{report.finding.name}")
    wait = report.retry_after_seconds
    return probe_pb2.ProbeKeyResponse(
        result=result,
        credit_checked=report.credit_checked,
        cost_nano_usd=report.cost_nano_usd,
        detail=report.detail,
        retry_after=None if wait is None else duration(wait),
        missing_permission=report.missing_permission,
    )


def explanation(value: Explanation) -> explain_pb2.ExplainResponse:
    """
    Write an explanation; a key that cannot serve now stands among the exclusions.
    """
    every = (*value.plan.own, *value.plan.shared)
    waits = [(turn.candidate, turn.wait_seconds) for turn in value.turns]
    if not value.turns:
        waits = [(c, _cooling(c, value.now)) for c in every if c.health.state not in _BARRED]
    tried = [candidate for candidate, _ in waits]
    response = explain_pb2.ExplainResponse(
        candidates=[_candidate(candidate, wait) for candidate, wait in waits],
        exclusions=[
            *(_unhealthy(c) for c in every if c.health.state in _UNHEALTHY and c not in tried),
            *(_exclusion(item) for item in value.exclusions),
        ],
        notes=value.plan.notes,
    )
    if value.grant is not None:
        response.payer = FUNDINGS[value.grant.funding]
        response.fallback = value.grant.fallback
        response.held_nano_credits = value.grant.held_nano_credits
    if value.refusal is not None:
        response.refusal.CopyFrom(STATUS_TABLE.to_status(value.refusal))
    return response


_BARRED = frozenset(_UNHEALTHY) - {HealthState.COOLING}


def _cooling(value: Candidate, now: float) -> float:
    return value.health.until - now if value.health.state is HealthState.COOLING else 0.0


def _candidate(value: Candidate, wait: float) -> explain_pb2.Candidate:
    own = value.funding is Funding.OWN_KEY
    return explain_pb2.Candidate(
        funding=FUNDINGS[value.funding],
        provider=value.offer.provider,
        model=value.offer.model,
        key=value.key.name if own else "",
        key_hint=value.key.hint if own else "",
        worst_case_nano_usd=value.worst_case_nano_usd,
        price=_price(value.offer.price),
        wait=duration(wait) if wait > 0 else None,
    )


def _unhealthy(value: Candidate) -> explain_pb2.Exclusion:
    reason, detail = _UNHEALTHY[value.health.state]
    own = value.funding is Funding.OWN_KEY
    return explain_pb2.Exclusion(
        funding=FUNDINGS[value.funding],
        provider=value.offer.provider,
        key=value.key.name if own else "",
        reason=reason,
        detail=detail,
    )


def _exclusion(value: Exclusion) -> explain_pb2.Exclusion:
    reason = explain_pb2.ExclusionReason.Value(f"EXCLUSION_REASON_{value.reason.name}")
    return explain_pb2.Exclusion(
        funding=FUNDINGS[value.funding],
        provider=value.provider,
        key=value.key,
        reason=reason,
        detail=value.detail,
    )


def _offer(value: Offer) -> catalogue_pb2.ModelOffer:
    return catalogue_pb2.ModelOffer(
        provider=value.provider, provider_model=value.provider_model, price=_price(value.price)
    )


def _price(value: Price | None) -> attempt_pb2.PriceUsed | None:
    if value is None:
        return None
    shown = value.for_image("", "") or value
    shown = shown.for_video("") or shown
    return price_message(PriceUsed(price_id=value.price_id, rates=shown.base))
