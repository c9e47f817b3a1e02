# SPDX-License-Identifier: Apache-2.0
"""
What a workload would cost, side by side: each model on an own key, and credits by a plan.

Every generation is priced and rounded by itself, as it would be charged, then multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain.plan import Funding
from services.router.domain.prices import cost_nano_usd, divide_half_even
from services.router.domain.text import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.router.domain.catalogue import Offer
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditTariff:
    """
    How a plan turns a vendor cost into credits.
    """

    credit_value_nano_usd: int
    """What one credit is worth; more than zero."""
    markup_parts_per_million: int
    """1,000,000 charges the vendor cost itself."""
    fixed_text_nano_credits: int | None = None
    """Price of one generation whatever the vendor charges; it wins over the markup."""

    def credit_price(self, vendor_cost_nano_usd: int) -> int:
        """
        Give the price of one generation by its vendor cost, nano-credits.
        """
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
    offers: Iterable[Offer],
    *,
    tariff: CreditTariff | None,
    on_credits: frozenset[str],
) -> tuple[Estimate, ...]:
    """
    Compare a workload over offers, cheapest first; an offer without a price is left out.

    Args:
        workload: What would be generated.
        offers: Who would serve it.
        tariff: The plan's terms for credits; None to compare own keys only.
        on_credits: Providers that credits can pay.
    """
    rows = []
    if tariff is not None and tariff.fixed_text_nano_credits is not None and on_credits:
        rows.append(_fixed(workload, tariff, tariff.fixed_text_nano_credits))
    usage = Usage(input_tokens=workload.input_tokens, output_tokens=workload.output_tokens)
    for offer in offers:
        if offer.price is None:
            continue
        each = cost_nano_usd(offer.price, usage)
        rows.append(
            Estimate(
                funding=Funding.OWN_KEY,
                provider=offer.provider,
                model=offer.model,
                cost_nano_usd=workload.generations * each,
                price=offer.price,
            )
        )
        by_cost = tariff is not None and tariff.fixed_text_nano_credits is None
        if tariff is not None and by_cost and offer.provider in on_credits:
            rows.append(_by_cost(workload, offer, tariff, each))
    rows.sort(key=lambda row: (row.cost_nano_usd, row.model, row.provider, row.funding))
    return tuple(rows)


def _fixed(workload: Workload, tariff: CreditTariff, each: int) -> Estimate:
    nano_credits = workload.generations * each
    return Estimate(
        funding=Funding.CREDITS,
        cost_nano_usd=tariff.worth_nano_usd(nano_credits),
        cost_nano_credits=nano_credits,
    )


def _by_cost(workload: Workload, offer: Offer, tariff: CreditTariff, each: int) -> Estimate:
    nano_credits = workload.generations * tariff.credit_price(each)
    return Estimate(
        funding=Funding.CREDITS,
        provider=offer.provider,
        model=offer.model,
        cost_nano_usd=tariff.worth_nano_usd(nano_credits),
        cost_nano_credits=nano_credits,
        price=offer.price,
    )
