# SPDX-License-Identifier: Apache-2.0
"""When and how attempts are settled, and how long an answer waits for that."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import pytest

from services.router import errors
from services.router.domain.attempts import UsageBasis
from services.router.domain.request import Source
from services.router.usecases import money
from services.router.usecases.engine import Ended, Event
from services.router.usecases.granted import DRAIN_SECONDS_MAX
from services.router.usecases.ports import Capture, Release
from services.router.usecases.settlement import ANSWER_WAITS_SECONDS_MAX
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.stage import END, SERVED, UNKNOWN_KEY, Stage, chunk

TURNS = 50
"""Steps of the event loop in which whatever can go on without time goes on."""
STEPS_MAX = 200
BROKEN = FakeAnswer(pieces=(b": the connection is cut\n\n",))
"""Cut before any content: it may have been billed."""
END_WITHOUT_USAGE = (
    b'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)

T = TypeVar("T")


async def turns() -> None:
    """Let everything run that needs no time."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def in_time(stage: Stage, task: asyncio.Task[T]) -> T:
    """Let time pass until a task is done."""
    for _ in range(STEPS_MAX):
        await turns()
        if task.done():
            return task.result()
        stage.clock.advance(0.5)
    raise AssertionError("it never ended")


class TestAnswer:
    """An answer waits for its settlement, but not for long."""

    @pytest.mark.requirement("L13", "R12")
    async def test_it_goes_out_pending_after_two_seconds_and_is_settled_all_the_same(self) -> None:
        stage = Stage(FakeTransport(SERVED))
        stage.ledger.gate = asyncio.Event()
        reading = asyncio.create_task(stage.events(Source.CREDITS))
        await stage.reached(lambda: stage.ledger.settling == 1)
        stage.clock.advance(ANSWER_WAITS_SECONDS_MAX - 0.01)
        await turns()
        assert not reading.done()
        stage.clock.advance(0.01)
        assert not ended(await reading).receipt.settled
        assert stage.ledger.settled == []
        stage.ledger.gate.set()
        await stage.engine.work.drain(1)
        [(settlement, end)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert end is not None
        assert end.succeeded

    @pytest.mark.requirement("L13", "R12")
    async def test_settled_in_time_it_says_what_was_charged(self) -> None:
        stage = Stage(FakeTransport(SERVED))
        stage.ledger.gate = asyncio.Event()
        reading = asyncio.create_task(stage.events(Source.CREDITS))
        await stage.reached(lambda: stage.ledger.settling == 1)
        stage.clock.advance(ANSWER_WAITS_SECONDS_MAX - 0.01)
        stage.ledger.gate.set()
        receipt = ended(await reading).receipt
        assert receipt.settled
        assert receipt.charged_nano_credits > 0

    @pytest.mark.requirement("L13", "L9")
    async def test_a_caller_that_leaves_while_it_is_settled_changes_nothing(self) -> None:
        stage = Stage(FakeTransport(SERVED))
        stage.ledger.gate = asyncio.Event()
        reading = asyncio.create_task(stage.events(Source.CREDITS))
        await stage.reached(lambda: stage.ledger.settling == 1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        stage.ledger.gate.set()
        await stage.engine.work.drain(1)
        [(settlement, end)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert settlement.terms.basis is UsageBasis.EXACT
        assert end is not None
        assert end.succeeded

    @pytest.mark.requirement("L13")
    async def test_without_a_reported_usage_the_stated_estimate_is_settled_and_said(self) -> None:
        """Nine bytes are three tokens, and two of the question one."""
        answer = FakeAnswer(pieces=(chunk("Hello you"), END_WITHOUT_USAGE))
        stage = Stage(FakeTransport(answer))
        receipt = ended(await stage.events(Source.CREDITS)).receipt
        [(settlement, _)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert settlement.terms.basis is UsageBasis.ESTIMATED
        assert (settlement.terms.usage.input_tokens, settlement.terms.usage.output_tokens) == (1, 3)
        assert receipt.attempts[-1].basis is UsageBasis.ESTIMATED
        assert money.ESTIMATE_NOTE in receipt.notes


class TestWithTheNext:
    """What an attempt came to is told inside the next Authorize, in one transaction with it."""

    @pytest.mark.requirement("L3", "L13")
    async def test_one_that_may_have_been_billed_is_captured_undelivered(self) -> None:
        stage = Stage(FakeTransport(BROKEN, SERVED))
        reading = asyncio.create_task(stage.events(Source.CREDITS))
        await in_time(stage, reading)
        first, second = stage.ledger.asks
        assert first.settlement is None
        assert second.settlement is not None
        assert second.settlement.sequence == first.sequence == 1
        terms = second.settlement.terms
        assert isinstance(terms, Capture)
        assert (terms.delivered, terms.basis) == (False, UsageBasis.ESTIMATED)
        # The last one is settled with the request's end; no other way is taken.
        assert [s.sequence for s, _ in stage.ledger.settled] == [2]

    @pytest.mark.requirement("L3", "L13")
    async def test_one_that_was_refused_is_released(self) -> None:
        stage = Stage(FakeTransport(UNKNOWN_KEY, SERVED))
        await in_time(stage, asyncio.create_task(stage.events()))
        _, second = stage.ledger.asks
        assert second.settlement is not None
        assert isinstance(second.settlement.terms, Release)
        assert second.settlement.terms.outcome == "invalid_key"
        assert [s.sequence for s, _ in stage.ledger.settled] == [2]

    @pytest.mark.requirement("L3", "L13")
    async def test_a_refused_ask_has_settled_what_it_carried(self) -> None:
        """The ledger takes the settlement whatever it decides, so the end carries no other."""
        stage = Stage(FakeTransport(UNKNOWN_KEY))
        stage.ledger.refuse = lambda ask: (
            errors.FallbackNotAllowedError("no consent") if ask.own is None else None
        )
        with pytest.raises(errors.KeyInvalidError):
            await in_time(stage, asyncio.create_task(stage.events()))
        carried = [ask.settlement for ask in stage.ledger.asks if ask.settlement is not None]
        assert [settlement.sequence for settlement in carried] == [1]
        for settlement, end in stage.ledger.settled:
            assert settlement == carried[0]
            assert end is not None
            assert not end.succeeded


class TestDrain:
    """A provider that bills on is read on without its caller, with a cap."""

    @pytest.mark.requirement("R2", "L9")
    async def test_past_the_cap_the_call_is_cancelled_and_settled_by_what_came(self) -> None:
        endless = FakeAnswer(pieces=(chunk("Hello you"), asyncio.Event()))
        stage = Stage(FakeTransport(endless), bills_after_disconnect=True)
        events = stage.run(Source.CREDITS)
        await anext(events)
        await anext(events)
        await events.aclose()
        stage.clock.advance(DRAIN_SECONDS_MAX - 0.01)
        await turns()
        assert stage.ledger.settling == 0
        stage.clock.advance(0.01)
        await stage.engine.work.drain(1)
        [(settlement, end)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert (settlement.terms.delivered, settlement.terms.basis) == (True, UsageBasis.ESTIMATED)
        assert end is not None
        assert not end.succeeded

    @pytest.mark.requirement("R2", "L9")
    async def test_what_ends_before_the_cap_is_settled_then_and_once(self) -> None:
        pause = asyncio.Event()
        answer = FakeAnswer(pieces=(chunk("Hello you"), pause, END))
        stage = Stage(FakeTransport(answer), bills_after_disconnect=True)
        events = stage.run(Source.CREDITS)
        await anext(events)
        await anext(events)
        await events.aclose()
        pause.set()
        await stage.engine.work.drain(1)
        stage.clock.advance(DRAIN_SECONDS_MAX)
        await turns()
        [(settlement, _)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert settlement.terms.basis is UsageBasis.EXACT


def ended(events: list[Event]) -> Ended:
    """Give the end of a request that was served."""
    last = events[-1]
    assert isinstance(last, Ended)
    return last
