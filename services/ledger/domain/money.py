# SPDX-License-Identifier: Apache-2.0
"""
Amounts, and the one rounding of each.

Rules:
1. Amounts are integers: nano-credits (1e-9 credit) and nano-USD (1e-9 US dollar).
2. A credit price is worked out as an exact fraction and rounded once, at the end, to the nearest
   nano-credit, halves to the even neighbour (IEEE 754 roundTiesToEven).
3. What cannot be stored cannot be made: every amount that enters is held to the limits below.
"""

from __future__ import annotations

from typing import NamedTuple

NANO = 1_000_000_000
PARTS_PER_MILLION = 1_000_000

CREDITS_MAX = 10**18
"""Most nano-credits of a grant or adjustment, and most an account owns: a billion credits."""

COST_NANO_USD_MAX = 10**13
"""Highest vendor cost of one attempt: ten thousand dollars. More is a malformed amount."""

LIMIT_NANO_USD_MAX = 10**18
"""Highest monthly spending limit of a key: a billion dollars."""


def divide_half_even(numerator: int, denominator: int) -> int:
    """
    Divide, rounding to the nearest integer and halves to the even one.

    Args:
        numerator: Zero or more.
        denominator: More than zero.
    """
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient % 2 == 1):
        return quotient + 1
    return quotient


class PriceTerms(NamedTuple):
    """
    How a vendor cost becomes a credit price, pinned when an attempt is authorized.

    Args:
        credit_value_nano_usd: What one credit is worth; more than zero.
        markup_parts_per_million: 1,000,000 charges the vendor cost itself; zero or more.
        fixed_nano_credits: Price of a delivered attempt whatever it cost the house; None for a
            price by cost.
    """

    credit_value_nano_usd: int
    markup_parts_per_million: int
    fixed_nano_credits: int | None

    def credit_price(self, cost_nano_usd: int) -> int:
        """
        Return the price of a delivered attempt, nano-credits.

        Args:
            cost_nano_usd: Vendor cost, 0 to COST_NANO_USD_MAX.
        """
        return divide_half_even(*self.exact(cost_nano_usd))

    def exact(self, cost_nano_usd: int) -> tuple[int, int]:
        """Return the price before rounding: numerator and denominator, nano-credits."""
        if self.fixed_nano_credits is not None:
            return self.fixed_nano_credits, 1
        return (
            cost_nano_usd * self.markup_parts_per_million * NANO,
            PARTS_PER_MILLION * self.credit_value_nano_usd,
        )
