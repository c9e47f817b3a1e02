# SPDX-License-Identifier: Apache-2.0
"""
What tokens, images, characters and seconds cost: exact integers, one rounding for each amount.

A rate is nano-USD per million tokens or characters, an image has a price of its own. A cost is the
sum of counts times rates, divided once by a million and rounded half to even; a worst case is
rounded up.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.router.domain.text import Usage

TOKENS_PER_RATE = 1_000_000
_PER_MILLISECOND = TOKENS_PER_RATE // 1_000
PRICE_ID_MAX = 128
"""Characters of a price's id."""


@dataclass(frozen=True, slots=True)
class Rates:
    """
    Nano-USD per million tokens, and what is charged beside or in place of tokens.
    """

    input: int
    cached_input: int
    cache_write: int
    output: int
    image_input: int | None = None
    """For input tokens that are images; None where they cost as others do."""
    image_output: int | None = None
    """For output tokens that are images; None where they cost as others do."""
    audio_input: int | None = None
    """For input tokens that are sound; None where they cost as others do."""
    audio_output: int | None = None
    """For output tokens that are sound; None where they cost as others do."""
    image: int = 0
    """Nano-USD for each image made."""
    characters: int = 0
    """Nano-USD per million characters spoken."""
    media_second: int = 0
    """Nano-USD for each second of video made."""
    machine_second: int = 0
    """Nano-USD for each second that the provider's machine works."""

    @property
    def for_image_input(self) -> int:
        """
        Give the rate of input tokens that are images.
        """
        return self.input if self.image_input is None else self.image_input

    @property
    def for_image_output(self) -> int:
        """
        Give the rate of output tokens that are images.
        """
        return self.output if self.image_output is None else self.image_output

    @property
    def for_audio_input(self) -> int:
        """
        Give the rate of input tokens that are sound.
        """
        return self.input if self.audio_input is None else self.audio_input

    @property
    def for_audio_output(self) -> int:
        """
        Give the rate of output tokens that are sound.
        """
        return self.output if self.audio_output is None else self.audio_output

    def at_percent(self, percent: int) -> Rates:
        """
        Give so many hundredths of every rate, rounded up.
        """
        amounts = {
            each.name: -(-amount * percent // 100)
            for each in dataclasses.fields(self)
            if (amount := getattr(self, each.name)) is not None
        }
        return Rates(**amounts)


@dataclass(frozen=True, slots=True)
class ImagePrice:
    """
    What each image of one size and quality costs.
    """

    size: str
    """Empty for every size."""
    quality: str
    """Empty for every quality."""
    nano_usd: int

    def covers(self, size: str, quality: str) -> bool:
        """
        Tell whether it is the price of a size and quality.
        """
        return self.size in ("", size) and self.quality in ("", quality)


@dataclass(frozen=True, slots=True)
class VideoPrice:
    """
    What each second of video of one resolution costs.
    """

    resolution: str
    """Empty for the default."""
    nano_usd: int
    silent: bool = False
    """Whether it is made without sound."""


@dataclass(frozen=True, slots=True)
class RateTier:
    """
    Rates of a call whose whole input is longer than `above_input_tokens`; they hold for all of it.
    """

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Premium:
    """
    What a provider charges on top of its price of tokens at some of its endpoints.
    """

    percent: int
    source: str
    """The page that says so."""
    date: str
    """When it was read, `YYYY-MM-DD`."""


@dataclass(frozen=True, slots=True)
class Price:
    """
    The price of one model at one provider.
    """

    price_id: str
    """Identifies the row: provider, model, source and its version; at most 128 characters."""
    base: Rates
    tiers: tuple[RateTier, ...] = ()
    """Ascending by threshold."""
    images: tuple[ImagePrice, ...] = ()
    """By size and quality, where images are not paid by tokens; the first that covers counts."""

    videos: tuple[VideoPrice, ...] = ()
    """By resolution and sound, where video is paid by its length."""

    @property
    def unit(self) -> str:
        """
        Name what is charged beside or in place of tokens; empty where tokens are all.
        """
        units = {
            "image": self.images or self.base.image,
            "character": self.base.characters,
            "second of video": self.videos or self.base.media_second,
            "second of machine time": self.base.machine_second,
        }
        return next((unit for unit, charged in units.items() if charged), "")

    def for_video(self, resolution: str, *, silent: bool = False) -> Price | None:
        """
        Give the price for one resolution, with or without sound; None where the list leaves it out.
        """
        if not self.videos:
            return self
        for row in self.videos:
            if (row.resolution, row.silent) == (resolution, silent):
                base = dataclasses.replace(self.base, media_second=row.nano_usd)
                return dataclasses.replace(self, base=base, videos=())
        return None

    def for_image(self, size: str, quality: str) -> Price | None:
        """
        Give the price for one size and quality; None where the list leaves it out.

        What is left empty is the default, whose price comes first.
        """
        if not self.images:
            return self
        for row in self.images:
            if row.covers(size or row.size, quality or row.quality):
                base = dataclasses.replace(self.base, image=row.nano_usd)
                return dataclasses.replace(self, base=base, images=())
        return None

    def with_premium(self, premium: Premium) -> Price:
        """
        Give the price of tokens with a premium on all of it.
        """
        percent = 100 + premium.percent
        return Price(
            f"{self.price_id}+{premium.percent}%@{premium.source}/{premium.date}"[-PRICE_ID_MAX:],
            self.base.at_percent(percent),
            tuple(RateTier(t.above_input_tokens, t.rates.at_percent(percent)) for t in self.tiers),
        )

    def rates_for(self, input_tokens: int) -> Rates:
        """
        Give the rates of a call by the length of its input.
        """
        rates = self.base
        for tier in self.tiers:
            if input_tokens > tier.above_input_tokens:
                rates = tier.rates
        return rates


def cost_nano_usd(price: Price, usage: Usage) -> int:
    """
    Give the exact vendor cost of a usage, rounded half to even.
    """
    rates = price.rates_for(usage.input_tokens)
    input_parts = usage.cached_input_tokens + usage.cache_write_tokens
    input_parts += usage.image_input_tokens + usage.audio_input_tokens
    output_parts = usage.image_output_tokens + usage.audio_output_tokens
    # A provider that counts parts beyond their total must not make the cost negative.
    amount = (
        max(0, usage.input_tokens - input_parts) * rates.input
        + usage.cached_input_tokens * rates.cached_input
        + usage.cache_write_tokens * rates.cache_write
        + usage.image_input_tokens * rates.for_image_input
        + usage.audio_input_tokens * rates.for_audio_input
        + max(0, usage.output_tokens - output_parts) * rates.output
        + usage.image_output_tokens * rates.for_image_output
        + usage.audio_output_tokens * rates.for_audio_output
        + usage.characters * rates.characters
        + usage.images * rates.image * TOKENS_PER_RATE
        + usage.media_milliseconds * rates.media_second * _PER_MILLISECOND
        + usage.machine_milliseconds * rates.machine_second * _PER_MILLISECOND
    )
    return divide_half_even(amount, TOKENS_PER_RATE)


def worst_case_nano_usd(
    price: Price,
    *,
    input_tokens_max: int,
    output_tokens_max: int,
    images: int = 0,
    characters: int = 0,
) -> int:
    """
    Give an upper bound of the vendor cost of a call, rounded up.

    Every rate that could apply up to the bound takes part: a shorter input in a lower tier may
    carry the dearer rate, and a provider may write its cache unasked. No request can hold sound, so
    what sound costs on the way in does not.
    """
    reachable = [price.base]
    reachable += [t.rates for t in price.tiers if input_tokens_max > t.above_input_tokens]
    dearest_input = max(
        max(r.input, r.cached_input, r.cache_write, r.for_image_input) for r in reachable
    )
    dearest_output = max(max(r.output, r.for_image_output, r.for_audio_output) for r in reachable)
    amount = input_tokens_max * dearest_input + output_tokens_max * dearest_output
    amount += characters * max(r.characters for r in reachable)
    whole = images * max(r.image for r in reachable)
    return whole - (-amount // TOKENS_PER_RATE)


def divide_half_even(amount: int, divisor: int) -> int:
    """
    Divide, rounding half to even.
    """
    quotient, rest = divmod(amount, divisor)
    if 2 * rest > divisor or (2 * rest == divisor and quotient % 2):
        return quotient + 1
    return quotient
