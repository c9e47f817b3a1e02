# SPDX-License-Identifier: Apache-2.0
"""
Reads the catalogue from its YAML file and checks all of it before the first request.

Prices come from the price library; a `price` in the file goes before it, and names its source and
date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import yaml

from services.router.domain.catalogue import (
    IMAGE_TOKENS_MAX_DEFAULT,
    Capability,
    Catalogue,
    CreditDefaults,
    ImageTokens,
    ImageTraits,
    JobTraits,
    MediaDefaults,
    Model,
    Offer,
    Provider,
    SpeechTraits,
    Timeouts,
)
from services.router.domain.price_schedule import PriceSchedule
from services.router.domain.prices import (
    PRICE_ID_MAX,
    ImagePrice,
    Premium,
    Price,
    Rates,
    VideoPrice,
)
from services.shared.config import ConfigError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

CURATED_MAX = 100


class Prices(Protocol):
    """Knows list prices."""

    def schedule(self, provider: str, provider_model: str) -> PriceSchedule | None:
        """Give the prices of a model at a provider over time, None where unknown."""
        ...


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _ImagePrice(_Strict):
    """Nano-USD for each image of a size and quality; of any where one is left out."""

    price: int
    size: str = ""
    quality: str = ""


class _VideoPrice(_Strict):
    """Nano-USD for each second of a resolution; of the default where it is left out."""

    price: int
    resolution: str = ""
    silent: bool = False


class _Price(_Strict):
    """
    Nano-USD per million tokens or characters, or for each image, with where and when it was read.
    """

    source: str
    date: str
    input: int = 0
    output: int = 0
    cached_input: int | None = None
    cache_write: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    characters: int = 0
    images: list[_ImagePrice] = []
    videos: list[_VideoPrice] = []
    machine_second: int = 0

    def charges(self) -> bool:
        """Tell whether anything has a price."""
        flat = (self.input, self.output, self.characters, self.machine_second)
        listed = (*(row.price for row in self.images), *(row.price for row in self.videos))
        amounts = (*flat, *listed)
        return any(amount > 0 for amount in amounts)


class _Premium(_Strict):
    """
    Hundredths that a provider adds to its price of tokens where it does not serve globally.
    """

    percent: Annotated[int, msgspec.Meta(gt=0, le=100)]
    source: str
    date: str


class _ImageTokens(_Strict):
    """Output tokens of one image of a size and quality; of any where one is left out."""

    tokens: int
    most: int = 0
    size: str = ""
    quality: str = ""


class _Image(_Strict):
    prompt_characters_max: int
    sizes: list[str] = []
    qualities: list[str] = []
    media_types: list[str] = []
    count_max: int = 1
    images_max: int = 0
    output_tokens: list[_ImageTokens] = []


class _Speech(_Strict):
    text_characters_max: int
    voices: list[str]
    media_types: list[str]
    output_tokens: int = 0
    output_tokens_max: int = 0


class _Job(_Strict):
    lengths: list[int] = []
    aspect_ratios: list[str] = []
    makes_images: bool = False
    machine_seconds_max: int = 0


class _Offer(_Strict):
    provider: str
    model: str
    price: _Price | None = None
    premium: _Premium | None = None


class _Model(_Strict):
    name: str
    capabilities: list[Capability]
    offers: list[_Offer]
    context_tokens: int = 0
    max_output_tokens: int = 4096
    output_tokens_max: int = 0
    image_tokens_max: int = IMAGE_TOKENS_MAX_DEFAULT
    fast: bool = False
    image: _Image | None = None
    speech: _Speech | None = None
    job: _Job | None = None


class _Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    first_content_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)] = 90.0
    answer_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 600.0


class _Provider(_Strict):
    name: str
    key_page: str
    key_shape: str
    default_model: str
    curated: list[str]
    bills_after_disconnect: bool
    timeouts: _Timeouts = _Timeouts()
    vendors: list[str] = []
    takes_any_vendor: bool = False


class _Credits(_Strict):
    default: str
    quality: str
    speed: str


class _Media(_Strict):
    image: str
    speech: str


class _File(_Strict):
    providers: dict[str, _Provider]
    models: dict[str, _Model]
    credits: _Credits
    media: _Media | None = None
    traits: dict[str, Any] = {}
    """Holds what models share by anchors; read, and so checked, where a model names it."""


def load_catalogue(path: Path, prices: Prices, *, now: datetime) -> Catalogue:
    """
    Read and check the catalogue, at the prices in force.

    Args:
        path: Where it stands.
        prices: The list of what it gives no price for itself.
        now: The moment, in UTC.

    Raises:
        ConfigError: With every fault found, and where it stands.
    """
    try:
        file = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _File)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as fault:
        raise ConfigError([f"the catalogue {path} cannot be read: {fault}"]) from fault
    catalogue = Catalogue(
        providers={name: _provider(name, row) for name, row in file.providers.items()},
        models={name: _model(name, row, prices) for name, row in file.models.items()},
        credits=CreditDefaults(
            default=file.credits.default, quality=file.credits.quality, speed=file.credits.speed
        ),
        media=(
            MediaDefaults(image=file.media.image, speech=file.media.speech)
            if file.media
            else MediaDefaults()
        ),
    ).at(now)
    problems = [*_price_problems(file), *_problems(catalogue)]
    if problems:
        raise ConfigError([f"the catalogue {path}: {problem}" for problem in problems])
    return catalogue


def _provider(name: str, row: _Provider) -> Provider:
    return Provider(
        id=name,
        display_name=row.name,
        key_page_url=row.key_page,
        key_shape=row.key_shape,
        default_model=row.default_model,
        curated_models=tuple(row.curated),
        vendors=tuple(row.vendors),
        takes_any_vendor=row.takes_any_vendor,
        bills_after_disconnect=row.bills_after_disconnect,
        timeouts=Timeouts(
            first_content_seconds=row.timeouts.first_content_seconds,
            answer_seconds=row.timeouts.answer_seconds,
        ),
    )


def _model(name: str, row: _Model, prices: Prices) -> Model:
    offers = []
    for offer in row.offers:
        own = None if offer.price is None else _own_price(offer, offer.price)
        schedule = prices.schedule(offer.provider, offer.model) if own is None else None
        added = offer.premium
        premium = None if added is None else Premium(added.percent, added.source, added.date)
        offers.append(Offer(offer.provider, name, offer.model, own, schedule, premium))
    return Model(
        id=name,
        display_name=row.name,
        capabilities=frozenset(row.capabilities),
        context_tokens=row.context_tokens,
        default_max_output_tokens=row.max_output_tokens,
        output_tokens_max=row.output_tokens_max,
        image_tokens_max=row.image_tokens_max,
        fast=row.fast,
        offers=tuple(offers),
        image=None if row.image is None else _image(row.image),
        speech=None if row.speech is None else _speech(row.speech),
        job=None if row.job is None else _job(row.job),
    )


def _own_price(offer: _Offer, own: _Price) -> Price:
    return Price(
        f"{offer.provider}/{offer.model}@{own.source}/{own.date}"[-PRICE_ID_MAX:],
        Rates(
            input=own.input,
            cached_input=own.input if own.cached_input is None else own.cached_input,
            cache_write=own.input if own.cache_write is None else own.cache_write,
            output=own.output,
            image_input=own.image_input,
            image_output=own.image_output,
            characters=own.characters,
            machine_second=own.machine_second,
        ),
        images=tuple(ImagePrice(row.size, row.quality, row.price) for row in own.images),
        videos=tuple(VideoPrice(row.resolution, row.price, row.silent) for row in own.videos),
    )


def _image(row: _Image) -> ImageTraits:
    return ImageTraits(
        sizes=tuple(row.sizes),
        qualities=tuple(row.qualities),
        media_types=tuple(row.media_types),
        count_max=row.count_max,
        images_max=row.images_max,
        prompt_characters_max=row.prompt_characters_max,
        output_tokens=tuple(
            ImageTokens(each.size, each.quality, each.tokens, max(each.most, each.tokens))
            for each in row.output_tokens
        ),
    )


def _job(row: _Job) -> JobTraits:
    return JobTraits(
        lengths=tuple(row.lengths),
        aspect_ratios=tuple(row.aspect_ratios),
        makes_images=row.makes_images,
        machine_seconds_max=row.machine_seconds_max,
    )


def _speech(row: _Speech) -> SpeechTraits:
    return SpeechTraits(
        voices=tuple(row.voices),
        media_types=tuple(row.media_types),
        text_characters_max=row.text_characters_max,
        output_tokens=row.output_tokens,
        output_tokens_max=max(row.output_tokens, row.output_tokens_max),
    )


def _price_problems(file: _File) -> list[str]:
    return [
        f"models.{name}: the price at {offer.provider} charges nothing"
        for name, model in file.models.items()
        for offer in model.offers
        if offer.price is not None and not offer.price.charges()
    ]


def _problems(catalogue: Catalogue) -> list[str]:
    problems = [p for provider in catalogue.providers.values() for p in _of(provider, catalogue)]
    for name, found in catalogue.models.items():
        if name.count("/") != 1:
            problems.append(f"models.{name}: a model is named vendor/model")
        if not found.offers:
            problems.append(f"models.{name} has no offers")
        problems += [
            f"models.{name}: there is no provider '{offer.provider}'"
            for offer in found.offers
            if offer.provider not in catalogue.providers
        ]
        if 0 < found.output_tokens_max < found.default_max_output_tokens:
            problems.append(f"models.{name}: its max_output_tokens is above its output_tokens_max")
        problems += _media_problems(found)
    problems += [
        f"media.{capability}: {model} is no model that the catalogue knows to do it"
        for capability, model in (
            (Capability.IMAGE, catalogue.media.image),
            (Capability.SPEECH, catalogue.media.speech),
        )
        if model
        and (
            model not in catalogue.models or capability not in catalogue.models[model].capabilities
        )
    ]
    problems += [
        f"credits.{field}: {model} has no offer with a price"
        for field, model in (
            ("default", catalogue.credits.default),
            ("quality", catalogue.credits.quality),
            ("speed", catalogue.credits.speed),
        )
        if not any(offer.price is not None for offer in catalogue.offers(model))
    ]
    return problems


def _media_problems(model: Model) -> list[str]:
    """
    Name what does not fit together in a model of images or speech.
    """
    place = f"models.{model.id}"
    problems = []
    if (Capability.IMAGE in model.capabilities) != (model.image is not None):
        problems.append(f"{place}: the capability image and the section image go together")
    if (Capability.SPEECH in model.capabilities) != (model.speech is not None):
        problems.append(f"{place}: the capability speech and the section speech go together")
    if model.speech is not None and not (model.speech.voices and model.speech.media_types):
        problems.append(f"{place}.speech must name its voices and media types")
    if model.image is None:
        return problems
    for offer in model.offers:
        rows = offer.price.images if offer.price else ()
        asked = [(s, q) for s in model.image.sizes or ("",) for q in model.image.qualities or ("",)]
        if rows and not rows[0].covers(*asked[0]):
            problems.append(f"{place}: the default's price must come first at {offer.provider}")
        unpriced = [pair for pair in asked if rows and not any(row.covers(*pair) for row in rows)]
        problems += [
            f"{place}: {offer.provider} has no price for size '{size}', quality '{quality}'"
            for size, quality in unpriced
        ]
    return problems


def _of(provider: Provider, catalogue: Catalogue) -> list[str]:
    place, curated = f"providers.{provider.id}", provider.curated_models
    problems = [
        f"{place}.curated: {provider.id} has no offer of {model}"
        for model in curated
        if catalogue.own_key_offer(provider.id, model) is None or model not in catalogue.models
    ]
    if provider.default_model not in curated:
        problems.append(f"{place}.default_model must be on its curated list")
    if len(curated) > CURATED_MAX:
        problems.append(f"{place}.curated holds more than {CURATED_MAX} models")
    return problems
