# SPDX-License-Identifier: Apache-2.0
"""
What a long job is to make, as planning and money see it, and the call that asks for it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from services.router.domain.catalogue import Capability
from services.router.domain.operation import Operation
from services.router.domain.prices import cost_nano_usd
from services.router.domain.text import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.router.domain.catalogue import Catalogue, JobTraits, Offer
    from services.router.domain.text import ImagePart
    from services.router.domain.work import Call

VIDEOS_MAX = 4
"""Videos that one native input may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCall:
    """
    One start, addressed to one model of one provider.
    """

    model: str
    """The model as the provider knows it."""
    input: VideoInput | NativeInput

    @property
    def stream(self) -> bool:
        """
        Give false: a start is answered as a whole.
        """
        return False

    def without(self, fields: Iterable[str]) -> JobCall:
        """
        Give the call as it is: nothing of it only tunes the answer.
        """
        del fields
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class _JobWork:
    """
    What both kinds of input share. Amounts are spelt out where the catalogue knows the model, so
    that its price holds whatever becomes of the job.
    """

    @property
    def operation(self) -> Operation:
        """
        Name the kind of work.
        """
        return Operation.JOB

    def priced(self, offer: Offer) -> Offer:
        """
        Give the offer at the price of such a video; unpriced where the list leaves it out.
        """
        if offer.price is None:
            return offer
        asked = self.at(offer)
        price = offer.price.for_video(asked.resolution, silent=asked.silent)
        return dataclasses.replace(offer, price=price and price.for_image("", ""))

    def at(self, offer: Offer) -> Self:
        """
        Give the work as the offer's provider reads it.
        """
        del offer
        return self

    @property
    def resolution(self) -> str:
        """
        Give the resolution asked for; empty for the default.
        """
        return ""

    @property
    def silent(self) -> bool:
        """
        Tell whether the video is to have no sound.
        """
        return False

    def worst_case_nano_usd(self, offer: Offer, catalogue: Catalogue) -> int | None:
        """
        Give the most that a call could cost; None where the offer has no price.
        """
        del catalogue
        if offer.price is None:
            return None
        return cost_nano_usd(offer.price, self.at(offer).usage_estimate(0))

    def usage_estimate(self, content_bytes: int, call: Call | None = None) -> Usage:
        """
        Give what the whole job uses: a start that was sent may be billed in full.
        """
        del content_bytes, call
        return Usage(input_tokens=0, output_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInput(_JobWork):
    """
    A video from a prompt, and a first frame.
    """

    prompt: str = field(repr=False)
    image: ImagePart | None = field(default=None, repr=False)
    length_seconds: int | None = None
    aspect_ratio: str = ""
    machine_seconds_max: int = 0

    def needs(self) -> tuple[tuple[Capability, str], ...]:
        """
        Name each capability that a model must have, with the words for it.
        """
        return ((Capability.VIDEO, "requests for video"),)

    def call(self, offer: Offer, catalogue: Catalogue, *, stream: bool) -> JobCall:
        """
        Address the work to an offer.
        """
        del catalogue, stream
        return JobCall(model=offer.provider_model, input=self)

    def usage_estimate(self, content_bytes: int, call: Call | None = None) -> Usage:
        """
        Give what the whole video uses.
        """
        del content_bytes, call
        return Usage(
            input_tokens=0,
            output_tokens=0,
            media_milliseconds=(self.length_seconds or 0) * 1000,
            machine_milliseconds=self.machine_seconds_max * 1000,
        )

    def with_traits(self, traits: JobTraits) -> VideoInput:
        """
        Spell out what the model's traits decide.
        """
        length = self.length_seconds
        if length is None and traits.lengths:
            length = traits.lengths[0]
        return dataclasses.replace(
            self, length_seconds=length, machine_seconds_max=traits.machine_seconds_max
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeInput(_JobWork):
    """
    The provider's own input, JSON text of an object.

    It is priced by the fields that its provider reads, where it reads them, and by no others: a
    provider passes over what it does not know.
    """

    input_json: bytes = field(repr=False)
    provider: str = ""
    """Who reads it; empty until an offer is known."""
    default_length_seconds: int = 0
    makes_images: bool = False
    machine_seconds_max: int = 0

    def needs(self) -> tuple[tuple[Capability, str], ...]:
        """
        Name nothing: what the input asks for, the provider alone can tell.
        """
        return ()

    def call(self, offer: Offer, catalogue: Catalogue, *, stream: bool) -> JobCall:
        """
        Address the work to an offer.
        """
        del catalogue, stream
        return JobCall(model=offer.provider_model, input=self.at(offer))

    def at(self, offer: Offer) -> NativeInput:
        """
        Give the input as the offer's provider reads it.
        """
        return dataclasses.replace(self, provider=offer.provider)

    @property
    def resolution(self) -> str:
        """
        Give the resolution asked for; empty for the default.
        """
        found = self._fields.get("resolution")
        return found.lower() if isinstance(found, str) else ""

    @property
    def silent(self) -> bool:
        """
        Tell whether the video is to have no sound.
        """
        return self._fields.get(self._words.sound) is False

    @property
    def _words(self) -> _Words:
        return _GOOGLE if self.provider in _GOOGLES else _REPLICATE

    @property
    def _fields(self) -> dict[str, Any]:
        """
        Give the fields that decide the price, from where the provider reads them.
        """
        fields = msgspec.json.decode(self.input_json)
        if self._words.inside:
            fields = fields.get(self._words.inside)
        return fields if isinstance(fields, dict) else {}

    def usage_estimate(self, content_bytes: int, call: Call | None = None) -> Usage:
        """
        Give what the whole job uses, by the names that models of its kinds share.
        """
        del content_bytes
        if call is not None and isinstance(call, JobCall) and call.input is not self:
            return call.input.usage_estimate(0)
        length = _number(self._fields, self._words.length, self.default_length_seconds)
        count = max(1, _number(self._fields, self._words.number, 1))
        return Usage(
            input_tokens=0,
            output_tokens=0,
            images=count if self.makes_images else 0,
            media_milliseconds=0 if self.makes_images else length * count * 1000,
            machine_milliseconds=self.machine_seconds_max * 1000,
        )

    def with_traits(self, traits: JobTraits) -> NativeInput:
        """
        Spell out what the model's traits decide.
        """
        return dataclasses.replace(
            self,
            default_length_seconds=traits.lengths[0] if traits.lengths else 0,
            makes_images=traits.makes_images,
            machine_seconds_max=traits.machine_seconds_max,
        )


class _Words(NamedTuple):
    """
    What a provider calls the fields that decide the price of a job.
    """

    inside: str
    """The object they are in; empty for the top."""
    length: str
    sound: str
    number: str


_GOOGLES = frozenset({"gemini", "google-vertex"})
_GOOGLE = _Words("parameters", "durationSeconds", "generateAudio", "sampleCount")
"""https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/veo-video-generation"""
_REPLICATE = _Words("", "duration", "generate_audio", "num_outputs")
"""https://replicate.com/google/veo-3.1/api/schema"""


def _number(fields: dict[str, Any], name: str, default: int) -> int:
    found = fields.get(name)
    if isinstance(found, str) and found.isdecimal():
        return int(found)
    if isinstance(found, int | float) and not isinstance(found, bool) and found >= 0:
        return int(-(-found // 1))
    return default
