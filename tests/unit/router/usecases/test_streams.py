# SPDX-License-Identifier: Apache-2.0
"""A stream from a provider to a caller: times, bounds, and exactly one end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.router import errors
from services.router.domain.attempts import AttemptBilled
from services.router.domain.catalogue import Timeouts
from services.router.domain.request import Source
from services.router.domain.text import TextDelta
from services.router.usecases.engine import Ended, Started
from services.router.usecases.outbox import BACKLOG_BYTES_MAX, Outbox
from services.router.usecases.ports import PLATFORM, Capture
from services.router.usecases.price_book import PriceBook
from tests.support.engine import FakeAnswer, FakePriceList, FakeTransport
from tests.support.routing import account_keys, own_key
from tests.support.stage import END, SERVED, Stage, chunk

PIECE_BYTES = 1024


def stage_with(timeouts: Timeouts, *answers: FakeAnswer) -> Stage:
    """Give a stage on which OpenAI has other timeouts, and two shared keys."""
    stage = Stage(FakeTransport(*answers))
    shared = [own_key("openai", name, account="platform") for name in ("one", "two")]
    stage.keys.accounts[PLATFORM] = account_keys(*shared, account="platform")
    caller: Any = stage.engine.caller
    stage.engine = dataclasses.replace(
        stage.engine, caller=dataclasses.replace(caller, timeouts={"openai": timeouts})
    )
    return stage


class Pieces:
    """An endless answer, of which is counted how much was read."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - as an answer without headers has it

    def __init__(self) -> None:
        self.read_count = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give pieces as long as they are taken."""
        while True:
            self.read_count += 1
            yield chunk("x" * PIECE_BYTES)
            await asyncio.sleep(0)


class TestTimeouts:
    """Each provider has its own; here they are a few hundredths of a second."""

    @pytest.mark.requirement("R11")
    async def test_without_content_in_time_the_next_candidate_serves(self) -> None:
        """A head and start-up events are no content."""
        silent = FakeAnswer(pieces=(b": keep-alive\n\n", asyncio.Event()))
        stage = stage_with(Timeouts(first_content_seconds=0.02), silent, SERVED)
        events = await stage.events(Source.CREDITS)
        assert isinstance(events[-1], Ended)
        assert len(set(stage.bearers)) == 2
        assert [a.outcome for a in events[-1].receipt.attempts] == ["timeout", "ok"]

    @pytest.mark.requirement("R11")
    async def test_it_names_a_faster_model_of_the_catalogue(self) -> None:
        silent = FakeAnswer(pieces=(asyncio.Event(),))
        stage = stage_with(Timeouts(first_content_seconds=0.02), silent)
        slow = dataclasses.replace(stage.engine.catalogue.models["openai/gpt-4o-mini"], fast=False)
        quick = dataclasses.replace(slow, id="openai/quick", fast=True)
        models = {model.id: model for model in (slow, quick)}
        catalogue = dataclasses.replace(stage.engine.catalogue, models=models)
        prices = PriceBook(catalogue, FakePriceList(), clock=stage.engine.clock)
        stage.engine = dataclasses.replace(stage.engine, prices=prices)
        with pytest.raises(errors.ProviderTimeoutError) as caught:
            await stage.events(Source.CREDITS)
        assert "try a faster model: openai/quick" in caught.value.message
        assert caught.value.metadata["faster_model"] == "openai/quick"

    @pytest.mark.requirement("R11", "L9")
    async def test_an_answer_that_does_not_end_in_time_is_paid_for_what_came(self) -> None:
        """Content in time lifts the first bound; the second holds for the whole answer."""
        endless = FakeAnswer(pieces=(chunk("Hello you"), asyncio.Event()))
        timeouts = Timeouts(first_content_seconds=0.05, answer_seconds=0.1)
        stage = stage_with(timeouts, endless)
        with pytest.raises(errors.ProviderTimeoutError) as caught:
            await stage.events(Source.CREDITS)
        assert [a.billed for a in caught.value.attempts] == [AttemptBilled.MAYBE]
        [(settlement, _)] = stage.ledger.settled
        assert isinstance(settlement.terms, Capture)
        assert settlement.terms.delivered

    @pytest.mark.requirement("R11")
    async def test_content_in_time_is_not_hurried_by_the_first_bound(self) -> None:
        pause = asyncio.Event()
        slow = FakeAnswer(pieces=(chunk("Hello"), pause, END))
        stage = stage_with(Timeouts(first_content_seconds=0.02), slow)
        asyncio.get_running_loop().call_later(0.06, pause.set)
        assert isinstance((await stage.events())[-1], Ended)


class TestBackpressure:
    @pytest.mark.requirement("R2")
    async def test_a_slow_caller_bounds_what_is_read_ahead(self) -> None:
        """Past the backlog the provider is not read any more."""
        pieces: Any = Pieces()
        stage = Stage(FakeTransport(pieces))
        events = stage.run()
        assert isinstance(await anext(events), Started)
        for _ in range(2 * BACKLOG_BYTES_MAX // PIECE_BYTES):
            await asyncio.sleep(0)
        ahead = pieces.read_count
        assert ahead <= BACKLOG_BYTES_MAX // PIECE_BYTES + 2
        taken = await anext(events)
        assert isinstance(taken, TextDelta)
        await stage.reached(lambda: pieces.read_count > ahead)
        await events.aclose()
        await stage.engine.work.drain(1)

    @pytest.mark.requirement("R2")
    async def test_what_waits_is_merged_and_counted_in_bytes(self) -> None:
        outbox: Outbox[TextDelta] = Outbox()
        put = 0
        async with asyncio.timeout(1):
            while put * PIECE_BYTES < BACKLOG_BYTES_MAX:
                await outbox.put(TextDelta("x" * PIECE_BYTES))
                put += 1
        waiting = asyncio.create_task(outbox.put(TextDelta("x")))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert len((await anext(aiter(outbox))).text) == put * PIECE_BYTES
        await waiting

    @pytest.mark.requirement("R2")
    async def test_after_its_end_nothing_waits_and_nothing_is_added(self) -> None:
        outbox: Outbox[TextDelta] = Outbox()
        await outbox.put(TextDelta("x" * BACKLOG_BYTES_MAX))
        waiting = asyncio.create_task(outbox.put(TextDelta("late")))
        await asyncio.sleep(0)
        outbox.close(errors.ProviderTimeoutError("first"))
        outbox.close(errors.RequestAbandonedError("second"))
        await waiting
        reading = aiter(outbox)
        assert len((await anext(reading)).text) == BACKLOG_BYTES_MAX
        with pytest.raises(errors.ProviderTimeoutError):
            await anext(reading)

    @pytest.mark.requirement("R1")
    async def test_a_reader_of_the_whole_wakes_at_the_end(self) -> None:
        outbox: Outbox[TextDelta] = Outbox(whole=True)
        reading = asyncio.create_task(anext(aiter(outbox)))
        await asyncio.sleep(0)
        await outbox.put(TextDelta("all "))
        await outbox.put(TextDelta("of it"))
        await asyncio.sleep(0)
        assert not reading.done()
        outbox.close()
        assert (await reading).text == "all of it"

    @pytest.mark.requirement("R1")
    async def test_a_whole_larger_than_the_backlog_is_read_all_the_same(self) -> None:
        outbox: Outbox[TextDelta] = Outbox(whole=True)
        read: list[str] = []

        async def reader() -> None:
            read.extend([event.text async for event in outbox])

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(reader())
            await asyncio.sleep(0)
            for _ in range(3):
                await outbox.put(TextDelta("x" * BACKLOG_BYTES_MAX))
            outbox.close()
        assert len("".join(read)) == 3 * BACKLOG_BYTES_MAX


class TestBeforeTheFirstContent:
    START = b'data: {"model":"m","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'

    @pytest.mark.requirement("R2")
    async def test_start_up_events_hold_nothing_back_however_many(self) -> None:
        """They tell nothing that a caller would hear, so none is kept."""
        pause = asyncio.Event()
        stage = Stage(FakeTransport(FakeAnswer(pieces=(self.START * 10_000, pause, END))))
        first = asyncio.create_task(anext(events := stage.run()))
        await stage.reached(lambda: bool(stage.transport.sent))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not first.done()
        pause.set()
        assert isinstance(await first, Started)
        await events.aclose()
        await stage.engine.work.drain(1)

    @pytest.mark.requirement("R2", "R9")
    async def test_an_error_after_start_up_events_moves_on(self) -> None:
        """Status 200, a first event, then out of money: the next key serves, the only start."""
        quota = {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}
        failing = FakeAnswer(pieces=(self.START, b"data: " + json.dumps(quota).encode() + b"\n\n"))
        stage = stage_with(Timeouts(), failing, SERVED)
        events = await stage.events(Source.CREDITS)
        assert [type(event) for event in events] == [Started, TextDelta, Ended]
        assert [a.outcome for a in events[-1].receipt.attempts] == ["insufficient_credit", "ok"]
