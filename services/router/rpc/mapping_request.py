# SPDX-License-Identifier: Apache-2.0
"""
Reads what requests of every kind share: who asks, who pays, how to choose among providers, images.
"""

from __future__ import annotations

import re
from typing import TypeVar

from ownkey.router.v1 import text_pb2 as pb

from services.router.domain.media_types import HEAD_BYTES, image_type
from services.router.domain.request import Preferences, Sort, Source
from services.router.domain.text import ImagePart, ImageURLPart
from services.router.usecases.ports import PLATFORM
from services.shared.errors import InvalidArgumentError
from services.shared.names import ACCOUNT

PROVIDERS_MAX = 32
IMAGE_BYTES_MAX = 20 * 1024 * 1024
URL_CHARACTERS_MAX = 2_048
TOKEN_RATE_MAX = 10**15

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_SOURCES = (Source.AUTO, Source.AUTO, Source.OWN_KEY, Source.CREDITS)
_SORTS = (Sort.CATALOGUE, Sort.PRICE, Sort.LATENCY, Sort.THROUGHPUT)

T = TypeVar("T")


def account(name: str) -> str:
    """
    Check the account that a request is for.

    Raises:
        InvalidArgumentError: It is no account's name, or nobody's to ask for.
    """
    ACCOUNT.parse(name, "account")
    if name == PLATFORM:
        raise InvalidArgumentError.of("account", "is reserved for the product's shared keys")
    return name


def model(name: str) -> str:
    """
    Check a model's name; empty is for the service to choose.

    Raises:
        InvalidArgumentError: It is no model's name.
    """
    if name and not _MODEL.fullmatch(name):
        raise InvalidArgumentError.of(
            "model", "must be vendor/model, for example openai/gpt-4o-mini, or empty"
        )
    return name


def source(value: int) -> Source:
    """
    Read which side pays.
    """
    return choice(_SOURCES, value, "source")


def preferences(route: pb.RoutePreferences) -> Preferences:
    """
    Read how to choose among providers.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    for name in ("order", "only", "ignore"):
        at_most(len(getattr(route, name)), PROVIDERS_MAX, f"route.{name}", "providers")
    if len(set(route.order)) != len(route.order):
        raise InvalidArgumentError.of("route.order", "names a provider twice")
    limits = {}
    for name in ("input", "output"):
        field = f"{name}_nano_usd_per_million_tokens"
        value = getattr(route.max_price, field) if route.max_price.HasField(field) else None  # type: ignore[arg-type]
        if value is not None and not 0 <= value <= TOKEN_RATE_MAX:
            raise InvalidArgumentError.of(
                f"route.max_price.{field}", f"must be from 0 to {TOKEN_RATE_MAX}"
            )
        limits[name] = value
    return Preferences(
        order=tuple(route.order),
        only=frozenset(route.only),
        ignore=frozenset(route.ignore),
        allow_fallbacks=route.allow_fallbacks if route.HasField("allow_fallbacks") else True,
        max_input_rate=limits["input"],
        max_output_rate=limits["output"],
        require_parameters=route.require_parameters,
        sort=choice(_SORTS, route.sort, "route.sort"),
    )


def image(message: pb.Image, field: str) -> ImagePart | ImageURLPart:
    """
    Read an image.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if message.WhichOneof("content") == "url":
        if not message.url.startswith("https://") or len(message.url) > URL_CHARACTERS_MAX:
            raise InvalidArgumentError.of(
                f"{field}.url", f"must begin with https:// and have {URL_CHARACTERS_MAX} at most"
            )
        return ImageURLPart(message.url)
    if not 1 <= len(message.data) <= IMAGE_BYTES_MAX:
        raise InvalidArgumentError.of(f"{field}.data", f"must be 1 to {IMAGE_BYTES_MAX} bytes")
    if message.media_type not in _IMAGE_TYPES:
        raise InvalidArgumentError.of(
            f"{field}.media_type", f"must be one of {', '.join(sorted(_IMAGE_TYPES))}"
        )
    found = image_type(message.data[:HEAD_BYTES])
    if found != message.media_type:
        raise InvalidArgumentError.of(
            f"{field}.media_type",
            f"says {message.media_type}, but the bytes are {found or 'no image that is known'}",
        )
    return ImagePart(message.media_type, message.data)


def at_most(count: int, limit: int, field: str, what: str) -> None:
    """
    Refuse more than a field may hold.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if count > limit:
        raise InvalidArgumentError.of(field, f"holds {count} {what}, more than {limit}")


def choice(options: tuple[T, ...], value: int, field: str) -> T:
    """
    Read a value of an enumeration.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if not 0 <= value < len(options):
        raise InvalidArgumentError.of(field, f"{value} is no value of this field")
    return options[value]
