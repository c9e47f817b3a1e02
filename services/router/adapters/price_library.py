# SPDX-License-Identifier: Apache-2.0
"""
Prices from the genai-prices package, compiled to integers once, at load.

https://github.com/pydantic/genai-prices : decimals of USD per million tokens; a tiered price is a
cliff, the tier's rate holds for the whole call once the input passes its threshold.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

from genai_prices.data import providers
from genai_prices.types import TieredPrices

from services.router.domain.prices import Price, Rates, RateTier

if TYPE_CHECKING:
    from datetime import datetime

    from genai_prices.types import ModelPrice

NANO_PER_USD = 1_000_000_000

_LIBRARY_IDS = {"gemini": "google", "google-vertex": "google", "amazon-bedrock": "aws"}
"""Where the library's provider id is not ours."""


class PriceLibrary:
    """
    The packaged price list as of one moment.

    Args:
        now: The moment, aware; prices that begin later do not hold yet.
    """

    def __init__(self, *, now: datetime) -> None:
        self._now = now
        self._providers = {provider.id: provider for provider in providers}
        self._version = version("genai-prices")

    def find(self, provider: str, provider_model: str) -> Price | None:
        """
        Give the price of a model at a provider; None where the library has none for both sides.
        """
        found = self._providers.get(_LIBRARY_IDS.get(provider, provider))
        model = found.find_model(provider_model) if found else None
        if model is None:
            return None
        prices = model.get_prices(self._now)
        by_tokens = _field(prices, "input_mtok") is not None
        by_tokens = by_tokens and _field(prices, "output_mtok") is not None
        if not by_tokens and _field(prices, "input_mchars") is None:
            return None
        tiers = tuple(
            RateTier(start, _rates(prices, above=start)) for start in sorted(_thresholds(prices))
        )
        price_id = f"{provider}/{model.id}@genai-prices-{self._version}/{self._now:%Y-%m-%d}"
        return Price(price_id[-128:], _rates(prices, above=None), tiers)


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
