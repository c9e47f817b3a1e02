# SPDX-License-Identifier: Apache-2.0
"""
Fees on own-key use.

Rules:
1. A fee is a share of what an attempt is worth, worked out as one exact fraction from the vendor
   cost and rounded once, at the end, to the nearest nano-credit, halves to the even neighbour; then
   the model's cap is applied. The credit price behind it is not rounded on the way.
2. Only a delivered attempt owes one. The first requests of a UTC calendar month that an own key
   served are free, by the plan's allowance.
3. The terms are pinned when an attempt is authorized, and so is whether it is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from services.ledger.domain.money import (
    COST_NANO_USD_MAX,
    CREDITS_MAX,
    NANO,
    PARTS_PER_MILLION,
    PriceTerms,
    divide_half_even,
)
from services.ledger.domain.words import Word

FREE_REQUESTS_MAX = 10**12
"""Most free requests of a month."""


class FeeBasis(Word):
    """What the rate is taken of."""

    CREDIT_PRICE = "CREDIT_PRICE"
    VENDOR_COST = "VENDOR_COST"


class FeeSource(Word):
    """Where a fee is taken from."""

    CREDITS = "CREDITS"
    INVOICE = "INVOICE"


class FeeTerms(NamedTuple):
    """
    How one attempt's fee is worked out.

    Args:
        basis: What the rate is taken of.
        rate_parts_per_million: 50,000 is 5 %.
        source: Where it is taken from.
        cap_nano_credits: Largest fee; None for no cap.
    """

    basis: FeeBasis
    rate_parts_per_million: int
    source: FeeSource
    cap_nano_credits: int | None

    def needs_cost(self, price: PriceTerms) -> bool:
        """Return whether the fee depends on the vendor cost."""
        return self.basis is FeeBasis.VENDOR_COST or price.fixed_nano_credits is None

    def fee(self, cost_nano_usd: int, price: PriceTerms) -> int:
        """
        Return the fee of a delivered attempt, nano-credits.

        Args:
            cost_nano_usd: Vendor cost, 0 to COST_NANO_USD_MAX.
            price: The plan's price of the same usage.
        """
        numerator, denominator = cost_nano_usd * NANO, price.credit_value_nano_usd
        if self.basis is FeeBasis.CREDIT_PRICE:
            numerator, denominator = price.exact(cost_nano_usd)
        fee = divide_half_even(
            numerator * self.rate_parts_per_million, denominator * PARTS_PER_MILLION
        )
        return fee if self.cap_nano_credits is None else min(fee, self.cap_nano_credits)


@dataclass(frozen=True, slots=True)
class Fee:
    """
    A plan's fee on own-key use.

    Args:
        basis: What the rate is taken of.
        rate_parts_per_million: 1 to 1,000,000.
        source: Where it is taken from.
        free_request_count: Requests served by an own key that are free in each UTC month.
        cap_nano_credits: Largest fee of an attempt, by `vendor/model`.
    """

    basis: FeeBasis
    rate_parts_per_million: int
    source: FeeSource
    free_request_count: int
    cap_nano_credits: Mapping[str, int]

    def terms(self, model: str) -> FeeTerms:
        """Return the terms for a model."""
        return FeeTerms(
            self.basis, self.rate_parts_per_million, self.source, self.cap_nano_credits.get(model)
        )

    def problems(self, credit_value_nano_usd: int) -> list[str]:
        """
        Return every contradiction in it, one sentence each.

        Args:
            credit_value_nano_usd: What the plan's credit is worth, more than zero.
        """
        found = []
        if not 1 <= self.rate_parts_per_million <= PARTS_PER_MILLION:
            found.append(
                f"fee.rate_parts_per_million must be 1 to {PARTS_PER_MILLION}; leave the fee out "
                "for none"
            )
        if not 0 <= self.free_request_count <= FREE_REQUESTS_MAX:
            found.append(f"fee.free_request_count must be 0 to {FREE_REQUESTS_MAX}")
        found += [
            f"the fee cap of {model} must be 0 to {CREDITS_MAX} nano-credits"
            for model, cap in self.cap_nano_credits.items()
            if not 0 <= cap <= CREDITS_MAX
        ]
        dearest = FeeTerms(self.basis, self.rate_parts_per_million, self.source, None)
        at_cost = PriceTerms(credit_value_nano_usd, PARTS_PER_MILLION, None)
        if not found and dearest.fee(COST_NANO_USD_MAX, at_cost) > CREDITS_MAX:
            found.append(
                f"the fee on the dearest attempt ({COST_NANO_USD_MAX} nano-USD) would pass "
                f"{CREDITS_MAX} nano-credits: credit_value_nano_usd is too small"
            )
        return found
