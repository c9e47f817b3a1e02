# SPDX-License-Identifier: Apache-2.0
"""
What a request asks to be made, as planning and money see it, whatever its kind.

Text, images, speech and jobs each have a `Work` of their own; one path plans, authorizes, attempts
and settles them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from services.router.domain.catalogue import Capability, Catalogue, Offer
    from services.router.domain.operation import Operation
    from services.router.domain.text import Usage

    Unsupported = Callable[[str, "Call"], list[str]]
    """Names the fields of a call that a provider does not take."""


class Call(Protocol):
    """
    One call, addressed to one model of one provider.
    """

    @property
    def model(self) -> str:
        """Give the model as the provider knows it."""
        ...

    @property
    def stream(self) -> bool:
        """Tell whether the answer is asked for piece by piece."""
        ...

    def without(self, fields: Collection[str]) -> Call:
        """Give the call without some fields that only tune the answer."""
        ...


class Work(Protocol):
    """
    What is to be made; a frozen dataclass, whose fields are the body that a fingerprint covers.
    """

    @property
    def operation(self) -> Operation:
        """Name the kind of work."""
        ...

    def needs(self) -> tuple[tuple[Capability, str], ...]:
        """Name each capability that a model must have, with the words for it."""
        ...

    def priced(self, offer: Offer) -> Offer:
        """Give the offer at the price of this very work; unpriced where the list leaves it out."""
        ...

    def call(self, offer: Offer, catalogue: Catalogue, *, stream: bool) -> Call:
        """Address the work to an offer."""
        ...

    def worst_case_nano_usd(self, offer: Offer, catalogue: Catalogue) -> int | None:
        """Give the most that a call could cost; None where the offer has no price."""
        ...

    def usage_estimate(self, content_bytes: int, call: Call) -> Usage:
        """Estimate what a call of it used of which so many bytes of content came."""
        ...
