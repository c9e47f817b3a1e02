# SPDX-License-Identifier: Apache-2.0
"""
What a request for images or speech asks to be made, as planning and money see it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain.catalogue import Capability, ImageTokens
from services.router.domain.media import ImageCall, SpeechCall
from services.router.domain.operation import Operation
from services.router.domain.prices import worst_case_nano_usd
from services.router.domain.text import ImagePart, Usage
from services.router.domain.token_bound import CALL_TOKENS_MAX, tokens_estimate

if TYPE_CHECKING:
    from services.router.domain.catalogue import Catalogue, Offer
    from services.router.domain.work import Call

CHARACTERS_PER_ROW = 1_000
"""The catalogue tells speech models' tokens by so many characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """
    Images to make; what is left empty is the model's default.
    """

    prompt: str
    images: tuple[ImagePart, ...] = ()
    count: int = 1
    size: str = ""
    quality: str = ""
    media_type: str = ""
    seed: int | None = None

    @property
    def operation(self) -> Operation:
        """
        Name the kind of work.
        """
        return Operation.IMAGE

    def needs(self) -> tuple[tuple[Capability, str], ...]:
        """
        Name each capability that a model must have, with the words for it.
        """
        return ((Capability.IMAGE, "requests for images"),)

    def priced(self, offer: Offer) -> Offer:
        """
        Give the offer at the price of this size and quality.
        """
        if offer.price is None:
            return offer
        return dataclasses.replace(offer, price=offer.price.for_image(self.size, self.quality))

    def call(self, offer: Offer, catalogue: Catalogue, *, stream: bool) -> ImageCall:
        """
        Address the work to an offer.
        """
        del stream
        known = catalogue.models.get(offer.model)
        traits = known.image if known else None
        tokens = self._tokens_each(offer, catalogue)
        return ImageCall(
            model=offer.provider_model,
            prompt=self.prompt,
            count=self.count,
            images=self.images,
            size=self.size or _first(traits.sizes if traits else ()),
            quality=self.quality or _first(traits.qualities if traits else ()),
            media_type=self.media_type or _first(traits.media_types if traits else ()),
            seed=self.seed,
            output_tokens=self.count * tokens.tokens,
            output_tokens_max=self.count * tokens.most,
        )

    def worst_case_nano_usd(self, offer: Offer, catalogue: Catalogue) -> int | None:
        """
        Give the most that a call could cost; None where the offer has no price.
        """
        if offer.price is None:
            return None
        image_tokens = len(self.images) * catalogue.image_tokens_max(offer.model)
        return worst_case_nano_usd(
            offer.price,
            input_tokens_max=len(self.prompt.encode()) + image_tokens + CALL_TOKENS_MAX,
            output_tokens_max=self.count * self._tokens_each(offer, catalogue).most,
            images=self.count,
        )

    def usage_estimate(self, content_bytes: int, call: Call) -> Usage:
        """
        Estimate what a call used: every image of it, for providers draw them before any byte comes.
        """
        del content_bytes
        assert isinstance(call, ImageCall), "a call of this work"
        return Usage(
            input_tokens=tokens_estimate(len(self.prompt.encode())),
            output_tokens=call.output_tokens,
            image_output_tokens=call.output_tokens,
            images=self.count,
        )

    def _tokens_each(self, offer: Offer, catalogue: Catalogue) -> ImageTokens:
        known = catalogue.models.get(offer.model)
        if known is None or known.image is None:
            most = catalogue.default_max_output_tokens(offer.model)
            return ImageTokens(self.size, self.quality, 0, most)
        traits = known.image
        size = self.size or _first(traits.sizes)
        return traits.output_tokens_of(size, self.quality or _first(traits.qualities))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechInput:
    """
    A text to speak; what is left empty is the model's default.
    """

    text: str
    voice: str = ""
    media_type: str = ""
    speed: float | None = None

    @property
    def operation(self) -> Operation:
        """
        Name the kind of work.
        """
        return Operation.SPEECH

    def needs(self) -> tuple[tuple[Capability, str], ...]:
        """
        Name each capability that a model must have, with the words for it.
        """
        return ((Capability.SPEECH, "requests for speech"),)

    def priced(self, offer: Offer) -> Offer:
        """
        Give the offer as it is.
        """
        return offer

    def call(self, offer: Offer, catalogue: Catalogue, *, stream: bool) -> SpeechCall:
        """
        Address the work to an offer.
        """
        del stream
        known = catalogue.models.get(offer.model)
        traits = known.speech if known else None
        return SpeechCall(
            model=offer.provider_model,
            text=self.text,
            voice=self.voice or _first(traits.voices if traits else ()),
            media_type=self.media_type or _first(traits.media_types if traits else ()),
            speed=self.speed,
            output_tokens=self._tokens(traits.output_tokens if traits else 0),
        )

    def worst_case_nano_usd(self, offer: Offer, catalogue: Catalogue) -> int | None:
        """
        Give the most that a call could cost; None where the offer has no price.
        """
        if offer.price is None:
            return None
        return worst_case_nano_usd(
            offer.price,
            input_tokens_max=len(self.text.encode()) + CALL_TOKENS_MAX,
            output_tokens_max=self._output_tokens_max(offer, catalogue),
            characters=len(self.text),
        )

    def usage_estimate(self, content_bytes: int, call: Call) -> Usage:
        """
        Estimate what a call used: the whole text, for providers bill it as it comes in.
        """
        del content_bytes
        assert isinstance(call, SpeechCall), "a call of this work"
        return Usage(
            input_tokens=tokens_estimate(len(self.text.encode())),
            output_tokens=call.output_tokens,
            characters=len(self.text),
        )

    def _output_tokens_max(self, offer: Offer, catalogue: Catalogue) -> int:
        known = catalogue.models.get(offer.model)
        return self._tokens(known.speech.output_tokens_max if known and known.speech else 0)

    def _tokens(self, per_row: int) -> int:
        """
        Give the tokens of the text, by those of a thousand characters; half the speed is twice the
        sound.
        """
        slowness = 1.0 if self.speed is None else max(1.0, 1.0 / self.speed)
        return math.ceil(len(self.text) * per_row / CHARACTERS_PER_ROW * slowness)


def _first(values: tuple[str, ...]) -> str:
    return values[0] if values else ""
