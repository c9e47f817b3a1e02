# SPDX-License-Identifier: Apache-2.0
"""
A caller's request for text, checked, in the router's own terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.router.domain.text import (
        Message,
        ReasoningEffort,
        ResponseSchema,
        Tool,
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """
    One request for text.
    """

    account: str
    """`accounts/{account}`."""
    request_id: str
    model: str
    """`vendor/model`, or empty."""
    tier: Tier = Tier.DEFAULT
    source: Source = Source.AUTO
    preferences: Preferences = field(default_factory=Preferences)
    input: TextInput
    stream: bool = False
