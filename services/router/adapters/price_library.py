# SPDX-License-Identifier: Apache-2.0
"""
Prices from the genai-prices package, compiled to integers on their first use.

https://github.com/pydantic/genai-prices : decimals of USD per million tokens; a tiered price is a
cliff, the tier's rate holds for the whole call once the input passes its threshold. Of conditional
prices the last whose condition holds counts, else the first.
"""

from __future__ import annotations

from datetime import UTC, date, time
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from genai_prices.data import providers
from genai_prices.types import StartDateConstraint, TieredPrices, TimeOfDateConstraint

from services.router.domain.price_schedule import Condition, Daily, FromDay, PriceSchedule
from services.router.domain.prices import PRICE_ID_MAX, Price, Rates, RateTier

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice

NANO_PER_USD = 1_000_000_000
NAMES_MAX = 4_096
"""Names of models whose prices are kept; providers answer with more than the catalogue's."""

_LIBRARY_IDS = {"gemini": "google", "google-vertex": "google", "amazon-bedrock": "aws"}
"""Where the library's provider id is not ours."""
_LISTS_FOR_ANOTHER = "azure"
"""The provider at which other providers' lists stand for what its own leaves out: Global Standard
deployments share their prices; regional and data-zone deployments cost more.
https://azure.microsoft.com/pricing/details/cognitive-services/openai-service/"""
_WORKING_DAYS_ONLY = "deepseek"
"""The provider whose daily windows leave Saturdays and Sundays out, for which the library has no
word; on China's public holidays it charges less than they say.
https://api-docs.deepseek.com/quick_start/pricing"""


class PriceLibrary:
    """
    The packaged price list.
    """

    def __init__(self) -> None:
        self._providers = {provider.id: provider for provider in providers}
        self._version = version("genai-prices")
        self._find = lru_cache(NAMES_MAX)(self._compiled)

    def schedule(self, provider: str, provider_model: str) -> PriceSchedule | None:
        """
        Give the prices of a model at a provider over time; None where the library has none for
        both sides.
        """
        return self._find(provider, provider_model)

    def _compiled(self, provider: str, provider_model: str) -> PriceSchedule | None:
        model = self._model(provider, provider_model)
        if model is None:
            return None
        if isinstance(model.prices, list):
            first, later = model.prices[0].prices, model.prices[1:]
        else:
            first, later = model.prices, []
        row = f"{provider}/{model.id}@genai-prices-{self._version}"
        default = _price(row, first)
        if default is None:
            return None
        conditional = ((_condition(provider, each), each.prices) for each in later)
        rows = ((when, _price(f"{row}/{_words(when)}", prices)) for when, prices in conditional)
        return PriceSchedule(default, tuple((when, price) for when, price in rows if price))

    def _model(self, provider: str, provider_model: str) -> ModelInfo | None:
        found = self._providers.get(_LIBRARY_IDS.get(provider, provider))
        if found is None:
            return None
        if provider == _LISTS_FOR_ANOTHER:
            # The catalogue names deployments by `vendor/model`, the lists by the model alone.
            return found.find_model(provider_model.rpartition("/")[2], all_providers=providers)
        return found.find_model(provider_model)


def _condition(provider: str, row: ConditionalPrice) -> Condition:
    match row.constraint:
        case StartDateConstraint(start_date=day):
            return FromDay(day)
        case TimeOfDateConstraint(start_time=start, end_time=end):
            return Daily(_utc(start), _utc(end), working_days_only=provider == _WORKING_DAYS_ONLY)
        case _:
            return FromDay(date.min)


def _utc(at: time) -> time:
    """
    Give a time of day as the library means it: UTC where it names no zone.
    """
    return at.replace(tzinfo=UTC)


def _words(condition: Condition) -> str:
    match condition:
        case FromDay():
            return f"{condition.day:%Y-%m-%d}"
        case Daily():
            return f"{condition.start:%H:%M}-{condition.end:%H:%M}"


def _price(price_id: str, prices: ModelPrice) -> Price | None:
    by_tokens = _field(prices, "input_mtok") is not None
    by_tokens = by_tokens and _field(prices, "output_mtok") is not None
    if not by_tokens and _field(prices, "input_mchars") is None:
        return None
    tiers = tuple(
        RateTier(start, _rates(prices, above=start)) for start in sorted(_thresholds(prices))
    )
    return Price(price_id[-PRICE_ID_MAX:], _rates(prices, above=None), tiers)


def _rates(prices: ModelPrice, *, above: int | None) -> Rates:
    input_rate = _rate(prices, "input_mtok", above)
    return Rates(
        input=input_rate,
        # A provider without a price of its own for the cache charges plain input.
        cached_input=_rate(prices, "cache_read_mtok", above, default=input_rate),
        cache_write=_rate(prices, "cache_write_mtok", above, default=input_rate),
        output=_rate(prices, "output_mtok", above),
        image_input=_optional_rate(prices, "input_image_mtok", above),
        image_output=_optional_rate(prices, "output_image_mtok", above),
        audio_input=_optional_rate(prices, "input_audio_mtok", above),
        audio_output=_optional_rate(prices, "output_audio_mtok", above),
        characters=_rate(prices, "input_mchars", above),
    )


def _optional_rate(prices: ModelPrice, name: str, above: int | None) -> int | None:
    return None if _field(prices, name) is None else _rate(prices, name, above)


def _rate(prices: ModelPrice, name: str, above: int | None, *, default: int = 0) -> int:
    value = _field(prices, name)
    if value is None:
        return default
    if isinstance(value, TieredPrices):
        amount = value.base
        for tier in value.tiers:
            if above is not None and above >= tier.start:
                amount = tier.price
        return _nano(amount)
    return _nano(value)


def _thresholds(prices: ModelPrice) -> set[int]:
    names = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok")
    found = (_field(prices, name) for name in names)
    return {t.start for value in found if isinstance(value, TieredPrices) for t in value.tiers}


def _field(prices: ModelPrice, name: str) -> Decimal | TieredPrices | None:
    value: Decimal | TieredPrices | None = getattr(prices, name, None)
    return value


def _nano(usd: Decimal) -> int:
    # The library carries repeating decimals; a part of a nano-USD per million tokens is rounded up.
    return int((usd * NANO_PER_USD).to_integral_value(ROUND_CEILING))
