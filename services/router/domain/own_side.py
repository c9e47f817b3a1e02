# SPDX-License-Identifier: Apache-2.0
"""
Which of an account's own keys may serve a request, and in which order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.catalogue import Capability
from services.router.domain.ordering import own_behind_breakers, preference_rank
from services.router.domain.plan import Candidate, ExclusionReason, Funding, OwnKeyState
from services.router.domain.request import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.router.domain.catalogue import Catalogue, Offer, Provider
    from services.router.domain.fitting import Fitting
    from services.router.domain.keys import AccountKeys, OwnKey
    from services.router.domain.plan import Exclusion
    from services.router.domain.request import Preferences


def own_candidates(
    fitting: Fitting, keys: AccountKeys, model: str
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """
    Give the own keys that match, whatever their health, in order, and notes about that order.
    """
    if fitting.request.source is Source.CREDITS:
        for provider in sorted({key.provider for key in keys.keys}):
            fitting.exclude(
                Funding.OWN_KEY, provider, "", ExclusionReason.SOURCE, "the source is CREDITS"
            )
        return (), ()
    found = []
    for key in keys.keys:
        offer = _own_offer(fitting, key, keys, model)
        if offer is None or not fitting.preferred(Funding.OWN_KEY, key.provider, key.name):
            continue
        priced = fitting.request.input.priced(offer)
        candidate = fitting.candidate(Funding.OWN_KEY, key, priced)
        if candidate is not None:
            found.append(candidate)
    rank = _own_rank(fitting.request.preferences, keys)
    found.sort(key=rank)
    return own_behind_breakers(fitting.without_fallbacks(Funding.OWN_KEY, found))


def _own_offer(fitting: Fitting, key: OwnKey, keys: AccountKeys, model: str) -> Offer | None:
    offer = fitting.catalogue.own_key_offer(key.provider, model)
    fault: tuple[ExclusionReason, str] | None = None
    if not key.enabled:
        fault = ExclusionReason.DISABLED, "its owner disabled it"
    elif not key.active and not keys.use_backups:
        fault = ExclusionReason.BACKUP_NOT_USED, "the account does not use backup keys"
    elif key.allowed_models and model not in key.allowed_models:
        fault = ExclusionReason.MODEL_NOT_ALLOWED, f"its list of models leaves {model} out"
    elif offer is None:
        fault = ExclusionReason.MODEL_NOT_SERVED, f"{key.provider} does not serve {model}"
    elif not key.may_serve(model):
        fault = ExclusionReason.MODEL_NOT_SERVED, f"it has no deployment of {model}"
    if fault is not None:
        fitting.exclude(Funding.OWN_KEY, key.provider, key.name, *fault)
        return None
    return offer


def _own_rank(
    preferences: Preferences, keys: AccountKeys
) -> Callable[[Candidate], tuple[object, ...]]:
    first_place: dict[str, int] = {}
    for place, key in enumerate(keys.keys):
        first_place.setdefault(key.provider, place)

    def rank(candidate: Candidate) -> tuple[object, ...]:
        provider = candidate.offer.provider
        among_providers = (
            *preference_rank(candidate, preferences),
            provider != keys.active_provider,
            first_place[provider],
        )
        return (*among_providers, not candidate.key.active, candidate.key.order)

    return rank


def own_model(keys: AccountKeys, catalogue: Catalogue) -> str:
    """
    Give the model of requests for text that name none: the active provider's, by its active key.
    """
    enabled = [key for key in keys.keys if key.enabled and (key.active or keys.use_backups)]
    enabled.sort(key=lambda k: (k.provider != keys.active_provider, not k.active, k.order))
    for key in enabled:
        provider: Provider | None = catalogue.providers.get(key.provider)
        name = key.default_model or (provider.default_model if provider else "")
        known = catalogue.models.get(name)
        # A key of a provider that only makes images has no word in what writes text.
        if known is None or Capability.TEXT in known.capabilities:
            return name
    return ""


def without_own_key(keys: AccountKeys, exclusions: list[Exclusion]) -> OwnKeyState:
    """
    Say why no own key matches.
    """
    if not keys.keys:
        return OwnKeyState.NONE_STORED
    reasons = {e.reason for e in exclusions if e.funding is Funding.OWN_KEY}
    switched_off = {ExclusionReason.DISABLED, ExclusionReason.BACKUP_NOT_USED}
    if reasons <= switched_off and ExclusionReason.DISABLED in reasons:
        return OwnKeyState.DISABLED
    return OwnKeyState.NONE_FOR_MODEL
