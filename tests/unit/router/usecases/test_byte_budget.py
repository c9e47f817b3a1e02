# SPDX-License-Identifier: Apache-2.0
"""Bytes of media in flight: bounded, in order, and given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from services.router.usecases.byte_budget import ByteBudget
from services.shared.errors import OverloadedError

pytestmark = pytest.mark.requirement("R3")


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


class Holder:
    """Holds bytes until told to let go."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self.holding = False
        self.enough = asyncio.Event()
        self.task = asyncio.create_task(self._run(budget, size))

    async def _run(self, budget: ByteBudget, size: int) -> None:
        async with budget.hold(size):
            self.holding = True
            await self.enough.wait()
        self.holding = False


async def test_what_does_not_fit_waits_its_turn() -> None:
    """A small one does not overtake a large one that came before it."""
    budget = ByteBudget(10)
    first, large, small = Holder(budget, 6), Holder(budget, 9), Holder(budget, 1)
    await settle()
    assert [first.holding, large.holding, small.holding] == [True, False, False]
    first.enough.set()
    await settle()
    assert [large.holding, small.holding] == [True, True]
    for holder in (large, small):
        holder.enough.set()
        await holder.task


async def test_more_than_all_is_as_good_as_all() -> None:
    budget = ByteBudget(10)
    async with budget.hold(1_000):
        with pytest.raises(OverloadedError) as caught:
            async with budget.hold_now(1):
                pass
        assert caught.value.retry_after_seconds == 1.0
    async with budget.hold_now(10):
        pass


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    budget = ByteBudget(10)
    first, waiting, last = Holder(budget, 10), Holder(budget, 10), Holder(budget, 1)
    await settle()
    waiting.task.cancel()
    await settle()
    first.enough.set()
    await settle()
    assert last.holding
    last.enough.set()
    await last.task
    async with budget.hold_now(10):
        pass


async def test_a_turn_that_comes_with_the_cancellation_is_given_back() -> None:
    budget = ByteBudget(10)
    first, waiting = Holder(budget, 10), Holder(budget, 10)
    await settle()
    first.enough.set()
    await first.task
    waiting.task.cancel()
    await asyncio.gather(waiting.task, return_exceptions=True)
    async with budget.hold_now(10):
        pass
