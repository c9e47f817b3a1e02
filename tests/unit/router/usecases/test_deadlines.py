# SPDX-License-Identifier: Apache-2.0
"""The caller's time is up while an answer comes: who hears what, and what is paid."""

from __future__ import annotations

import asyncio

import pytest

from services.router import errors
from services.router.domain.attempts import UsageBasis
from services.router.domain.request import Source, TextInput
from services.router.domain.text import Message, Role, TextDelta, TextPart, Usage, UsageReport
from services.router.usecases import money
from services.router.usecases.attempt import Delivered
from services.router.usecases.ports import Capture
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.routing import planned
from tests.support.stage import DEADLINE, END, Stage, chunk


class TestProviderThatBillsOn:
    @pytest.mark.requirement("R2", "R11", "L9")
    @pytest.mark.parametrize("begun", [True, False])
    async def test_the_caller_is_told_at_once_and_the_answer_settled_exactly(
        self, begun: bool
    ) -> None:
        """It reads PROVIDER_TIMEOUT, whether or not content came; the rest is read all the same."""
        pause = asyncio.Event()
        before = (chunk("Hello you"),) if begun else ()
        transport = FakeTransport(FakeAnswer(pieces=(*before, pause, chunk(" there"), END)))
        stage = Stage(transport, bills_after_disconnect=True)
        events = stage.run(Source.CREDITS)
        reading = asyncio.create_task(self._read(events))
        await stage.reached(lambda: bool(stage.transport.sent))
        stage.clock.advance(DEADLINE)
        with pytest.raises(errors.ProviderTimeoutError):
            await reading
        assert stage.ledger.settled == []
        pause.set()
        await stage.engine.work.drain(1)
        [(settlement, end)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert settlement.terms.basis is UsageBasis.EXACT
        assert settlement.terms.delivered
        assert end is not None
        assert not end.succeeded

    @pytest.mark.requirement("R2", "L9")
    async def test_what_it_counted_stands_where_it_breaks_afterwards(self) -> None:
        pause = asyncio.Event()
        stage = Stage(FakeTransport(FakeAnswer(pieces=(pause,))), bills_after_disconnect=True)
        reading = asyncio.create_task(self._read(stage.run(Source.CREDITS)))
        await stage.reached(lambda: bool(stage.transport.sent))
        stage.clock.advance(DEADLINE)
        with pytest.raises(errors.ProviderTimeoutError):
            await reading
        pause.set()
        await stage.engine.work.drain(1)
        [(settlement, _)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert not settlement.terms.delivered

    async def _read(self, events: object) -> None:
        async for _ in events:  # type: ignore[attr-defined]
            pass


class TestMeasure:
    """What is measured while an answer is under way."""

    WORK = TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),))

    def _measured(self, *events: TextDelta | UsageReport) -> money.Measured:
        delivered = Delivered()
        for event in events:
            delivered.count(event)
        return money.so_far(planned().shared[0], self.WORK, delivered)

    @pytest.mark.requirement("L9", "L3")
    def test_the_provider_s_own_count_wins_over_the_estimate(self) -> None:
        """Forty bytes would be ten tokens; its provider counted four."""
        counted = UsageReport(Usage(input_tokens=3, output_tokens=4))
        measured = self._measured(TextDelta("x" * 40), counted)
        assert measured.usage == Usage(input_tokens=3, output_tokens=4)
        assert measured.basis is UsageBasis.EXACT

    @pytest.mark.requirement("L9", "L3")
    def test_what_passed_since_its_count_is_estimated_on_top(self) -> None:
        counted = UsageReport(Usage(input_tokens=3, output_tokens=4, cached_input_tokens=1))
        measured = self._measured(TextDelta("x" * 40), counted, TextDelta("y" * 8))
        assert measured.usage == Usage(input_tokens=3, output_tokens=6, cached_input_tokens=1)
        assert measured.basis is UsageBasis.ESTIMATED

    @pytest.mark.requirement("L9", "L3")
    def test_without_a_count_all_is_estimated(self) -> None:
        measured = self._measured(TextDelta("x" * 40))
        assert measured.usage == Usage(input_tokens=1, output_tokens=10)
        assert measured.basis is UsageBasis.ESTIMATED
