# SPDX-License-Identifier: Apache-2.0
"""
Which of the product's shared keys may serve a request on credits, and in which order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.ordering import preference_rank, shared_behind_breakers
from services.router.domain.plan import Candidate, ExclusionReason, Funding
from services.router.domain.request import Source, Tier

if TYPE_CHECKING:
    from services.router.domain.catalogue import Catalogue, Offer
    from services.router.domain.fitting import Fitting
    from services.router.domain.keys import AccountKeys
    from services.router.domain.request import Request


def shared_candidates(
    fitting: Fitting, shared: AccountKeys, model: str, spread: int
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """
    Give the shared keys that may serve a model, in order, and notes about that order.

    Args:
        fitting: Fits offers to the request.
        shared: The product's keys.
        model: What credits serve.
        spread: Any number; rotates the shared keys of a provider, so that load spreads.
    """
    offers = [fitting.request.input.priced(offer) for offer in fitting.catalogue.offers(model)]
    if fitting.request.source is Source.OWN_KEY:
        for offer in offers:
            fitting.exclude(
                Funding.CREDITS, offer.provider, "", ExclusionReason.SOURCE, "the source is OWN_KEY"
            )
        return (), ()
    found = []
    for offer in offers:
        if not fitting.preferred(Funding.CREDITS, offer.provider, ""):
            continue
        if offer.price is None:
            detail = f"credits need a price, and {offer.model} has none at {offer.provider}"
            fitting.exclude(Funding.CREDITS, offer.provider, "", ExclusionReason.UNPRICED, detail)
            continue
        found += _candidates_at(fitting, shared, offer, spread)
    found.sort(key=lambda c: preference_rank(c, fitting.request.preferences))
    allowed = fitting.without_fallbacks(Funding.CREDITS, found)
    kept, left_out, notes = shared_behind_breakers(allowed)
    for provider in dict.fromkeys(candidate.offer.provider for candidate in left_out):
        detail = "it has been failing lately, and another provider serves the model"
        fitting.exclude(Funding.CREDITS, provider, "", ExclusionReason.BREAKER_OPEN, detail)
    return kept, notes


def _candidates_at(
    fitting: Fitting, shared: AccountKeys, offer: Offer, spread: int
) -> list[Candidate]:
    matching = [
        key
        for key in shared.keys
        if key.provider == offer.provider and key.enabled and key.may_serve(offer.model)
    ]
    keys = [key for key in matching if not key.is_unopened]
    fault = fitting.fault(offer)
    if fault:
        fitting.exclude(Funding.CREDITS, offer.provider, "", *fault, offer=offer)
        return []
    if shared.unavailable or len(keys) < len(matching):
        detail = "keyvault cannot open the service's keys for it now"
        reason = ExclusionReason.KEY_UNAVAILABLE
        fitting.exclude(Funding.CREDITS, offer.provider, "", reason, detail)
    elif not keys:
        detail = "the service holds no shared key for it"
        fitting.exclude(Funding.CREDITS, offer.provider, "", ExclusionReason.NO_SHARED_KEY, detail)
    if not keys:
        return []
    start = spread % len(keys)
    candidates = []
    for key in keys[start:] + keys[:start]:
        candidate = fitting.candidate(Funding.CREDITS, key, offer)
        if candidate is None:
            break  # The fault is the offer's, the same for every key.
        candidates.append(candidate)
    return candidates


def shared_model(request: Request, catalogue: Catalogue, own_model: str) -> str:
    """
    Give the model that credits serve: the one asked for, the tier's, the own key's, the default.
    """
    if request.model:
        return request.model
    if request.tier is not Tier.DEFAULT:
        by_tier = {Tier.QUALITY: catalogue.credits.quality, Tier.SPEED: catalogue.credits.speed}
        return by_tier[request.tier]
    if any(offer.price is not None for offer in catalogue.offers(own_model)):
        return own_model
    return catalogue.credits.default
