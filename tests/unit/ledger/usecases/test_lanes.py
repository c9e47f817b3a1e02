# SPDX-License-Identifier: Apache-2.0
"""Lanes: what queues while a batch runs, order, bounds, deadlines, callers that go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.ledger.domain.accounts import bucket_of
from services.ledger.usecases.commands import RenewCommand
from services.ledger.usecases.lanes import LaneLimits, Lanes, Queued
from services.shared import boundary
from services.shared.boundary import Call
from services.shared.errors import DeadlineTooShortError, OverloadedError
from tests.support.clock import ManualClock


class Gate:
    """Runs batches, each only when the test lets it; answers with the request's id."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()

    async def run(self, batch: Sequence[Queued]) -> list[Any]:
        """Run a batch."""
        self.batches.append([queued.command.request_id for queued in batch])
        await self.open.wait()
        return [queued.command.request_id for queued in batch]


def renew(request_id: str, account_id: str = "demo") -> RenewCommand:
    """Return a command."""
    return RenewCommand(account_id, request_id, "claimant", 1, None)


async def settled() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def lanes(gate: Gate, **limits: Any) -> Lanes[Any]:
    """Return lanes on a gate."""
    return Lanes(gate.run, LaneLimits(**{"count": 1, **limits}))


@pytest.mark.requirement("L13")
class TestLanes:
    async def test_an_idle_lane_starts_at_once_and_the_next_batch_is_what_queued(self) -> None:
        gate = Gate()
        lane = lanes(gate)
        calls = [asyncio.ensure_future(lane.each([renew("first")]))]
        await settled()
        calls += [asyncio.ensure_future(lane.each([renew(str(number))])) for number in range(5)]
        await settled()
        assert gate.batches == [["first"]]
        gate.open.set()
        assert await asyncio.gather(*calls) == [["first"], ["0"], ["1"], ["2"], ["3"], ["4"]]
        assert gate.batches == [["first"], ["0", "1", "2", "3", "4"]]

    async def test_a_batch_has_a_bound_and_the_order_of_arrival(self) -> None:
        gate = Gate()
        gate.open.set()
        lane = lanes(gate, batch_max=3)
        names = [str(number) for number in range(7)]
        assert await lane.each([renew(name) for name in names]) == names
        assert gate.batches == [names[:3], names[3:6], names[6:]]

    async def test_a_full_queue_refuses_what_does_not_fit_with_a_time_to_wait(self) -> None:
        gate = Gate()
        lane = lanes(gate, queue_max=2)
        running = asyncio.ensure_future(lane.each([renew("running")]))
        await settled()
        waiting = asyncio.ensure_future(lane.each([renew("a"), renew("b"), renew("c")]))
        await settled()
        gate.open.set()
        first, second, refused = await waiting
        assert (first, second) == ("a", "b")
        assert isinstance(refused, OverloadedError)
        assert refused.retry_after_seconds
        assert await running == ["running"]
        assert ["c"] not in gate.batches

    async def test_what_nobody_waits_for_is_dropped_before_it_runs(self) -> None:
        gate = Gate()
        lane = lanes(gate)
        running = asyncio.ensure_future(lane.each([renew("running")]))
        await settled()
        gone = asyncio.ensure_future(lane.each([renew("gone")]))
        await settled()
        gone.cancel()
        gate.open.set()
        await running
        await settled()
        assert gate.batches == [["running"]]

    async def test_a_caller_that_goes_away_does_not_cut_its_batch(self) -> None:
        gate = Gate()
        lane = lanes(gate)
        gone = asyncio.ensure_future(lane.each([renew("gone")]))
        await settled()
        gone.cancel()
        stays = asyncio.ensure_future(lane.each([renew("stays")]))
        gate.open.set()
        assert await stays == ["stays"]
        assert gate.batches == [["gone"], ["stays"]]

    async def test_what_is_past_its_deadline_is_dropped_before_it_runs(self) -> None:
        gate, clock = Gate(), ManualClock()
        lane = lanes(gate)
        running = asyncio.ensure_future(lane.each([renew("running")]))
        await settled()

        async def call() -> list[Any]:
            boundary._current.set(Call("/rpc", "router", deadline=1.0, clock=clock))
            return await lane.each([renew("late")])

        late = asyncio.ensure_future(call())
        await settled()
        clock.advance(2.0)
        gate.open.set()
        (outcome,) = await late
        assert isinstance(outcome, DeadlineTooShortError)
        await running
        assert gate.batches == [["running"]]

    async def test_lanes_run_at_the_same_time_and_an_account_keeps_to_one(self) -> None:
        gate = Gate()
        lane = lanes(gate, count=2)
        even, odd = (
            next(n for n in map("account-{}".format, range(50)) if bucket_of(n) % 2 == rest)
            for rest in (0, 1)
        )
        calls = asyncio.ensure_future(
            lane.each([renew("1", even), renew("2", odd), renew("3", even)])
        )
        await settled()
        assert gate.batches == [["1", "3"], ["2"]]
        gate.open.set()
        assert await calls == ["1", "2", "3"]

    async def test_on_a_sharded_database_a_batch_keeps_to_one_bucket(self) -> None:
        gate = Gate()
        gate.open.set()
        lane = lanes(gate, one_bucket=True)
        outcomes = await lane.each([renew("1", "a"), renew("2", "b"), renew("3", "a")])
        assert outcomes == ["1", "2", "3"]
        assert gate.batches == [["1", "3"], ["2"]]


class Counts:
    """A LaneMeter that keeps its figures."""

    def __init__(self) -> None:
        self.commands: list[int] = []
        self.refused = 0
        self.depth: Callable[[], int] = lambda: -1

    def waiting(self, count: Callable[[], int]) -> None:
        self.depth = count

    def batch(self, commands: int, seconds: float) -> None:
        assert seconds >= 0
        self.commands.append(commands)

    def shed(self) -> None:
        self.refused += 1


@pytest.mark.requirement("O6")
async def test_what_waits_what_runs_and_what_is_refused_is_counted() -> None:
    gate, counts = Gate(), Counts()
    lane = Lanes(gate.run, LaneLimits(count=1, queue_max=2), meter=counts)
    running = asyncio.ensure_future(lane.each([renew("running")]))
    await settled()
    waiting = asyncio.ensure_future(lane.each([renew("a"), renew("b"), renew("c")]))
    await settled()
    assert counts.depth() == 2
    gate.open.set()
    await asyncio.gather(running, waiting)
    assert (counts.commands, counts.refused, counts.depth()) == ([1, 2], 1, 0)
