# SPDX-License-Identifier: Apache-2.0
"""The prices in force, also while requests run."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, date, datetime, time

import pytest

from services.router.domain.catalogue import Catalogue, Offer
from services.router.domain.price_schedule import Daily, FromDay, PriceSchedule
from services.router.domain.prices import Premium, Price, cost_nano_usd
from services.router.domain.request import Source
from services.router.domain.text import Usage
from services.router.usecases.engine import Ended
from services.router.usecases.ports import Ask, Capture
from services.router.usecases.price_book import PriceBook
from tests.support.clock import ManualClock
from tests.support.engine import FakePriceList, FakeTransport
from tests.support.routing import price
from tests.support.stage import DOWN, MODEL, SERVED, Stage, openai_catalogue

LOW, HIGH = price(1_000_000, "low"), price(3_000_000, "high")
HOUR = 3_600
FROM_ONE = PriceSchedule(LOW, ((Daily(time(1, tzinfo=UTC), time(4, tzinfo=UTC)), HIGH),))
MOMENT = datetime(2026, 11, 20, tzinfo=UTC)
USED = Usage(input_tokens=5, output_tokens=2)
REGIONAL = Premium(10, "example.com/pricing", "2026-11-21")


def changing() -> Catalogue:
    """Give a catalogue whose one price changes at one o'clock."""
    base = openai_catalogue()
    offer = Offer("openai", MODEL, "gpt-4o-mini", None, FROM_ONE)
    return dataclasses.replace(
        base, models={MODEL: dataclasses.replace(base.models[MODEL], offers=(offer,))}
    )


def in_force(book: PriceBook) -> Price | None:
    """Give the one price."""
    return book.catalogue.offers(MODEL)[0].price


class TestInForce:
    @pytest.mark.requirement("R5", "R6")
    def test_the_catalogue_follows_the_clock_both_ways(self) -> None:
        clock = ManualClock()
        book = PriceBook(changing(), FakePriceList(), clock=clock)
        assert in_force(book) is LOW
        clock.advance(HOUR)
        assert in_force(book) is HIGH
        clock.advance(3 * HOUR)
        assert in_force(book) is LOW
        clock.advance(-2 * HOUR)
        assert in_force(book) is HIGH

    @pytest.mark.requirement("R5")
    def test_between_two_changes_it_is_the_very_same_catalogue(self) -> None:
        clock = ManualClock()
        book = PriceBook(changing(), FakePriceList(), clock=clock)
        first = book.catalogue
        clock.advance(HOUR - 1)
        assert book.catalogue is first

    @pytest.mark.requirement("L3", "R12")
    async def test_an_attempt_is_authorized_and_settled_at_the_price_of_its_moment(self) -> None:
        """The price rises between two attempts of one request."""
        stage = Stage(FakeTransport(DOWN, SERVED))
        prices = PriceBook(changing(), FakePriceList(), clock=stage.clock)
        stage.engine = dataclasses.replace(stage.engine, prices=prices)

        def rise(_: Ask) -> None:
            if len(stage.ledger.asks) == 1:
                stage.clock.advance(HOUR)

        stage.ledger.refuse = rise
        reading = asyncio.create_task(stage.events(Source.CREDITS, deadline=2.0 * HOUR))
        # The same key again, after a pause of its own.
        await stage.reached(lambda: stage.clock.sleepers == 1)
        stage.clock.advance(1.0)
        events = await reading
        asked = [ask.credits for ask in stage.ledger.asks]
        assert [terms and terms.price.price_id for terms in asked] == ["low", "high"]
        first, second = (terms.worst_case_nano_usd if terms else 0 for terms in asked)
        assert second == 3 * first
        assert isinstance(events[-1], Ended)
        receipt = events[-1].receipt
        assert receipt.price is not None
        assert receipt.price.price_id == "high"
        assert receipt.served.cost_nano_usd == cost_nano_usd(HIGH, USED)


class TestOfAnswers:
    @pytest.mark.requirement("R6", "R12", "L13")
    @pytest.mark.parametrize(("listed", "paid"), [(HIGH, "high"), (None, "low")])
    async def test_the_model_that_answered_is_what_is_paid(
        self, listed: Price | None, paid: str
    ) -> None:
        """By its own price where the list has one, else by the price that was agreed on."""
        stage = Stage(FakeTransport(SERVED))
        found = FakePriceList({("openai", "m"): PriceSchedule(listed)} if listed else None)
        prices = PriceBook(changing(), found, clock=stage.clock)
        stage.engine = dataclasses.replace(stage.engine, prices=prices)
        events = await stage.events(Source.CREDITS)
        assert isinstance(events[-1], Ended)
        receipt = events[-1].receipt
        assert receipt.price is not None
        assert receipt.price.price_id == paid
        [(settlement, _)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        expected = cost_nano_usd(listed or LOW, USED)
        assert settlement.terms.vendor_cost_nano_usd == expected
        told = [note for note in receipt.notes if "answered with m" in note]
        assert len(told) == (listed is not None)

    @pytest.mark.requirement("R6")
    @pytest.mark.parametrize(
        ("offer", "answered", "paid"),
        [
            (Offer("openai", MODEL, "asked", LOW, PriceSchedule(LOW)), "", "low"),
            (Offer("openai", MODEL, "asked", LOW, PriceSchedule(LOW)), "asked", "low"),
            (Offer("openai", MODEL, "asked", LOW, PriceSchedule(LOW)), "unlisted", "low"),
            (Offer("openai", MODEL, "asked", LOW, PriceSchedule(LOW)), "alias", "low"),
            (Offer("openai", MODEL, "asked", LOW, PriceSchedule(LOW)), "same", "low"),
            (Offer("openai", MODEL, "asked", LOW, PriceSchedule(LOW)), "dearer", "later"),
            (Offer("openai", MODEL, "asked", None), "dearer", None),
        ],
        ids=["unsaid", "asked", "unlisted", "one row", "same rates", "own price", "unpriced"],
    )
    def test_nobody_pays_by_a_guess(self, offer: Offer, answered: str, paid: str | None) -> None:
        later = (FromDay(date(2026, 11, 1)), price(9, "later"))
        listed = {
            ("openai", "alias"): PriceSchedule(LOW),
            ("openai", "same"): PriceSchedule(dataclasses.replace(LOW, price_id="other")),
            ("openai", "dearer"): PriceSchedule(HIGH, (later,)),
        }
        book = PriceBook(changing(), FakePriceList(listed), clock=ManualClock())
        found = book.of_answer(offer, answered, moment=MOMENT).price
        assert (found.price_id if found else None) == paid

    @pytest.mark.requirement("R6")
    def test_a_regional_premium_is_on_the_answering_models_price_too(self) -> None:
        agreed = Offer("google-vertex", MODEL, "asked", LOW, PriceSchedule(LOW), REGIONAL)
        listed = {("google-vertex", "dearer"): PriceSchedule(HIGH)}
        book = PriceBook(changing(), FakePriceList(listed), clock=ManualClock())
        found = book.of_answer(agreed.in_region("europe-west1"), "dearer", moment=MOMENT).price
        assert found is not None
        assert found.base.input == 3_300_000
