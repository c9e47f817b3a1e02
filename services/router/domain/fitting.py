# SPDX-License-Identifier: Apache-2.0
"""
Fits one key's offer of a model to a request: a candidate, or an exclusion with its reason.

The same for own and for shared keys: what the preferences, the price limit, the model's
capabilities and the provider's parameters allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.keys import HealthMark, HealthState
from services.router.domain.limits import input_excess, output_excess
from services.router.domain.plan import Candidate, Exclusion, ExclusionReason, Funding
from services.router.domain.text import (
    EARLIER_REASONING,
    LENIENT_SCHEMA,
    REASONING_SIGNATURE,
    TOOL_CALL_SIGNATURE,
    TOOL_RESULT_FAILED,
)

if TYPE_CHECKING:
    from services.router.domain.catalogue import Catalogue, Offer
    from services.router.domain.conditions import Conditions
    from services.router.domain.keys import OwnKey
    from services.router.domain.request import Request
    from services.router.domain.work import Unsupported

_FIELDS = {
    ExclusionReason.PRICE: "route.max_price",
    ExclusionReason.PARAMETER: "model",
    ExclusionReason.SOURCE: "source",
}
"""The request's field behind a reason, unless said otherwise."""
TUNING_FIELDS = frozenset(
    {
        *("temperature", "top_p", "top_k", "stop", "seed", "reasoning_effort"),
        *(TOOL_RESULT_FAILED, TOOL_CALL_SIGNATURE, EARLIER_REASONING, REASONING_SIGNATURE),
        LENIENT_SCHEMA,
    }
)
"""Fields without which the answer still answers: dropped where the provider lacks them, with a
note; a request that requires its parameters passes such a provider by."""


class Fitting:
    """
    Makes candidates and collects exclusions.

    Args:
        request: The caller's request.
        catalogue: Providers, models, prices.
        unsupported: Names the fields of a call that a provider does not take.
        conditions: What this process has found out lately.
        now: Monotonic seconds, for health marks.
    """

    def __init__(
        self,
        request: Request,
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
        self._needs = request.input.needs()

    def exclude(
        self,
        funding: Funding,
        provider: str,
        key: str,
        reason: ExclusionReason,
        detail: str,
        *,
        offer: Offer | None = None,
        field: str = "",
    ) -> None:
        """
        Note what takes no part.
        """
        field = field or _FIELDS.get(reason, "")
        self.exclusions.append(Exclusion(funding, provider, key, reason, detail, offer, field))

    def preferred(self, funding: Funding, provider: str, key: str) -> bool:
        """
        Tell whether the preferences let a provider take part.
        """
        preferences = self.request.preferences
        field, verb = "", ""
        if preferences.only and provider not in preferences.only:
            field, verb = "route.only", "leaves it out"
        elif provider in preferences.ignore:
            field, verb = "route.ignore", "names it"
        if field:
            reason, detail = ExclusionReason.PREFERENCE, f"{field} {verb}"
            self.exclude(funding, provider, key, reason, detail, field=field)
        return not field

    def candidate(self, funding: Funding, key: OwnKey, offer: Offer) -> Candidate | None:
        """
        Give a candidate, or note why there is none.
        """
        name = key.name if funding is Funding.OWN_KEY else ""
        offer = offer.in_region(key.region)
        fault = self.fault(offer)
        if fault:
            self.exclude(funding, offer.provider, name, *fault, offer=offer)
            return None
        request = self.request
        call = request.input.call(offer, self.catalogue, stream=request.stream)
        lacking = self._unsupported(offer.provider, call)
        essential = [field for field in lacking if field not in TUNING_FIELDS]
        if lacking and (essential or request.preferences.require_parameters):
            fields = ", ".join(essential or lacking)
            detail = f"it does not take {fields} for {offer.model}"
            self.exclude(
                funding,
                offer.provider,
                name,
                ExclusionReason.PARAMETER,
                detail,
                field="input" if essential else "route.require_parameters",
            )
            return None
        health, gate = self._health(key, offer), self._conditions.gate(key, offer)
        probation = key.is_on_probation(offer.provider_model, now=self._now)
        trials = {gate.trial, key.name if probation else ""} - {""}
        return Candidate(
            funding=funding,
            key=key,
            offer=offer,
            health=health,
            call=call.without(lacking),
            dropped=tuple(lacking),
            worst_case_nano_usd=request.input.worst_case_nano_usd(offer, self.catalogue),
            gate=gate,
            speed=self._conditions.speed(offer),
            trials=frozenset(trials),
        )

    def _health(self, key: OwnKey, offer: Offer) -> HealthMark:
        """
        Give what stands in a key's way; while another request finds out about its credit, that.
        """
        if key.client_held and self.request.brings(key) is None:
            return HealthMark(HealthState.NOT_BROUGHT)
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
        if unit := offer.price.unit:
            detail = (
                f"is priced by the {unit}, and max_price limits tokens only; leave max_price out"
            )
            return ExclusionReason.PRICE, detail
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
        if model is None:
            return None
        for capability, what in self._needs:
            if capability not in model.capabilities:
                return ExclusionReason.PARAMETER, f"{offer.model} does not take {what}"
        if excess := input_excess(self.request.input, model):
            return ExclusionReason.PARAMETER, f"the input {excess}"
        if excess := output_excess(self.request.input, model):
            return ExclusionReason.PARAMETER, f"max_output_tokens {excess}"
        return None

    def without_fallbacks(
        self, funding: Funding, candidates: list[Candidate]
    ) -> tuple[Candidate, ...]:
        """
        Keep only the providers of the order, or the first, where fallbacks are not allowed.
        """
        preferences = self.request.preferences
        if preferences.allow_fallbacks or not candidates:
            return tuple(candidates)
        allowed = set(preferences.order) or {candidates[0].offer.provider}
        for candidate in candidates:
            if candidate.offer.provider not in allowed:
                name = candidate.key.name if funding is Funding.OWN_KEY else ""
                field, reason = "route.allow_fallbacks", ExclusionReason.PREFERENCE
                detail = f"{field} is false"
                self.exclude(funding, candidate.offer.provider, name, reason, detail, field=field)
        return tuple(c for c in candidates if c.offer.provider in allowed)
