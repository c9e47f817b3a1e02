# SPDX-License-Identifier: Apache-2.0
"""Credit prices against exact rationals."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.domain.money import (
    COST_NANO_USD_MAX,
    NANO,
    PARTS_PER_MILLION,
    PriceTerms,
    divide_half_even,
)

COSTS = st.integers(0, COST_NANO_USD_MAX)
TERMS = st.builds(
    PriceTerms,
    credit_value_nano_usd=st.integers(1, 10**12),
    markup_parts_per_million=st.integers(0, 10**9),
    fixed_nano_credits=st.none(),
)


def exact(terms: PriceTerms, cost: int) -> Fraction:
    """Return the price before rounding."""
    markup = Fraction(terms.markup_parts_per_million, PARTS_PER_MILLION)
    return Fraction(cost) * markup * NANO / terms.credit_value_nano_usd


@pytest.mark.requirement("L3", "L12")
class TestPrice:
    @given(TERMS, COSTS)
    def test_it_is_the_exact_rational_rounded_once_half_to_even(
        self, terms: PriceTerms, cost: int
    ) -> None:
        # Fraction's own rounding is half to even.
        assert terms.credit_price(cost) == round(exact(terms, cost))

    @given(TERMS, COSTS, COSTS)
    def test_a_higher_cost_never_has_a_lower_price(
        self, terms: PriceTerms, one: int, other: int
    ) -> None:
        low, high = sorted((one, other))
        assert terms.credit_price(low) <= terms.credit_price(high)

    @given(TERMS, st.lists(st.integers(0, 10**9), max_size=20))
    def test_splitting_a_cost_moves_the_sum_by_at_most_half_a_unit_each(
        self, terms: PriceTerms, costs: list[int]
    ) -> None:
        parts = sum(terms.credit_price(cost) for cost in costs)
        assert abs(parts - exact(terms, sum(costs))) <= Fraction(len(costs), 2)

    def test_a_fixed_price_does_not_look_at_the_cost(self) -> None:
        terms = PriceTerms(10_000_000, 1_200_000, 500_000_000)
        assert terms.credit_price(0) == terms.credit_price(COST_NANO_USD_MAX) == 500_000_000

    def test_a_markup_and_a_credit_worth_a_cent(self) -> None:
        terms = PriceTerms(10_000_000, 1_200_000, None)
        # One cent of vendor cost is 1.2 credits.
        assert terms.credit_price(10_000_000) == 1_200_000_000


class TestRounding:
    @pytest.mark.parametrize(
        ("numerator", "denominator", "rounded"),
        [(0, 2, 0), (1, 2, 0), (3, 2, 2), (5, 2, 2), (7, 2, 4), (1, 3, 0), (2, 3, 1), (4, 2, 2)],
    )
    def test_halves_go_to_the_even_neighbour(
        self, numerator: int, denominator: int, rounded: int
    ) -> None:
        assert divide_half_even(numerator, denominator) == rounded
