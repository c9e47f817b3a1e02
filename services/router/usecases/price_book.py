# SPDX-License-Identifier: Apache-2.0
"""
The catalogue at the prices of now, and what answers cost whose model is not the one asked for.

Prices change from a day on or with the hour, so the catalogue's are worked out anew when the next
change has come, and only then.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from services.router.domain.catalogue import Catalogue, Offer
    from services.router.domain.price_schedule import PriceSchedule
    from services.shared.clock import Clock


class PriceList(Protocol):
    """Knows list prices."""

    def schedule(self, provider: str, provider_model: str) -> PriceSchedule | None:
        """Give the prices of a model at a provider over time, None where unknown."""
        ...


class PriceBook:
    """
    The prices in force.

    Args:
        catalogue: Providers and models.
        listed: The list that its prices come from.
        clock: Tells which are in force.
    """

    def __init__(self, catalogue: Catalogue, listed: PriceList, *, clock: Clock) -> None:
        self._listed = listed
        self._clock = clock
        self._catalogue = catalogue
        self._work_out(clock.now())

    @property
    def catalogue(self) -> Catalogue:
        """
        Give the catalogue at the prices in force now.
        """
        now = self._clock.now()
        # A clock that was set back has left the time that the prices are known for, too.
        if now < self._since or (self._until is not None and now >= self._until):
            self._work_out(now)
        return self._catalogue

    def of_answer(self, offer: Offer, answered: str, *, moment: datetime) -> Offer:
        """
        Give an offer at the price of the model that answered, by the provider's own word.

        That price is what the provider charges by its list, so it counts wherever the list has
        one: for a dated version with a price of its own, for a deployment that holds another
        model. Where it has none, or says the same, the price that was agreed on stands: nobody
        pays by a guess. What was agreed on without a price stays without.

        Args:
            offer: What was asked for, at the price agreed on.
            answered: The model as the provider calls it; empty where it does not say.
            moment: When the attempt was authorized.
        """
        if offer.price is None or not answered or answered == offer.provider_model:
            return offer
        schedule = self._listed.schedule(offer.provider, answered)
        if schedule is None or schedule == offer.schedule:
            return offer
        price = schedule.at(moment)
        if offer.premium is not None:
            price = price.with_premium(offer.premium)
        if (price.base, price.tiers) == (offer.price.base, offer.price.tiers):
            return offer
        return dataclasses.replace(offer, price=price, schedule=schedule)

    def _work_out(self, now: datetime) -> None:
        self._catalogue = self._catalogue.at(now)
        self._since, self._until = now, self._catalogue.next_change(now)
