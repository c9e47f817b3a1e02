# SPDX-License-Identifier: Apache-2.0
"""
What a workload would cost, side by side: each model on an own key, and credits by a plan.

Every generation is priced and rounded by itself, as it would be charged, then multiplied.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.router.domain.catalogue import Capability
from services.router.domain.media_work import CHARACTERS_PER_ROW
from services.router.domain.operation import Operation
from services.router.domain.plan import Funding
from services.router.domain.prices import cost_nano_usd, divide_half_even
from services.router.domain.text import Usage
from services.router.domain.token_bound import tokens_estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.router.domain.catalogue import Model, Offer
    from services.router.domain.prices import Price

NANO = 1_000_000_000
PARTS_PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """
    So many generations of one size.
    """

    generations: int
    input_tokens: int
    output_tokens: int
    images: int = 0
    """Images of each."""
    image_size: str = ""
    """Empty for each model's default."""
    image_quality: str = ""
    """Empty for each model's default."""
    characters: int = 0
    """Characters spoken in each."""
    video_seconds: int = 0
    """Seconds of video of each."""
    video_resolution: str = ""
    """Empty for each model's default."""

    @property
    def operation(self) -> Operation:
        """
        Name the kind of work.
        """
        if self.video_seconds:
            return Operation.JOB
        if self.images:
            return Operation.IMAGE
        return Operation.SPEECH if self.characters else Operation.TEXT

    def suits(self, model: Model) -> bool:
        """
        Tell whether a model makes such things.
        """
        capability = _CAPABILITIES[self.operation]
        if capability not in model.capabilities:
            return False
        if self.video_seconds and model.job is not None:
            return not model.job.lengths or self.video_seconds in model.job.lengths
        traits = model.image
        if traits is None or not self.images:
            return True
        return (
            (not self.image_size or self.image_size in traits.sizes)
            and (not self.image_quality or self.image_quality in traits.qualities)
            and self.images <= traits.count_max
        )

    def usage(self, model: Model) -> Usage:
        """
        Give what one generation uses on a model: media count as they do as a rule.
        """
        input_tokens, made = self.input_tokens, 0
        if self.images and model.image is not None:
            made = self.images * model.image.output_tokens_for(self.image_size, self.image_quality)
        if self.characters and model.speech is not None:
            input_tokens += tokens_estimate(self.characters)
            made = -(-self.characters * model.speech.output_tokens // CHARACTERS_PER_ROW)
        return Usage(
            input_tokens=input_tokens,
            output_tokens=self.output_tokens + made,
            image_output_tokens=made if self.images else 0,
            images=self.images,
            characters=self.characters,
            media_milliseconds=self.video_seconds * 1000,
        )

    def price(self, offer: Offer) -> Price | None:
        """
        Give the price of such things in an offer; None where the list leaves them out.
        """
        if offer.price is not None and self.video_seconds:
            return offer.price.for_video(self.video_resolution)
        if offer.price is None or not self.images:
            return offer.price
        return offer.price.for_image(self.image_size, self.image_quality)


_CAPABILITIES = {
    Operation.TEXT: Capability.TEXT,
    Operation.IMAGE: Capability.IMAGE,
    Operation.SPEECH: Capability.SPEECH,
    Operation.JOB: Capability.VIDEO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditTariff:
    """
    How a plan turns a vendor cost into credits.
    """

    credit_value_nano_usd: int
    """What one credit is worth; more than zero."""
    markup_parts_per_million: int
    """1,000,000 charges the vendor cost itself."""
    fixed_nano_credits: Mapping[Operation, int] = field(default_factory=dict)
    """Prices of one generation by kind, whatever the vendor charges; they win over the markup."""
    model_nano_credits: Mapping[str, int] = field(default_factory=dict)
    """Prices of one generation by model; they win over both."""

    def credit_price(self, model: str, vendor_cost_nano_usd: int) -> int:
        """
        Give the price of one generation by its model, else by its vendor cost, nano-credits.
        """
        if model in self.model_nano_credits:
            return self.model_nano_credits[model]
        return divide_half_even(
            vendor_cost_nano_usd * self.markup_parts_per_million * NANO,
            PARTS_PER_MILLION * self.credit_value_nano_usd,
        )

    def worth_nano_usd(self, nano_credits: int) -> int:
        """
        Give what credits are worth.
        """
        return divide_half_even(nano_credits * self.credit_value_nano_usd, NANO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """
    The workload on one offer, or on credits at a fixed price.
    """

    funding: Funding
    provider: str = ""
    """Empty for credits at a fixed price."""
    model: str = ""
    """Empty for credits at a fixed price."""
    cost_nano_usd: int
    cost_nano_credits: int | None = None
    """None on an own key."""
    price: Price | None = None


def estimate(
    workload: Workload,
    models: Iterable[Model],
    *,
    tariff: CreditTariff | None,
    on_credits: frozenset[str],
) -> tuple[Estimate, ...]:
    """
    Compare a workload over models, cheapest first; an offer without a price is left out, and so is
    a model that does other work.

    Args:
        workload: What would be generated.
        models: What would serve it.
        tariff: The plan's terms for credits; None to compare own keys only.
        on_credits: Providers that credits can pay.
    """
    rows = []
    fixed = tariff.fixed_nano_credits.get(workload.operation) if tariff is not None else None
    if tariff is not None and fixed is not None and on_credits:
        rows.append(_fixed(workload, tariff, fixed))
    suiting = [model for model in models if workload.suits(model)]
    for model, offer in [(each, offer) for each in suiting for offer in each.offers]:
        price = workload.price(offer)
        if price is None:
            continue
        cost = cost_nano_usd(price, workload.usage(model))
        rows.append(
            Estimate(
                funding=Funding.OWN_KEY,
                provider=offer.provider,
                model=offer.model,
                cost_nano_usd=workload.generations * cost,
                price=price,
            )
        )
        if tariff is None or offer.provider not in on_credits:
            continue
        if fixed is None or offer.model in tariff.model_nano_credits:
            rows.append(_by_offer(workload, dataclasses.replace(offer, price=price), tariff, cost))
    rows.sort(key=lambda row: (row.cost_nano_usd, row.model, row.provider, row.funding))
    return tuple(rows)


def _fixed(workload: Workload, tariff: CreditTariff, each: int) -> Estimate:
    nano_credits = workload.generations * each
    return Estimate(
        funding=Funding.CREDITS,
        cost_nano_usd=tariff.worth_nano_usd(nano_credits),
        cost_nano_credits=nano_credits,
    )


def _by_offer(workload: Workload, offer: Offer, tariff: CreditTariff, each: int) -> Estimate:
    nano_credits = workload.generations * tariff.credit_price(offer.model, each)
    return Estimate(
        funding=Funding.CREDITS,
        provider=offer.provider,
        model=offer.model,
        cost_nano_usd=tariff.worth_nano_usd(nano_credits),
        cost_nano_credits=nano_credits,
        price=offer.price,
    )
