# SPDX-License-Identifier: Apache-2.0
"""Fees on own-key use against exact rationals."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.domain.fees import Fee, FeeBasis, FeeSource, FeeTerms
from services.ledger.domain.money import (
    COST_NANO_USD_MAX,
    NANO,
    PARTS_PER_MILLION,
    PriceTerms,
)

COSTS = st.integers(0, COST_NANO_USD_MAX)
PRICES = st.builds(
    PriceTerms,
    credit_value_nano_usd=st.integers(1, 10**12),
    markup_parts_per_million=st.integers(0, 10**9),
    fixed_nano_credits=st.none() | st.integers(0, 10**18),
)
TERMS = st.builds(
    FeeTerms,
    basis=st.sampled_from(FeeBasis),
    rate_parts_per_million=st.integers(1, PARTS_PER_MILLION),
    source=st.sampled_from(FeeSource),
    cap_nano_credits=st.none(),
)


def exact(terms: FeeTerms, price: PriceTerms, cost: int) -> Fraction:
    """Return the fee before rounding."""
    rate = Fraction(terms.rate_parts_per_million, PARTS_PER_MILLION)
    at_cost = Fraction(cost) * NANO / price.credit_value_nano_usd
    if terms.basis is FeeBasis.VENDOR_COST:
        return at_cost * rate
    if price.fixed_nano_credits is not None:
        return price.fixed_nano_credits * rate
    return at_cost * Fraction(price.markup_parts_per_million, PARTS_PER_MILLION) * rate


@pytest.mark.requirement("L6", "L12")
class TestFee:
    @given(TERMS, PRICES, COSTS)
    def test_it_is_the_exact_rational_rounded_once_half_to_even(
        self, terms: FeeTerms, price: PriceTerms, cost: int
    ) -> None:
        assert terms.fee(cost, price) == round(exact(terms, price, cost))

    @given(TERMS, PRICES, st.permutations(range(6)), st.lists(COSTS, min_size=6, max_size=6))
    def test_the_order_of_attempts_changes_nothing_and_a_split_half_a_unit_each(
        self, terms: FeeTerms, price: PriceTerms, order: list[int], costs: list[int]
    ) -> None:
        fees = [terms.fee(cost, price) for cost in costs]
        assert sum(fees) == sum(terms.fee(costs[i], price) for i in order)
        total = sum(exact(terms, price, cost) for cost in costs)
        assert abs(sum(fees) - total) <= Fraction(len(costs), 2)

    @given(TERMS, PRICES, COSTS, st.integers(0, 10**18))
    def test_it_never_passes_its_cap(
        self, terms: FeeTerms, price: PriceTerms, cost: int, cap: int
    ) -> None:
        capped = FeeTerms(terms.basis, terms.rate_parts_per_million, terms.source, cap)
        assert capped.fee(cost, price) == min(cap, terms.fee(cost, price))

    @given(TERMS, PRICES, COSTS, COSTS)
    def test_the_hold_for_the_worst_case_covers_every_smaller_cost(
        self, terms: FeeTerms, price: PriceTerms, one: int, other: int
    ) -> None:
        low, high = sorted((one, other))
        assert terms.fee(low, price) <= terms.fee(high, price)

    def test_the_price_behind_it_is_not_rounded_on_the_way(self) -> None:
        # The price is 0.6 nano-credits: rounded first, half of it would be 0.5 and then 0.
        price = PriceTerms(NANO, 600_000, None)
        terms = FeeTerms(FeeBasis.CREDIT_PRICE, 900_000, FeeSource.CREDITS, None)
        assert terms.fee(1, price) == round(Fraction(54, 100)) == 1


@pytest.mark.requirement("L6")
class TestTerms:
    @pytest.mark.parametrize(
        ("basis", "fixed", "needed"),
        [
            (FeeBasis.VENDOR_COST, None, True),
            (FeeBasis.VENDOR_COST, 5, True),
            (FeeBasis.CREDIT_PRICE, None, True),
            (FeeBasis.CREDIT_PRICE, 5, False),
        ],
    )
    def test_a_fee_needs_the_cost_unless_the_price_is_fixed(
        self, basis: FeeBasis, fixed: int | None, *, needed: bool
    ) -> None:
        terms = FeeTerms(basis, 50_000, FeeSource.CREDITS, None)
        assert terms.needs_cost(PriceTerms(NANO, 1, fixed)) is needed

    def test_a_model_gets_its_own_cap(self) -> None:
        fee = Fee(FeeBasis.VENDOR_COST, 50_000, FeeSource.CREDITS, 0, {"acme/film": 7})
        assert fee.terms("acme/film").cap_nano_credits == 7
        assert fee.terms("acme/song").cap_nano_credits is None
