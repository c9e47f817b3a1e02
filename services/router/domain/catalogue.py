# SPDX-License-Identifier: Apache-2.0
"""
Providers, models, and which provider offers which model under which name and price.

Models are named `vendor/model`. A name outside the catalogue can still be addressed on an own key:
the provider of its vendor takes it under the bare name, and a provider that speaks `vendor/model`
itself takes it whole. Such an offer has no price.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.router.domain.prices import Price

IMAGE_TOKENS_MAX_DEFAULT = 50_000
"""Upper bound of one image's tokens; gpt-4o-mini's tiles come to 48,169 at most
(https://developers.openai.com/docs/guides/images-vision)."""
OUTPUT_TOKENS_DEFAULT = 4_096
"""Output limit of a model outside the catalogue, where the request sets none."""


class Capability(StrEnum):
    """
    What a model can do.
    """

    TEXT = "text"
    VISION = "vision"
    TOOLS = "tools"
    RESPONSE_SCHEMA = "response_schema"
    REASONING = "reasoning"
    IMAGE = "image"
    SPEECH = "speech"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class Offer:
    """
    One provider's offer of one model.
    """

    provider: str
    model: str
    """`vendor/model`."""
    provider_model: str
    """The model as the provider calls it."""
    price: Price | None
    """None where unpriced: own keys only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """
    One model of the catalogue.
    """

    id: str
    """`vendor/model`."""
    display_name: str
    capabilities: frozenset[Capability]
    context_tokens: int
    """Most tokens of input and output; 0 where unknown."""
    default_max_output_tokens: int
    image_tokens_max: int
    """Upper bound of one image's tokens."""
    fast: bool
    """Named where a slower model timed out."""
    offers: tuple[Offer, ...]
    """In the order they are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """
    One provider of the catalogue.
    """

    id: str
    display_name: str
    key_page_url: str
    key_shape: str
    default_model: str
    curated_models: tuple[str, ...]
    vendors: tuple[str, ...]
    """Vendors whose models it serves under their bare names, also outside the catalogue."""
    takes_any_vendor: bool
    """Whether it takes any `vendor/model` under that very name."""
    bills_after_disconnect: bool
    """Whether it goes on generating, and billing, when the caller leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditDefaults:
    """
    Models that credits serve where the request names none.
    """

    default: str
    quality: str
    speed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """
    All providers and models, by id.
    """

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    credits: CreditDefaults

    def offers(self, model: str) -> tuple[Offer, ...]:
        """
        Give the offers of a model in the order they are tried; none for an unknown one.
        """
        known = self.models.get(model)
        return known.offers if known else ()

    def own_key_offer(self, provider: str, model: str) -> Offer | None:
        """
        Give a provider's offer of a model to an own key, passed through where it is not listed.
        """
        for offer in self.offers(model):
            if offer.provider == provider:
                return offer
        vendor, _, name = model.partition("/")
        found = self.providers.get(provider)
        if found is None or model in self.models:
            return None
        if vendor in found.vendors:
            return Offer(provider, model, name, None)
        return Offer(provider, model, model, None) if found.takes_any_vendor else None

    def default_max_output_tokens(self, model: str) -> int:
        """
        Give the output limit of a request that sets none.
        """
        known = self.models.get(model)
        return known.default_max_output_tokens if known else OUTPUT_TOKENS_DEFAULT

    def image_tokens_max(self, model: str) -> int:
        """
        Give the upper bound of one image's tokens.
        """
        known = self.models.get(model)
        return known.image_tokens_max if known else IMAGE_TOKENS_MAX_DEFAULT

    def faster_than(self, model: str) -> str:
        """
        Name a fast model to try in place of a slow one, of the same vendor where there is one.
        """
        vendor = model.partition("/")[0]
        fast = [m.id for m in self.models.values() if m.fast and m.id != model]
        same = [name for name in fast if name.startswith(f"{vendor}/")]
        return next(iter(same or fast), "")
