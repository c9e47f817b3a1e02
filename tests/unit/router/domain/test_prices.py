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
    Premium,
    Price,
    Rates,
    RateTier,
    cost_nano_usd,
    worst_case_nano_usd,
)
from services.router.domain.text import Usage
from tests.support.routing import account_keys, own_key, planned, request

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


class TestSound:
    @pytest.mark.requirement("R3", "R6")
    def test_sound_costs_by_its_own_rates_where_there_are_some(self) -> None:
        rates = Rates(10, 1, 10, 20, audio_input=100, audio_output=200)
        heard = Usage(
            input_tokens=5_000_000,
            output_tokens=3_000_000,
            cached_input_tokens=1_000_000,
            audio_input_tokens=2_000_000,
            audio_output_tokens=1_000_000,
        )
        assert cost_nano_usd(Price("p", rates), heard) == 2 * 10 + 1 + 2 * 100 + 2 * 20 + 200
        plain = Rates(10, 1, 10, 20)
        assert cost_nano_usd(Price("p", plain), heard) == 4 * 10 + 1 + 3 * 20

    @pytest.mark.requirement("L3")
    def test_the_worst_case_is_all_sound_where_sound_may_come_out(self) -> None:
        price = Price("p", Rates(10, 10, 10, 20, audio_input=100, audio_output=200))
        worst = worst_case_nano_usd(price, input_tokens_max=1_000_000, output_tokens_max=1_000_000)
        assert worst == 10 + 200


class TestRegions:
    @pytest.mark.requirement("R6")
    @given(base=rates, dearer=rates, threshold=tokens)
    def test_a_premium_is_on_every_rate_of_every_tier(
        self, base: Rates, dearer: Rates, threshold: int
    ) -> None:
        price = Price("p", base, (RateTier(threshold, dearer),))
        regional = price.with_premium(Premium(10, "example.com", "2026-11-21"))
        for plain, added in ((base, regional.base), (dearer, regional.tiers[0].rates)):
            assert added.output == -(-plain.output * 11 // 10)
            assert added.cached_input == -(-plain.cached_input * 11 // 10)
        assert regional.price_id == "p+10%@example.com/2026-11-21"

    @pytest.mark.requirement("R6", "R12")
    @pytest.mark.parametrize(
        ("model", "region", "nano_usd"),
        [
            ("anthropic/claude-haiku-4-5", "global", 1_000_000_000),
            ("anthropic/claude-haiku-4-5", "europe-west1", 1_100_000_000),
            ("anthropic/claude-sonnet-4-6", "us-east5", 3_300_000_000),
            ("anthropic/claude-3-haiku", "us-east5", 250_000_000),
            ("google/gemini-2.5-flash", "us-central1", 300_000_000),
        ],
    )
    def test_claude_since_4_5_costs_a_tenth_more_where_vertex_serves_it_in_a_region(
        self, model: str, region: str, nano_usd: int
    ) -> None:
        """See https://platform.claude.com/docs/en/about-claude/pricing ."""
        catalogue = load_catalogue(CATALOGUE, PriceLibrary(), now=NOW)
        keys = account_keys(own_key("google-vertex", region=region))
        laid_out = planned(request(model=model), keys=keys, catalogue=catalogue)
        [candidate] = laid_out.own
        assert candidate.offer.price is not None
        assert candidate.offer.price.base.input == nano_usd
        cost = candidate.worst_case_nano_usd
        assert cost is not None
        assert cost >= candidate.offer.price.base.output * 100 // 10**6

    @pytest.mark.requirement("R6")
    @pytest.mark.parametrize(
        ("profile", "nano_usd"),
        [
            ("global.anthropic.claude-sonnet-4-6", 3_000_000_000),
            ("eu.anthropic.claude-sonnet-4-6", 3_300_000_000),
            ("us.amazon.nova-2-lite-v1:0", 330_000_000),
            ("global.amazon.nova-2-lite-v1:0", 300_000_000),
        ],
    )
    def test_an_inference_profile_of_bedrock_has_the_price_of_its_reach(
        self, profile: str, nano_usd: int
    ) -> None:
        schedule = PriceLibrary().schedule("amazon-bedrock", profile)
        assert schedule is not None
        assert schedule.at(NOW).base.input == nano_usd


class TestLibrary:
    @pytest.mark.requirement("R6")
    @pytest.mark.parametrize(
        ("moment", "nano_usd"),
        [
            (datetime(2026, 11, 20, 0, 59, tzinfo=UTC), 150_000_000),
            (datetime(2026, 11, 20, 1, 0, tzinfo=UTC), 300_000_000),
            (datetime(2026, 11, 20, 9, 59, tzinfo=UTC), 300_000_000),
            (datetime(2026, 11, 20, 10, 0, tzinfo=UTC), 150_000_000),
            (datetime(2026, 11, 21, 1, 0, tzinfo=UTC), 150_000_000),
            (datetime(2026, 9, 9, 12, 0, tzinfo=UTC), 220_000_000),
        ],
    )
    def test_deepseek_costs_double_in_its_peak_hours_of_working_days(
        self, moment: datetime, nano_usd: int
    ) -> None:
        """https://api-docs.deepseek.com/quick_start/pricing : Monday to Friday, 01-04 and 06-10."""
        schedule = PriceLibrary().schedule("deepseek", "deepseek-v4-flash")
        assert schedule is not None
        assert schedule.at(moment).base.input == nano_usd

    @pytest.mark.requirement("R6")
    def test_rows_of_one_model_have_names_of_their_own(self) -> None:
        schedule = PriceLibrary().schedule("deepseek", "deepseek-v4-flash")
        assert schedule is not None
        names = [schedule.default.price_id, *(price.price_id for _, price in schedule.rows)]
        assert len(set(names)) == len(names)
        assert all(name.startswith("deepseek/deepseek-v4-flash@genai-prices-") for name in names)

    @pytest.mark.requirement("R6")
    @pytest.mark.parametrize(
        ("provider", "name", "nano_usd"),
        [
            ("azure", "openai/gpt-4o-mini", 150_000_000),
            ("azure", "gpt-4o-mini-2024-07-18", 150_000_000),
            ("openai", "gpt-4o-2024-05-13", 5_000_000_000),
            ("openai", "gpt-4o-2024-08-06", 2_500_000_000),
            ("openrouter", "anthropic/claude-4.5-haiku-20251001", 1_000_000_000),
            ("openai", "no-such-model", None),
            ("stability", "core", None),
        ],
    )
    def test_names_that_answers_carry_are_found(
        self, provider: str, name: str, nano_usd: int | None
    ) -> None:
        schedule = PriceLibrary().schedule(provider, name)
        assert (schedule.at(NOW).base.input if schedule else None) == nano_usd

    @pytest.mark.requirement("R3", "R6")
    def test_sound_has_rates_of_its_own(self) -> None:
        schedule = PriceLibrary().schedule("gemini", "gemini-2.5-flash")
        assert schedule is not None
        rates = schedule.at(NOW).base
        assert (rates.input, rates.audio_input) == (300_000_000, 1_000_000_000)


class TestPackagedCatalogue:
    @pytest.mark.requirement("R5", "R6")
    def test_it_loads_and_every_offer_has_a_price(self) -> None:
        catalogue = load_catalogue(CATALOGUE, PriceLibrary(), now=NOW)
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
        catalogue = load_catalogue(CATALOGUE, PriceLibrary(), now=NOW)
        offer = catalogue.own_key_offer("openrouter", model)
        assert offer is not None
        assert offer.price is not None
        usage = Usage(input_tokens=1_000, output_tokens=40)
        assert 100 * cost_nano_usd(offer.price, usage) == nano_usd
