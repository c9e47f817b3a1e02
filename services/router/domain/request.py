# SPDX-License-Identifier: Apache-2.0
"""
A caller's request, checked, in the router's own terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from services.router.domain.catalogue import Capability
from services.router.domain.operation import Operation
from services.router.domain.prices import worst_case_nano_usd
from services.router.domain.text import ImagePart, ImageURLPart, TextCall, Usage
from services.router.domain.token_bound import (
    input_tokens_estimate,
    input_tokens_max,
    text_bytes,
    tokens_estimate,
)

if TYPE_CHECKING:
    from services.router.domain.catalogue import Catalogue, Offer
    from services.router.domain.keys import BroughtKey, OwnKey
    from services.router.domain.text import (
        Message,
        ReasoningEffort,
        ResponseSchema,
        Tool,
        ToolChoice,
    )
    from services.router.domain.work import Call, Work


class Source(StrEnum):
    """
    Which side the caller wants to pay.
    """

    AUTO = "auto"
    OWN_KEY = "own_key"
    CREDITS = "credits"


class Tier(StrEnum):
    """
    Which model credits choose where the request names none.
    """

    DEFAULT = "default"
    QUALITY = "quality"
    SPEED = "speed"


class Sort(StrEnum):
    """
    What to sort providers by where no order is given.
    """

    CATALOGUE = "catalogue"
    PRICE = "price"
    LATENCY = "latency"
    THROUGHPUT = "throughput"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """
    How to choose among providers; nothing about who pays.
    """

    order: tuple[str, ...] = ()
    only: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    allow_fallbacks: bool = True
    max_input_rate: int | None = None
    """Nano-USD per million input tokens."""
    max_output_rate: int | None = None
    """Nano-USD per million output tokens."""
    require_parameters: bool = False
    sort: Sort = Sort.CATALOGUE

    @property
    def limits_price(self) -> bool:
        """
        Tell whether a provider needs a price to take part.
        """
        return self.max_input_rate is not None or self.max_output_rate is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInput:
    """
    What to generate from.
    """

    messages: tuple[Message, ...]
    system: str = ""
    tools: tuple[Tool, ...] = ()
    response_schema: ResponseSchema | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    max_output_tokens: int | None = None
    reasoning_effort: ReasoningEffort | None = None
    tool_choice: ToolChoice | None = None
    top_k: int | None = None
    text_bytes: int = field(init=False, compare=False)
    """UTF-8 bytes of all that is text in it; every bound and estimate begins with them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text_bytes", text_bytes(self))

    @property
    def operation(self) -> Operation:
        """
        Name the kind of work.
        """
        return Operation.TEXT

    def needs(self) -> tuple[tuple[Capability, str], ...]:
        """
        Name each capability that a model must have, with the words for it.
        """
        parts = (part for message in self.messages for part in message.parts)
        has_image = any(isinstance(part, ImagePart | ImageURLPart) for part in parts)
        asked = (
            (True, Capability.TEXT, "requests for text"),
            (has_image, Capability.VISION, "images"),
            (bool(self.tools), Capability.TOOLS, "tools"),
            (self.response_schema is not None, Capability.RESPONSE_SCHEMA, "a response schema"),
        )
        return tuple((capability, what) for needed, capability, what in asked if needed)

    def priced(self, offer: Offer) -> Offer:
        """
        Give the offer as it is.
        """
        return offer

    def call(self, offer: Offer, catalogue: Catalogue, *, stream: bool) -> TextCall:
        """
        Address the text to an offer.
        """
        return TextCall(
            model=offer.provider_model,
            messages=self.messages,
            max_output_tokens=self._output_tokens_max(offer, catalogue),
            system=self.system,
            tools=self.tools,
            response_schema=self.response_schema,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
            seed=self.seed,
            reasoning_effort=self.reasoning_effort,
            tool_choice=self.tool_choice,
            top_k=self.top_k,
            stream=stream,
        )

    def worst_case_nano_usd(self, offer: Offer, catalogue: Catalogue) -> int | None:
        """
        Give the most that a call could cost; None where the offer has no price.
        """
        if offer.price is None:
            return None
        image_tokens_max = catalogue.image_tokens_max(offer.model)
        return worst_case_nano_usd(
            offer.price,
            input_tokens_max=input_tokens_max(self, image_tokens_max=image_tokens_max),
            output_tokens_max=self._output_tokens_max(offer, catalogue),
        )

    def usage_estimate(self, content_bytes: int, call: Call) -> Usage:
        """
        Estimate what a call used of which so many bytes of content came.
        """
        del call
        return Usage(
            input_tokens=input_tokens_estimate(self),
            output_tokens=tokens_estimate(content_bytes),
        )

    def _output_tokens_max(self, offer: Offer, catalogue: Catalogue) -> int:
        if self.max_output_tokens is not None:
            return self.max_output_tokens
        return catalogue.default_max_output_tokens(offer.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    One request.
    """

    account: str
    """`accounts/{account}`."""
    request_id: str
    model: str
    """`vendor/model`, or empty."""
    tier: Tier = Tier.DEFAULT
    source: Source = Source.AUTO
    preferences: Preferences = field(default_factory=Preferences)
    input: Work
    """What is to be made."""
    stream: bool = False
    brought: tuple[BroughtKey, ...] = ()
    """Client-held keys that may serve it."""

    def brings(self, key: OwnKey) -> BroughtKey | None:
        """
        Give a client-held key as the request brings it.
        """
        return next((brought for brought in self.brought if brought.key == key.name), None)
