# SPDX-License-Identifier: Apache-2.0
"""
Reads the catalogue from its YAML file and checks all of it before the first request.

Prices come from the price library; a `price` in the file goes before it, and names its source and
date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec
import yaml

from services.router.domain.catalogue import (
    IMAGE_TOKENS_MAX_DEFAULT,
    Capability,
    Catalogue,
    CreditDefaults,
    Model,
    Offer,
    Provider,
)
from services.router.domain.prices import Price, Rates
from services.shared.config import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CURATED_MAX = 100


class Prices(Protocol):
    """Knows list prices."""

    def find(self, provider: str, provider_model: str) -> Price | None:
        """Give the price of a model at a provider, None where unknown."""
        ...


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Price(_Strict):
    """Nano-USD per million tokens, with where and when it was read."""

    source: str
    date: str
    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None


class _Offer(_Strict):
    provider: str
    model: str
    price: _Price | None = None


class _Model(_Strict):
    name: str
    capabilities: list[Capability]
    offers: list[_Offer]
    context_tokens: int = 0
    max_output_tokens: int = 4096
    image_tokens_max: int = IMAGE_TOKENS_MAX_DEFAULT
    fast: bool = False


class _Provider(_Strict):
    name: str
    key_page: str
    key_shape: str
    default_model: str
    curated: list[str]
    bills_after_disconnect: bool
    vendors: list[str] = []
    takes_any_vendor: bool = False


class _Credits(_Strict):
    default: str
    quality: str
    speed: str


class _File(_Strict):
    providers: dict[str, _Provider]
    models: dict[str, _Model]
    credits: _Credits


def load_catalogue(path: Path, prices: Prices) -> Catalogue:
    """
    Read and check the catalogue.

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
    )
    problems = _problems(catalogue)
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
    )


def _model(name: str, row: _Model, prices: Prices) -> Model:
    offers = []
    for offer in row.offers:
        own = offer.price
        price = prices.find(offer.provider, offer.model)
        if own is not None:
            price = Price(
                f"{offer.provider}/{offer.model}@{own.source}/{own.date}"[-128:],
                Rates(
                    input=own.input,
                    cached_input=own.input if own.cached_input is None else own.cached_input,
                    cache_write=own.input if own.cache_write is None else own.cache_write,
                    output=own.output,
                ),
            )
        offers.append(Offer(offer.provider, name, offer.model, price))
    return Model(
        id=name,
        display_name=row.name,
        capabilities=frozenset(row.capabilities),
        context_tokens=row.context_tokens,
        default_max_output_tokens=row.max_output_tokens,
        image_tokens_max=row.image_tokens_max,
        fast=row.fast,
        offers=tuple(offers),
    )


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
