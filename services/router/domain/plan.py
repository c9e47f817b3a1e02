# SPDX-License-Identifier: Apache-2.0
"""
Which keys and providers may serve a request, and in which order.

Pure: request, keys, health, catalogue and time in, candidates and exclusions out. The rules:
1. Own keys come first, whatever the order says; the order chooses among providers within own keys,
   then within shared keys.
2. A key takes part if its owner enabled it, it is active or backups are in use, its list of models
   holds the model, and its provider offers it. Its health does not matter here: a matching key
   that cannot serve now decides about consent, so it stays, with its mark.
3. Credits need a price; an own key does not, unless the request limits the price.
4. A breaker that closes the way leaves a shared key out, but never the last one, and puts an own
   key last.
5. Everything left out is named with its reason.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from services.router.domain.catalogue import Capability, Offer
from services.router.domain.conditions import OPEN_GATE, UNMEASURED, Gate
from services.router.domain.keys import HealthMark, HealthState
from services.router.domain.ordering import (
    own_behind_breakers,
    preference_rank,
    shared_behind_breakers,
)
from services.router.domain.prices import worst_case_nano_usd
from services.router.domain.request import Source, Tier
from services.router.domain.speed import Speed
from services.router.domain.text import ImagePart, ImageURLPart, TextCall
from services.router.domain.token_bound import input_tokens_max
from services.shared.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from services.router.domain.catalogue import Catalogue, Provider
    from services.router.domain.conditions import Conditions
    from services.router.domain.keys import AccountKeys, OwnKey
    from services.router.domain.request import Preferences, TextRequest

    Unsupported = Callable[[str, TextCall], list[str]]
    """Names the fields of a call that a provider does not take."""

TUNING_FIELDS = frozenset({"temperature", "top_p", "stop", "seed", "reasoning_effort"})
"""Fields without which the answer still answers: dropped where the provider lacks them."""


class Funding(StrEnum):
    """
    Which side pays for an attempt.
    """

    OWN_KEY = "own_key"
    CREDITS = "credits"


class OwnKeyState(StrEnum):
    """
    Whether an own key serves, and if none does, why: what the ledger decides consent by.
    """

    READY = "ready"
    NONE_STORED = "none_stored"
    NONE_FOR_MODEL = "none_for_model"
    DISABLED = "disabled"
    COOLING = "cooling"
    REJECTED = "rejected"
    NO_CREDIT = "no_credit"
    PROVIDER_FAILED = "provider_failed"


class ExclusionReason(StrEnum):
    """
    Why a key or a provider takes no part.
    """

    DISABLED = "disabled"
    BACKUP_NOT_USED = "backup_not_used"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    MODEL_NOT_SERVED = "model_not_served"
    PREFERENCE = "preference"
    PRICE = "price"
    PARAMETER = "parameter"
    SOURCE = "source"
    UNPRICED = "unpriced"
    NO_SHARED_KEY = "no_shared_key"
    BREAKER_OPEN = "breaker_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """
    A key that may serve the request, and how.
    """

    funding: Funding
    key: OwnKey
    offer: Offer
    health: HealthMark
    call: TextCall
    """What would be sent, without the dropped fields."""
    dropped: tuple[str, ...]
    worst_case_nano_usd: int | None
    gate: Gate = OPEN_GATE
    speed: Speed = UNMEASURED
    trials: frozenset[str] = frozenset()
    """What trying it would find out; the request that claims them is the only one to."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """
    A key or provider that takes no part.
    """

    funding: Funding
    provider: str
    key: str
    """Own key's name; empty for the provider as a whole."""
    reason: ExclusionReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    What may serve a request, in order.
    """

    own: tuple[Candidate, ...]
    """Every matching own key, whatever its health."""
    shared: tuple[Candidate, ...]
    without_own_key: OwnKeyState
    """Why no own key matches, where `own` is empty."""
    always_use: bool
    """Whether a matching own key forbids credits as a fallback."""
    exclusions: tuple[Exclusion, ...]
    notes: tuple[str, ...]


def check_preferences(preferences: Preferences, catalogue: Catalogue) -> None:
    """
    Refuse preferences that name unknown providers or contradict each other.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    fields: tuple[tuple[str, Iterable[str]], ...] = (
        ("order", preferences.order),
        ("only", sorted(preferences.only)),
        ("ignore", sorted(preferences.ignore)),
    )
    for name, ids in fields:
        for provider in ids:
            if provider not in catalogue.providers:
                known = ", ".join(sorted(catalogue.providers))
                message = f"'{provider}' is not a provider here; the providers are {known}"
                raise InvalidArgumentError.of(f"route.{name}", message)
    both = sorted(preferences.only & preferences.ignore)
    if both:
        message = f"also names '{both[0]}', which route.only asks for; remove it from one of them"
        raise InvalidArgumentError.of("route.ignore", message)


def plan(
    request: TextRequest,
    *,
    keys: AccountKeys,
    shared: AccountKeys,
    catalogue: Catalogue,
    unsupported: Unsupported,
    conditions: Conditions,
    now: float,
    spread: int,
) -> Plan:
    """
    Lay out who may serve a request.

    Args:
        request: The caller's request.
        keys: The account's own keys.
        shared: The product's keys.
        catalogue: Providers, models, prices.
        unsupported: Names the fields of a call that a provider does not take.
        conditions: What this process has found out lately.
        now: Monotonic seconds, for health marks.
        spread: Any number; rotates the shared keys of a provider, so that load spreads.
    """
    builder = _Builder(request, catalogue, unsupported, conditions, now)
    own_model = request.model or _own_model(keys, catalogue)
    own, own_notes = own_behind_breakers(_own(builder, keys, own_model))
    shared_model = _shared_model(request, catalogue, own_model if own else "")
    credit_side, shared_notes = _shared(builder, shared, shared_model, spread)
    return Plan(
        own=own,
        shared=credit_side,
        without_own_key=_without_own_key(keys, builder.exclusions),
        always_use=any(candidate.key.always_use for candidate in own),
        exclusions=tuple(builder.exclusions),
        notes=(*_notes(request, own), *own_notes, *shared_notes),
    )


class _Builder:
    """
    Makes candidates and collects exclusions.
    """

    def __init__(
        self,
        request: TextRequest,
        catalogue: Catalogue,
        unsupported: Unsupported,
        conditions: Conditions,
        now: float,
    ) -> None:
        self.request = request
        self.catalogue = catalogue
        self.exclusions: list[Exclusion] = []
        self._unsupported = unsupported
        self._conditions = conditions
        self._now = now

    def exclude(
        self, funding: Funding, provider: str, key: str, reason: ExclusionReason, detail: str
    ) -> None:
        """
        Note what takes no part.
        """
        self.exclusions.append(Exclusion(funding, provider, key, reason, detail))

    def preferred(self, funding: Funding, provider: str, key: str) -> bool:
        """
        Tell whether the preferences let a provider take part.
        """
        preferences = self.request.preferences
        field = ""
        if preferences.only and provider not in preferences.only:
            field = "route.only leaves it out"
        elif provider in preferences.ignore:
            field = "route.ignore names it"
        if field:
            self.exclude(funding, provider, key, ExclusionReason.PREFERENCE, field)
        return not field

    def candidate(self, funding: Funding, key: OwnKey, offer: Offer) -> Candidate | None:
        """
        Give a candidate, or note why there is none.
        """
        name = key.name if funding is Funding.OWN_KEY else ""
        fault = self.fault(offer)
        if fault:
            self.exclude(funding, offer.provider, name, *fault)
            return None
        call = self._call(offer)
        lacking = self._unsupported(offer.provider, call)
        essential = [field for field in lacking if field not in TUNING_FIELDS]
        if lacking and (essential or self.request.preferences.require_parameters):
            fields = ", ".join(essential or lacking)
            detail = f"it does not take {fields} for {offer.model}"
            self.exclude(funding, offer.provider, name, ExclusionReason.PARAMETER, detail)
            return None
        health, gate = self._health(key, offer), self._conditions.gate(key, offer)
        probation = key.is_on_probation(offer.provider_model, now=self._now)
        trials = {gate.trial, key.name if probation else ""} - {""}
        return Candidate(
            funding=funding,
            key=key,
            offer=offer,
            health=health,
            call=_without(call, lacking),
            dropped=tuple(lacking),
            worst_case_nano_usd=self._worst_case(offer, call.max_output_tokens),
            gate=gate,
            speed=self._conditions.speed(offer),
            trials=frozenset(trials),
        )

    def _health(self, key: OwnKey, offer: Offer) -> HealthMark:
        """
        Give what stands in a key's way; while another request finds out about its credit, that.
        """
        probation = key.is_on_probation(offer.provider_model, now=self._now)
        if probation and self._conditions.on_trial(key.name):
            return HealthMark(HealthState.NO_CREDIT, "", self._now)
        return key.health_for(offer.provider_model, now=self._now)

    def fault(self, offer: Offer) -> tuple[ExclusionReason, str] | None:
        """
        Name what rules an offer out whatever the key; None where nothing does.
        """
        return self._price_fault(offer) or self._parameter_fault(offer)

    def _price_fault(self, offer: Offer) -> tuple[ExclusionReason, str] | None:
        preferences = self.request.preferences
        if not preferences.limits_price:
            return None
        if offer.price is None:
            return ExclusionReason.PRICE, f"route.max_price needs a price; {offer.model} has none"
        rates = offer.price.base
        for limit, rate, what in (
            (preferences.max_input_rate, rates.input, "input"),
            (preferences.max_output_rate, rates.output, "output"),
        ):
            if limit is not None and rate > limit:
                detail = f"costs {rate} nano-USD per million {what} tokens, more than max_price"
                return ExclusionReason.PRICE, detail
        return None

    def _parameter_fault(self, offer: Offer) -> tuple[ExclusionReason, str] | None:
        model = self.catalogue.models.get(offer.model)
        text_input = self.request.input
        if model is None:
            return None
        has_image = any(
            isinstance(part, ImagePart | ImageURLPart)
            for message in text_input.messages
            for part in message.parts
        )
        needs = (
            (has_image, Capability.VISION, "images"),
            (bool(text_input.tools), Capability.TOOLS, "tools"),
            (
                text_input.response_schema is not None,
                Capability.RESPONSE_SCHEMA,
                "a response schema",
            ),
        )
        for needed, capability, what in needs:
            if needed and capability not in model.capabilities:
                return ExclusionReason.PARAMETER, f"{offer.model} does not take {what}"
        return None

    def _call(self, offer: Offer) -> TextCall:
        text_input = self.request.input
        limit = text_input.max_output_tokens
        if limit is None:
            limit = self.catalogue.default_max_output_tokens(offer.model)
        return TextCall(
            model=offer.provider_model,
            messages=text_input.messages,
            max_output_tokens=limit,
            system=text_input.system,
            tools=text_input.tools,
            response_schema=text_input.response_schema,
            temperature=text_input.temperature,
            top_p=text_input.top_p,
            stop=text_input.stop,
            seed=text_input.seed,
            reasoning_effort=text_input.reasoning_effort,
            stream=self.request.stream,
        )

    def _worst_case(self, offer: Offer, output_tokens_max: int) -> int | None:
        if offer.price is None:
            return None
        image_tokens_max = self.catalogue.image_tokens_max(offer.model)
        bound = input_tokens_max(self.request.input, image_tokens_max=image_tokens_max)
        return worst_case_nano_usd(
            offer.price, input_tokens_max=bound, output_tokens_max=output_tokens_max
        )


def _own(builder: _Builder, keys: AccountKeys, model: str) -> tuple[Candidate, ...]:
    if builder.request.source is Source.CREDITS:
        for provider in sorted({key.provider for key in keys.keys}):
            builder.exclude(
                Funding.OWN_KEY, provider, "", ExclusionReason.SOURCE, "the source is CREDITS"
            )
        return ()
    found = []
    for key in keys.keys:
        offer = _own_offer(builder, key, keys, model)
        if offer is None or not builder.preferred(Funding.OWN_KEY, key.provider, key.name):
            continue
        candidate = builder.candidate(Funding.OWN_KEY, key, offer)
        if candidate is not None:
            found.append(candidate)
    rank = _own_rank(builder.request.preferences, keys)
    found.sort(key=rank)
    return _without_fallbacks(builder, Funding.OWN_KEY, found)


def _own_offer(builder: _Builder, key: OwnKey, keys: AccountKeys, model: str) -> Offer | None:
    offer = builder.catalogue.own_key_offer(key.provider, model)
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
        builder.exclude(Funding.OWN_KEY, key.provider, key.name, *fault)
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


def _shared(
    builder: _Builder, shared: AccountKeys, model: str, spread: int
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    offers = builder.catalogue.offers(model)
    if builder.request.source is Source.OWN_KEY:
        for offer in offers:
            builder.exclude(
                Funding.CREDITS, offer.provider, "", ExclusionReason.SOURCE, "the source is OWN_KEY"
            )
        return (), ()
    found = []
    for offer in offers:
        if not builder.preferred(Funding.CREDITS, offer.provider, ""):
            continue
        if offer.price is None:
            detail = f"credits need a price, and {offer.model} has none at {offer.provider}"
            builder.exclude(Funding.CREDITS, offer.provider, "", ExclusionReason.UNPRICED, detail)
            continue
        found += _shared_at(builder, shared, offer, spread)
    found.sort(key=lambda c: preference_rank(c, builder.request.preferences))
    allowed = _without_fallbacks(builder, Funding.CREDITS, found)
    kept, left_out, notes = shared_behind_breakers(allowed)
    for provider in dict.fromkeys(candidate.offer.provider for candidate in left_out):
        detail = "it has been failing lately, and another provider serves the model"
        builder.exclude(Funding.CREDITS, provider, "", ExclusionReason.BREAKER_OPEN, detail)
    return kept, notes


def _shared_at(
    builder: _Builder, shared: AccountKeys, offer: Offer, spread: int
) -> list[Candidate]:
    keys = [
        key
        for key in shared.keys
        if key.provider == offer.provider and key.enabled and key.may_serve(offer.model)
    ]
    fault = builder.fault(offer)
    if fault:
        builder.exclude(Funding.CREDITS, offer.provider, "", *fault)
        return []
    if not keys:
        detail = "the service holds no shared key for it"
        builder.exclude(Funding.CREDITS, offer.provider, "", ExclusionReason.NO_SHARED_KEY, detail)
        return []
    start = spread % len(keys)
    candidates = []
    for key in keys[start:] + keys[:start]:
        candidate = builder.candidate(Funding.CREDITS, key, offer)
        if candidate is None:
            break  # The fault is the offer's, the same for every key.
        candidates.append(candidate)
    return candidates


def _without_fallbacks(
    builder: _Builder, funding: Funding, candidates: list[Candidate]
) -> tuple[Candidate, ...]:
    preferences = builder.request.preferences
    if preferences.allow_fallbacks or not candidates:
        return tuple(candidates)
    allowed = set(preferences.order) or {candidates[0].offer.provider}
    for candidate in candidates:
        if candidate.offer.provider not in allowed:
            name = candidate.key.name if funding is Funding.OWN_KEY else ""
            detail = "route.allow_fallbacks is false"
            reason = ExclusionReason.PREFERENCE
            builder.exclude(funding, candidate.offer.provider, name, reason, detail)
    return tuple(c for c in candidates if c.offer.provider in allowed)


def _own_model(keys: AccountKeys, catalogue: Catalogue) -> str:
    """
    Give the model of requests that name none: the active provider's, by its active key.
    """
    enabled = [key for key in keys.keys if key.enabled and (key.active or keys.use_backups)]
    enabled.sort(key=lambda k: (k.provider != keys.active_provider, not k.active, k.order))
    if not enabled:
        return ""
    provider: Provider | None = catalogue.providers.get(enabled[0].provider)
    return enabled[0].default_model or (provider.default_model if provider else "")


def _shared_model(request: TextRequest, catalogue: Catalogue, own_model: str) -> str:
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


def _without_own_key(keys: AccountKeys, exclusions: list[Exclusion]) -> OwnKeyState:
    if not keys.keys:
        return OwnKeyState.NONE_STORED
    reasons = {e.reason for e in exclusions if e.funding is Funding.OWN_KEY}
    switched_off = {ExclusionReason.DISABLED, ExclusionReason.BACKUP_NOT_USED}
    if reasons <= switched_off and ExclusionReason.DISABLED in reasons:
        return OwnKeyState.DISABLED
    return OwnKeyState.NONE_FOR_MODEL


def _notes(request: TextRequest, own: tuple[Candidate, ...]) -> tuple[str, ...]:
    notes = []
    if request.tier is not Tier.DEFAULT and request.model:
        notes.append("tier had no effect: the request names a model")
    elif request.tier is not Tier.DEFAULT and own:
        notes.append(
            "tier chooses the model on credits only: it has no effect where an own key serves"
        )
    return tuple(notes)


_CLEARED: dict[str, object] = {
    "temperature": None,
    "top_p": None,
    "stop": (),
    "seed": None,
    "reasoning_effort": None,
}


def _without(call: TextCall, fields: list[str]) -> TextCall:
    return dataclasses.replace(call, **{name: _CLEARED[name] for name in fields})  # type: ignore[arg-type]
