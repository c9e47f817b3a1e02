# SPDX-License-Identifier: Apache-2.0
"""
What tokens cost: exact integers, one rounding for each amount.

A rate is nano-USD per million tokens. A cost is the sum of tokens times rates, divided once by a
million and rounded half to even; a worst case is rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.router.domain.text import Usage

TOKENS_PER_RATE = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """
    Nano-USD per million tokens.
    """

    input: int
    cached_input: int
    cache_write: int
    output: int


@dataclass(frozen=True, slots=True)
class RateTier:
    """
    Rates of a call whose whole input is longer than `above_input_tokens`; they hold for all of it.
    """

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Price:
    """
    The price of one model at one provider.
    """

    price_id: str
    """Identifies the row: provider, model, source and its version; at most 128 characters."""
    base: Rates
    tiers: tuple[RateTier, ...] = ()
    """Ascending by threshold."""

    def rates_for(self, input_tokens: int) -> Rates:
        """
        Give the rates of a call by the length of its input.
        """
        rates = self.base
        for tier in self.tiers:
            if input_tokens > tier.above_input_tokens:
                rates = tier.rates
        return rates


def cost_nano_usd(price: Price, usage: Usage) -> int:
    """
    Give the exact vendor cost of a usage, rounded half to even.
    """
    rates = price.rates_for(usage.input_tokens)
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    # A provider that counts parts beyond their total must not make the cost negative.
    amount = (
        max(0, plain) * rates.input
        + usage.cached_input_tokens * rates.cached_input
        + usage.cache_write_tokens * rates.cache_write
        + usage.output_tokens * rates.output
    )
    return divide_half_even(amount, TOKENS_PER_RATE)


def worst_case_nano_usd(price: Price, *, input_tokens_max: int, output_tokens_max: int) -> int:
    """
    Give an upper bound of the vendor cost of a call, rounded up.

    Every rate that could apply up to the bound takes part: a shorter input in a lower tier may
    carry the dearer rate, and a provider may write its cache unasked.
    """
    reachable = [price.base]
    reachable += [t.rates for t in price.tiers if input_tokens_max > t.above_input_tokens]
    dearest_input = max(max(r.input, r.cached_input, r.cache_write) for r in reachable)
    dearest_output = max(r.output for r in reachable)
    amount = input_tokens_max * dearest_input + output_tokens_max * dearest_output
    return -(-amount // TOKENS_PER_RATE)


def divide_half_even(amount: int, divisor: int) -> int:
    """
    Divide, rounding half to even.
    """
    quotient, rest = divmod(amount, divisor)
    if 2 * rest > divisor or (2 * rest == divisor and quotient % 2):
        return quotient + 1
    return quotient
