# SPDX-License-Identifier: Apache-2.0
"""Exact costs and worst cases."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.price_library import PriceLibrary
from services.router.domain.prices import (
    Price,
    Rates,
    RateTier,
    cost_nano_usd,
    worst_case_nano_usd,
)
from services.router.domain.text import Usage

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CATALOGUE = Path("services/router/catalogue.yaml")

rate = st.integers(0, 10**12)
rates = st.builds(Rates, rate, rate, rate, rate)
tokens = st.integers(0, 10**6)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Give a usage whose parts are within their totals."""
    total = draw(tokens)
    cached = draw(st.integers(0, total))
    written = draw(st.integers(0, total - cached))
    return Usage(
        input_tokens=total,
        output_tokens=draw(tokens),
        cached_input_tokens=cached,
        cache_write_tokens=written,
    )


class TestCost:
    @pytest.mark.requirement("R6", "R12")
    @given(base=rates, usage=usages())
    def test_the_cost_is_the_exact_sum_rounded_once_half_to_even(
        self, base: Rates, usage: Usage
    ) -> None:
        plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
        exact = Fraction(
            plain * base.input
            + usage.cached_input_tokens * base.cached_input
            + usage.cache_write_tokens * base.cache_write
            + usage.output_tokens * base.output,
            1_000_000,
        )
        assert cost_nano_usd(Price("p", base), usage) == round(exact)

    @pytest.mark.requirement("L3")
    @given(base=rates, dearer=rates, threshold=tokens, usage=usages(), more=tokens)
    def test_the_worst_case_is_never_below_the_cost(
        self, base: Rates, dearer: Rates, threshold: int, usage: Usage, more: int
    ) -> None:
        """Whatever tier and cache the call ends up in."""
        price = Price("p", base, (RateTier(threshold, dearer),))
        worst = worst_case_nano_usd(
            price,
            input_tokens_max=usage.input_tokens + more,
            output_tokens_max=usage.output_tokens,
        )
        assert worst >= cost_nano_usd(price, usage)

    @pytest.mark.requirement("R6")
    def test_a_tier_holds_for_the_whole_call_past_its_threshold(self) -> None:
        cheap, dear = Rates(1, 1, 1, 1), Rates(2, 2, 2, 2)
        price = Price("p", cheap, (RateTier(200_000, dear),))
        assert price.rates_for(200_000) == cheap
        assert price.rates_for(200_001) == dear


class TestPackagedCatalogue:
    @pytest.mark.requirement("R5", "R6")
    def test_it_loads_and_every_offer_has_a_price(self) -> None:
        catalogue = load_catalogue(CATALOGUE, PriceLibrary(now=NOW))
        unpriced = [
            (offer.provider, offer.model)
            for model in catalogue.models.values()
            for offer in model.offers
            if offer.price is None
        ]
        assert unpriced == []

    @pytest.mark.requirement("R6")
    @pytest.mark.parametrize(
        ("model", "nano_usd"),
        [("openai/gpt-4o-mini", 17_400_000), ("anthropic/claude-3-haiku", 30_000_000)],
    )
    def test_the_flash_card_comparison_comes_out_at_list_price(
        self, model: str, nano_usd: int
    ) -> None:
        """100 generations of 1,000 input and 40 output tokens through OpenRouter."""
        catalogue = load_catalogue(CATALOGUE, PriceLibrary(now=NOW))
        offer = catalogue.own_key_offer("openrouter", model)
        assert offer is not None
        assert offer.price is not None
        usage = Usage(input_tokens=1_000, output_tokens=40)
        assert 100 * cost_nano_usd(offer.price, usage) == nano_usd
