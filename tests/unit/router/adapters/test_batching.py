# SPDX-License-Identifier: Apache-2.0
"""Calls that wait are sent together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

import pytest

from services.router.adapters import batching
from services.router.adapters.batching import Batcher
from services.shared.errors import OverloadedError


class Sender:
    """Doubles numbers, one batch at a time, each when told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self._sent = asyncio.Event()

    async def sent(self, *, batches: int) -> None:
        """Wait until so many batches were sent."""
        async with asyncio.timeout(30):
            while len(self.batches) < batches:
                self._sent.clear()
                await self._sent.wait()

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        """Send a batch."""
        self.batches.append(list(items))
        self._sent.set()
        await self.open.wait()
        if 13 in items:
            raise ConnectionError
        return [item * 2 for item in items]


@pytest.mark.requirement("L3")
class TestBatcher:
    async def test_what_queued_while_the_last_batches_ran_goes_together(self) -> None:
        sender = Sender()
        batcher = Batcher(sender)
        tasks = [asyncio.create_task(batcher.submit(n)) for n in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        sender.open.set()
        assert await asyncio.gather(*tasks) == [n * 2 for n in range(10)]
        assert len(sender.batches) <= batching.BATCHES_IN_FLIGHT_MAX + 1
        assert sorted(chain.from_iterable(sender.batches)) == list(range(10))

    async def test_no_batch_is_larger_than_its_bound(self) -> None:
        sender = Sender()
        sender.open.set()
        batcher = Batcher(sender)
        await asyncio.gather(*(batcher.submit(n + 100) for n in range(1_000)))
        assert max(len(batch) for batch in sender.batches) <= batching.BATCH_ITEMS_MAX

    async def test_a_batch_that_fails_fails_each_of_its_items(self) -> None:
        sender = Sender()
        sender.open.set()
        batcher = Batcher(sender)
        results = await asyncio.gather(
            *(batcher.submit(n) for n in (13, 13)), return_exceptions=True
        )
        assert [type(result) for result in results] == [ConnectionError, ConnectionError]
        assert await batcher.submit(4) == 8

    async def test_an_item_that_comes_as_the_last_batches_end_is_sent(self) -> None:
        """All batches end in one step of the loop; what queues in the same step is not left."""
        sender = Sender()
        sender.open.set()
        batcher = Batcher(sender)
        first = [asyncio.create_task(batcher.submit(n)) for n in range(2)]
        await asyncio.sleep(0)  # Their sendings stand in the loop's queue,
        second = asyncio.create_task(batcher.submit(7))  # and this behind them.
        async with asyncio.timeout(5):
            await asyncio.gather(*first)
            assert await second == 14

    async def test_an_item_whose_caller_gave_up_is_not_sent(self) -> None:
        sender = Sender()
        batcher = Batcher(sender)
        running = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        waiting.cancel()
        sender.open.set()
        await asyncio.gather(*running)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert 3 not in chain.from_iterable(sender.batches)

    async def test_few_items_wait_for_the_batch_under_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batching, "BESIDE_SECONDS", 3600.0)
        sender = Sender()
        batcher = Batcher(sender)
        tasks = [asyncio.create_task(batcher.submit(1))]
        await sender.sent(batches=1)
        tasks += [asyncio.create_task(batcher.submit(n)) for n in (2, 3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sender.batches == [[1]]
        sender.open.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6]
        assert sender.batches == [[1], [2, 3]]

    async def test_many_items_go_out_beside_the_batch_under_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batching, "BESIDE_SECONDS", 3600.0)
        sender = Sender()
        batcher = Batcher(sender)
        tasks = [asyncio.create_task(batcher.submit(1))]
        await sender.sent(batches=1)
        many = range(100, 100 + batching.BESIDE_ITEMS_MIN)
        tasks += [asyncio.create_task(batcher.submit(n)) for n in many]
        await sender.sent(batches=2)
        assert sender.batches == [[1], list(many)]
        sender.open.set()
        await asyncio.gather(*tasks)

    async def test_an_item_goes_out_beside_a_batch_that_is_late(self) -> None:
        """It may be stuck at one replica, while another serves."""
        sender = Sender()
        batcher = Batcher(sender)
        tasks = [asyncio.create_task(batcher.submit(1))]
        await sender.sent(batches=1)
        tasks.append(asyncio.create_task(batcher.submit(2)))
        await sender.sent(batches=2)
        assert sender.batches == [[1], [2]]
        sender.open.set()
        assert await asyncio.gather(*tasks) == [2, 4]

    async def test_a_full_queue_is_overload(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batching, "QUEUE_ITEMS_MAX", 1)
        monkeypatch.setattr(batching, "BESIDE_SECONDS", 3600.0)
        sender = Sender()
        batcher = Batcher(sender)
        running = asyncio.create_task(batcher.submit(1))
        await sender.sent(batches=1)
        waiting = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.submit(3)
        sender.open.set()
        await asyncio.gather(waiting, running)
