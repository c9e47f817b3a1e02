# SPDX-License-Identifier: Apache-2.0
"""The cache of unwrapped data keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from services.keyvault.domain.envelope import WrappedKey
from services.keyvault.errors import KekCause, KekUnavailableError
from services.keyvault.usecases.data_keys import (
    BATCH_MAX,
    BATCHES_IN_FLIGHT_MAX,
    REFRESH_INTERVAL_SECONDS,
    DataKeys,
    Unwrapped,
)
from services.shared.secret import Secret
from tests.support.clock import ManualClock

CONTEXT = b"context"


class CountingKek:
    """Unwraps by reversing; counts calls, and can be held up or taken away."""

    name = "counting"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False
        self.refuses = False

    async def unwrap_many(self, items: Sequence[tuple[WrappedKey, bytes]]) -> list[Secret | None]:
        self.batches.append(len(items))
        await self.gate.wait()
        if self.away:
            raise KekUnavailableError(KekCause.UNREACHABLE)
        return [
            None if self.refuses or context != CONTEXT else Secret(wrapped.wrapped[::-1])
            for wrapped, context in items
        ]


def wrapped(number: int) -> tuple[WrappedKey, bytes]:
    return WrappedKey("counting", 1, f"{number:08}".encode()), CONTEXT


def plain(secrets: Sequence[Unwrapped]) -> list[bytes | None]:
    return [item.reveal_bytes() if isinstance(item, Secret) else None for item in secrets]


def away(results: Sequence[Unwrapped]) -> bool:
    return all(isinstance(item, KekUnavailableError) for item in results)


@pytest.fixture
def kek() -> CountingKek:
    return CountingKek()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def cache(kek: CountingKek, clock: ManualClock, **bounds: int) -> DataKeys:
    settings = {"age_seconds_max": 300, "grace_seconds": 0, "count_max": 1000, **bounds}
    return DataKeys(kek, clock=clock, **settings)  # type: ignore[arg-type]


@pytest.mark.requirement("K9")
class TestDataKeys:
    async def test_a_burst_on_one_cold_key_is_one_unwrap(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock)
        answers = await asyncio.gather(*(keys.unwrap_each([wrapped(1)]) for _ in range(10_000)))

        assert kek.batches == [1]
        assert {plain(answer)[0] for answer in answers} == {b"10000000"}

    async def test_many_cold_keys_become_few_batches(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock)
        kek.gate.clear()
        calls = [asyncio.create_task(keys.unwrap_each([wrapped(n)])) for n in range(1000)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(kek.batches) <= BATCHES_IN_FLIGHT_MAX
        kek.gate.set()
        answers = await asyncio.gather(*calls)

        assert sum(kek.batches) == 1000
        assert max(kek.batches) <= BATCH_MAX
        assert len(kek.batches) <= 8
        assert [plain(answer)[0] for answer in answers] == [
            f"{number:08}"[::-1].encode() for number in range(1000)
        ]

    async def test_a_key_asked_for_as_the_last_workers_end_gets_one(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        """All workers end in one step of the loop; what queues in the same step is not left."""
        keys = cache(kek, clock)
        several = [wrapped(number) for number in range(BATCHES_IN_FLIGHT_MAX)]
        first = asyncio.create_task(keys.unwrap_each(several))
        await asyncio.sleep(0)  # The workers stand in the loop's queue,
        second = asyncio.create_task(keys.unwrap_each([wrapped(99)]))  # and this behind them.

        async with asyncio.timeout(5):
            await first
            assert plain(await second) == [b"99000000"]

    async def test_a_warm_key_needs_no_unwrap_until_it_is_too_old(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock)
        await keys.unwrap_each([wrapped(1)])
        clock.advance(299.9)
        await keys.unwrap_each([wrapped(1)])
        assert kek.batches == [1]

        clock.advance(0.1)
        await keys.unwrap_each([wrapped(1)])
        assert kek.batches == [1, 1]

    async def test_the_oldest_used_gives_way(self, kek: CountingKek, clock: ManualClock) -> None:
        keys = cache(kek, clock, count_max=2)
        for number in (1, 2, 1, 3):
            await keys.unwrap_each([wrapped(number)])
        kek.batches.clear()

        await keys.unwrap_each([wrapped(1), wrapped(3)])
        assert kek.batches == []
        await keys.unwrap_each([wrapped(2)])
        assert kek.batches == [1]

    async def test_without_the_kek_warm_keys_open_and_cold_ones_do_not(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock)
        await keys.unwrap_each([wrapped(1)])
        kek.away = True

        assert plain(await keys.unwrap_each([wrapped(1)])) == [b"10000000"]
        assert away(await keys.unwrap_each([wrapped(2)]))
        clock.advance(300)
        assert away(await keys.unwrap_each([wrapped(1)]))

        kek.away = False
        assert plain(await keys.unwrap_each([wrapped(2)])) == [b"20000000"]

    async def test_a_refused_key_is_not_kept(self, kek: CountingKek, clock: ManualClock) -> None:
        keys = cache(kek, clock)
        key, _ = wrapped(1)

        assert await keys.unwrap_each([(key, b"another")]) == [None]
        assert await keys.unwrap_each([(key, b"another")]) == [None]
        assert kek.batches == [1, 1]

    async def test_a_caller_that_goes_away_leaves_the_others_theirs(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock)
        kek.gate.clear()
        gone = asyncio.create_task(keys.unwrap_each([wrapped(1)]))
        stays = asyncio.create_task(keys.unwrap_each([wrapped(1)]))
        await asyncio.sleep(0)
        gone.cancel()
        kek.gate.set()

        assert plain(await stays) == [b"10000000"]
        assert kek.batches == [1]

    async def test_a_cold_key_that_cannot_be_opened_keeps_no_warm_one_shut(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock)
        await keys.unwrap_each([wrapped(1)])
        kek.away = True
        warm, cold = await keys.unwrap_each([wrapped(1), wrapped(2)])

        assert plain([warm]) == [b"10000000"]
        assert away([cold])


async def settle() -> None:
    """Let work that is under way end."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.requirement("K9")
class TestGrace:
    async def test_a_key_in_use_is_refreshed_behind_the_answers_once(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock, grace_seconds=30)
        await keys.unwrap_each([wrapped(1)])
        clock.advance(269.9)
        await keys.unwrap_each([wrapped(1)])
        assert kek.batches == [1]

        clock.advance(0.1)
        kek.gate.clear()
        answers = await asyncio.gather(*(keys.unwrap_each([wrapped(1)]) for _ in range(1000)))
        assert {plain(answer)[0] for answer in answers} == {b"10000000"}
        kek.gate.set()
        await settle()
        assert kek.batches == [1, 1]
        clock.advance(269)
        await keys.unwrap_each([wrapped(1)])
        assert kek.batches == [1, 1]

    async def test_without_the_kek_it_tries_once_an_interval_and_ends_at_the_hard_age(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock, grace_seconds=30)
        await keys.unwrap_each([wrapped(1)])
        kek.away = True
        clock.advance(270)
        for _ in range(29):
            for _ in range(100):
                assert plain(await keys.unwrap_each([wrapped(1)])) == [b"10000000"]
            await settle()
            clock.advance(REFRESH_INTERVAL_SECONDS)
        assert len(kek.batches) == 1 + 29

        clock.advance(1)
        assert away(await keys.unwrap_each([wrapped(1)]))

    async def test_a_refresh_that_is_refused_ends_the_entry(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock, grace_seconds=30)
        await keys.unwrap_each([wrapped(1)])
        clock.advance(270)
        kek.refuses = True
        await keys.unwrap_each([wrapped(1)])
        await settle()

        assert await keys.unwrap_each([wrapped(1)]) == [None]

    async def test_refreshes_wait_while_cold_keys_do(
        self, kek: CountingKek, clock: ManualClock
    ) -> None:
        keys = cache(kek, clock, grace_seconds=30, count_max=5000)
        await keys.unwrap_each([wrapped(number) for number in range(1000)])
        clock.advance(270)
        kek.batches.clear()
        kek.gate.clear()
        calls = [asyncio.create_task(keys.unwrap_each([wrapped(n)])) for n in range(1000, 3000)]
        await settle()
        await keys.unwrap_each([wrapped(number) for number in range(1000)])
        kek.gate.set()
        await asyncio.gather(*calls)
        await settle()

        assert sum(kek.batches) == 2000


class Counts:
    """A CacheMeter that keeps its figures."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.entries: Callable[[], int] = lambda: -1

    def begin(self, entries: Callable[[], int], *, age_seconds_max: float) -> None:
        self.entries = entries
        self.told["age"] = int(age_seconds_max)

    def hit(self) -> None:
        self.told["hit"] += 1

    def miss(self) -> None:
        self.told["miss"] += 1

    def refresh(self) -> None:
        self.told["refresh"] += 1

    def unwrapped(self) -> None:
        self.told["unwrapped"] += 1

    def failed(self, cause: KekCause) -> None:
        self.told[cause.value] += 1


@pytest.mark.requirement("O6")
async def test_hits_misses_refreshes_and_failures_are_counted(
    kek: CountingKek, clock: ManualClock
) -> None:
    counts = Counts()
    keys = DataKeys(
        kek, clock=clock, age_seconds_max=300, grace_seconds=30, count_max=1000, meter=counts
    )
    await keys.unwrap_each([wrapped(1), wrapped(2)])
    await keys.unwrap_each([wrapped(1)])
    assert counts.told == {"age": 300, "miss": 2, "unwrapped": 1, "hit": 1}
    assert counts.entries() == 2
    clock.advance(280)
    await keys.unwrap_each([wrapped(1)])
    await asyncio.gather(*keys._workers)
    assert counts.told["refresh"] == 1
    assert counts.told["unwrapped"] == 2
    kek.away = True
    await keys.unwrap_each([wrapped(3)])
    assert counts.told["UNREACHABLE"] == 1
