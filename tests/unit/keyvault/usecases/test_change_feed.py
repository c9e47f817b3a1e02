# SPDX-License-Identifier: Apache-2.0
"""One read of the change feed for all who ask."""

from __future__ import annotations

import asyncio

import pytest

from services.keyvault.usecases.change_feed import TAIL_MAX, ChangeFeed
from services.keyvault.usecases.ports import FeedPage, FeedPosition


class Feed:
    """A feed in memory that counts its reads and can be held up."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, str]] = []
        self.head = 0
        self.lineage = "cluster-1"
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def append(self, *accounts: str) -> None:
        for account in accounts:
            self.head += 1
            self.changes.append((self.head, account))

    async def read_feed(self, after: int, limit: int) -> FeedPage:
        self.reads += 1
        floor = max(after, self.head - limit)
        page = FeedPage(
            FeedPosition(self.lineage, self.head),
            floor,
            [change for change in self.changes if change[0] > floor],
        )
        await self.gate.wait()
        return page


@pytest.fixture
def source() -> Feed:
    return Feed()


@pytest.fixture
def feed(source: Feed) -> ChangeFeed:
    return ChangeFeed(source)  # type: ignore[arg-type]  # only reads of the feed are used


@pytest.mark.requirement("K15")
class TestChangeFeed:
    async def test_it_begins_at_the_present_and_then_tells_each_account_once(
        self, source: Feed, feed: ChangeFeed
    ) -> None:
        source.append("old")
        start = await feed.changes_since(None)
        source.append("a", "b", "a")
        changes = await feed.changes_since(start.position)

        assert start.accounts == ()
        assert sorted(changes.accounts) == ["a", "b"]
        assert changes.position.sequence == 4
        assert not changes.resync
        assert (await feed.changes_since(changes.position)).accounts == ()

    async def test_an_answer_comes_from_a_read_begun_after_the_question(
        self, source: Feed, feed: ChangeFeed
    ) -> None:
        start = (await feed.changes_since(None)).position
        source.gate.clear()
        early = asyncio.create_task(feed.changes_since(start))
        while source.reads < 2:
            await asyncio.sleep(0)
        source.append("late")
        late = [asyncio.create_task(feed.changes_since(start)) for _ in range(5)]
        await asyncio.sleep(0)
        source.gate.set()

        await early
        assert [(await task).accounts for task in late] == [("late",)] * 5
        assert source.reads == 3

    async def test_a_cursor_within_the_tail_goes_on_after_a_restart(
        self, source: Feed, feed: ChangeFeed
    ) -> None:
        source.append("a", "b", "c")

        changes = await feed.changes_since(FeedPosition("cluster-1", 1))

        assert sorted(changes.accounts) == ["b", "c"]

    @pytest.mark.parametrize(
        "cursor", [FeedPosition("cluster-2", 1), FeedPosition("cluster-1", 99)]
    )
    async def test_another_lineage_or_a_place_ahead_means_forget_all(
        self, source: Feed, feed: ChangeFeed, cursor: FeedPosition
    ) -> None:
        source.append("a")

        assert (await feed.changes_since(cursor)).resync

    async def test_a_change_of_lineage_in_mid_run_means_forget_all(
        self, source: Feed, feed: ChangeFeed
    ) -> None:
        source.append("a", "b")
        start = (await feed.changes_since(None)).position
        source.lineage, source.head, source.changes = "cluster-1-2", 1, [(1, "a")]
        changed = await feed.changes_since(start)

        assert changed.resync
        assert not (await feed.changes_since(changed.position)).resync
        source.append("c")
        assert (await feed.changes_since(changed.position)).accounts == ("c",)

    async def test_too_many_changes_mean_forget_all(self, source: Feed, feed: ChangeFeed) -> None:
        start = (await feed.changes_since(None)).position
        source.append(*(f"a{number}" for number in range(TAIL_MAX)))
        whole = await feed.changes_since(start)
        assert len(whole.accounts) == TAIL_MAX

        source.append("one-more")
        assert (await feed.changes_since(start)).resync
        source.append(*(f"b{number}" for number in range(TAIL_MAX + 1)))
        assert (await feed.changes_since(whole.position)).resync

    async def test_one_who_goes_away_leaves_the_others_their_read(
        self, source: Feed, feed: ChangeFeed
    ) -> None:
        source.gate.clear()
        gone = asyncio.create_task(feed.changes_since(None))
        stays = asyncio.create_task(feed.changes_since(None))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        source.gate.set()

        assert not (await stays).resync
