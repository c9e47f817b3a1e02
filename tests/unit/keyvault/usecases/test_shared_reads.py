# SPDX-License-Identifier: Apache-2.0
"""Calls that come at the same time share a read that began after them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.keyvault.domain.keys import Settings
from services.keyvault.usecases.ports import AccountSnapshot, FeedPosition, Snapshot
from services.keyvault.usecases.shared_reads import ACCOUNTS_MAX, SharedReads
from services.shared.errors import StoreUnavailableError

pytestmark = pytest.mark.requirement("K15")


class Store:
    """Reads as the gate opens; remembers what each read was of."""

    def __init__(self) -> None:
        self.reads: list[Sequence[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def snapshot(self, accounts: Sequence[str], *, secrets: bool) -> Snapshot:
        assert secrets
        self.reads.append(accounts)
        number = len(self.reads)
        await self.gate.wait()
        if self.away:
            raise StoreUnavailableError("away")
        found = [AccountSnapshot(Settings(name), [], {}, {}) for name in accounts]
        return Snapshot(found, FeedPosition("lineage", number))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def reads(store: Store) -> SharedReads:
    return SharedReads(store)  # type: ignore[arg-type]


def names(snapshot: Snapshot) -> list[str]:
    return [found.settings.account for found in snapshot.accounts]


async def test_a_burst_is_one_read_and_each_gets_its_own(store: Store, reads: SharedReads) -> None:
    asked = [["a", "b"], ["b"], ["c", "a"]]
    answers = await asyncio.gather(*(reads.snapshot(accounts) for accounts in asked))

    assert [names(answer) for answer in answers] == asked
    assert store.reads == [["a", "b", "c"]]


async def test_what_comes_while_a_read_runs_is_answered_by_the_next(
    store: Store, reads: SharedReads
) -> None:
    store.gate.clear()
    first = asyncio.create_task(reads.snapshot(["a"]))
    while not store.reads:
        await asyncio.sleep(0)
    second = asyncio.create_task(reads.snapshot(["a"]))
    store.gate.set()

    assert ((await first).position.sequence, (await second).position.sequence) == (1, 2)


async def test_a_read_is_bounded(store: Store, reads: SharedReads) -> None:
    calls = [reads.snapshot([f"a{number}"]) for number in range(ACCOUNTS_MAX + 1)]
    await asyncio.gather(*calls)

    assert [len(accounts) for accounts in store.reads] == [ACCOUNTS_MAX, 1]


async def test_a_fault_is_for_those_who_waited_and_for_nobody_after(
    store: Store, reads: SharedReads
) -> None:
    store.away = True
    for result in await asyncio.gather(
        reads.snapshot(["a"]), reads.snapshot(["b"]), return_exceptions=True
    ):
        assert isinstance(result, StoreUnavailableError)

    store.away = False
    assert names(await reads.snapshot(["a"])) == ["a"]


async def test_one_who_goes_away_leaves_the_others_theirs(store: Store, reads: SharedReads) -> None:
    store.gate.clear()
    gone = asyncio.create_task(reads.snapshot(["a"]))
    stays = asyncio.create_task(reads.snapshot(["b"]))
    await asyncio.sleep(0)
    gone.cancel()
    store.gate.set()

    assert names(await stays) == ["b"]
    await reads.close()
