# SPDX-License-Identifier: Apache-2.0
"""
Providers, models, and which provider offers which model under which name and price.

Models are named `vendor/model`. A name outside the catalogue can still be addressed on an own key:
the provider of its vendor takes it under the bare name, and a provider that speaks `vendor/model`
itself takes it whole. Such an offer has no price.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from services.router.domain.price_schedule import PriceSchedule
    from services.router.domain.prices import Premium, Price

IMAGE_TOKENS_MAX_DEFAULT = 50_000
"""Upper bound of one image's tokens; gpt-4o-mini's tiles come to 48,169 at most
(https://developers.openai.com/docs/guides/images-vision)."""
OUTPUT_TOKENS_DEFAULT = 4_096
"""Output limit of a model outside the catalogue, where the request sets none."""
GLOBAL_REGION = "global"
"""The region of Vertex's global endpoint."""


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
    """In force now; None where unpriced: own keys only."""
    schedule: PriceSchedule | None = None
    """How the price changes; None where nothing says that it does."""
    premium: Premium | None = None
    """What the provider adds where it serves in one region, or in several, but not globally."""

    def at(self, moment: datetime) -> Offer:
        """
        Give the offer at the price in force at a moment.
        """
        if self.schedule is None:
            return self
        return dataclasses.replace(self, price=self.schedule.at(moment))

    def in_region(self, region: str) -> Offer:
        """
        Give the offer at the price of a region; empty where the provider knows none.
        """
        if self.premium is None or region in ("", GLOBAL_REGION):
            return dataclasses.replace(self, premium=None) if self.premium else self
        if self.price is None:
            return self
        return dataclasses.replace(self, price=self.price.with_premium(self.premium))


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """
    The output tokens that one image of a size and quality takes.
    """

    size: str
    """Empty for every size."""
    quality: str
    """Empty for every quality."""
    tokens: int
    """As a rule."""
    most: int
    """At most; sent where the provider bounds its output by tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTraits:
    """
    What an image model takes and makes; of each list the first is the default.
    """

    sizes: tuple[str, ...] = ()
    """As requests name them; none where the model chooses."""
    qualities: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()
    """None where the model chooses."""
    count_max: int = 1
    images_max: int = 0
    """Images to draw from."""
    prompt_characters_max: int
    output_tokens: tuple[ImageTokens, ...] = ()
    """Where images are paid by tokens; the first that fits counts."""

    def output_tokens_of(self, size: str, quality: str) -> ImageTokens:
        """
        Give the output tokens that one image takes; the dearest where none is listed for it.
        """
        for row in self.output_tokens:
            if row.size in ("", size) and row.quality in ("", quality):
                return row
        nothing = ImageTokens(size, quality, 0, 0)
        return max(self.output_tokens, key=lambda row: row.most, default=nothing)

    def output_tokens_for(self, size: str, quality: str) -> int:
        """
        Give the output tokens that one image takes as a rule; empty is the default.
        """
        named = size or next(iter(self.sizes), "")
        return self.output_tokens_of(named, quality or next(iter(self.qualities), "")).tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechTraits:
    """
    What a speech model takes and makes; of each list the first is the default.
    """

    voices: tuple[str, ...]
    media_types: tuple[str, ...]
    text_characters_max: int
    output_tokens: int = 0
    """Output tokens that a thousand characters take as a rule; zero where it is not paid by
    tokens."""
    output_tokens_max: int = 0
    """Output tokens that a thousand characters take at most, at the voice's own speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTraits:
    """
    What a model makes as a long job.
    """

    lengths: tuple[int, ...] = ()
    """Seconds of video it can make; the first is the default."""
    aspect_ratios: tuple[str, ...] = ()
    makes_images: bool = False
    machine_seconds_max: int = 0
    """The most that a job keeps the provider's machine, where that is what is billed."""


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
    output_tokens_max: int = 0
    """Most output tokens that a request may ask for; 0 where unknown."""
    image_tokens_max: int
    """Upper bound of one image's tokens."""
    fast: bool
    """Named where a slower model timed out."""
    offers: tuple[Offer, ...]
    """In the order they are tried."""
    image: ImageTraits | None = None
    """Set where it makes images."""
    speech: SpeechTraits | None = None
    """Set where it speaks."""
    job: JobTraits | None = None
    """Set where it runs as a long job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """
    How long one call may take at a provider; a caller's deadline may end it sooner.
    """

    first_content_seconds: float = 90.0
    """From sending a streamed call to its first content; until then another candidate may serve."""
    answer_seconds: float = 600.0
    """From sending a call to the end of its answer."""


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
    timeouts: Timeouts = Timeouts()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditDefaults:
    """
    Models that credits serve where the request names none.
    """

    default: str
    quality: str
    speed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaDefaults:
    """
    Models that make media where the request names none, whoever pays.
    """

    image: str = ""
    speech: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """
    All providers and models, by id.
    """

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    credits: CreditDefaults
    media: MediaDefaults = MediaDefaults()

    def at(self, moment: datetime) -> Catalogue:
        """
        Give the catalogue at the prices in force at a moment.
        """
        models = {
            name: dataclasses.replace(model, offers=tuple(o.at(moment) for o in model.offers))
            for name, model in self.models.items()
        }
        return dataclasses.replace(self, models=models)

    def next_change(self, moment: datetime) -> datetime | None:
        """
        Give the next moment from which another price may be in force; None where none follows.
        """
        schedules = (o.schedule for m in self.models.values() for o in m.offers)
        changes = (each.next_change(moment) for each in schedules if each is not None)
        return min((change for change in changes if change is not None), default=None)

    def offers(self, model: str) -> tuple[Offer, ...]:
        """
        Give the offers of a model in the order they are tried; none for an unknown one.
        """
        known = self.models.get(model)
        return known.offers if known else ()

    def capabilities_of(self, provider: str) -> frozenset[Capability]:
        """
        Give the work that a provider's keys serve, over the models listed here.
        """
        served = (
            model.capabilities
            for model in self.models.values()
            if any(offer.provider == provider for offer in model.offers)
        )
        return frozenset().union(*served)

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
        Name a fast model of the same kind in place of a slow one, of its vendor if there is one.
        """
        vendor = model.partition("/")[0]
        kind = self._kind(model)
        fast = [
            m.id
            for m in self.models.values()
            if m.fast and m.id != model and kind in m.capabilities
        ]
        same = [name for name in fast if name.startswith(f"{vendor}/")]
        return next(iter(same or fast), "")

    def _kind(self, model: str) -> Capability:
        known = self.models.get(model)
        made = (Capability.IMAGE, Capability.SPEECH, Capability.VIDEO)
        kinds = [kind for kind in made if known and kind in known.capabilities]
        return kinds[0] if kinds else Capability.TEXT
