# SPDX-License-Identifier: Apache-2.0
"""What every ledger store must do; the same suite runs on memory and on PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.ledger.adapters.store import PostgresLedgerStore
from services.ledger.domain.modes import BillingMode
from services.ledger.errors import (
    AccountExistsError,
    InsufficientCreditsError,
    RequestIdReusedError,
)
from services.ledger.usecases.attempts import Attempts
from services.ledger.usecases.ports import LedgerStore, Wanted
from services.ledger.usecases.sweep import Sweeper
from services.shared.clock import SystemClock
from services.shared.postgres import Database
from tests.support.ledger import migrated
from tests.support.ledger_commands import (
    PLANS,
    authorize_command,
    capture_command,
    create,
    grant,
    owned,
    release_command,
    renew_command,
    set_mode,
)
from tests.support.ledger_memory import InMemoryLedgerStore
from tests.support.postgres import Databases


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LedgerStore]:
    """Each store in turn, with one account that owns 1000."""
    if request.param == "memory":
        memory = InMemoryLedgerStore(SystemClock())
        await _begin(memory)
        yield memory
        return
    databases: Databases = request.getfixturevalue("databases")
    with databases.empty() as dsn:
        await migrated(dsn)
        database = Database(dsn, application_name="tests", pool_size=4)
        await database.open()
        try:
            postgres = PostgresLedgerStore(database)
            await _begin(postgres)
            yield postgres
        finally:
            await database.close()


async def _begin(store: LedgerStore) -> None:
    await create(store, new_id())
    await grant(store, new_id(), 1000)


def new_id() -> str:
    """Return a request id."""
    return str(uuid.uuid4())


def attempts(store: LedgerStore, *, lease_seconds: float = 60) -> Attempts:
    """Return the use case on a store."""
    return Attempts(store=store, plans=PLANS, lease=timedelta(seconds=lease_seconds))


@pytest.mark.requirement("L3", "L11")
class TestLedgerStore:
    async def test_what_was_written_is_there_for_the_next_unit(self, store: LedgerStore) -> None:
        run, one = attempts(store), new_id()
        granted: Any = await run.one(authorize_command(one))
        assert await owned(store) == (1000, 100)
        again: Any = await run.one(authorize_command(one))
        assert again.attempt == granted.attempt
        await run.one(renew_command(one, 40))
        settled: Any = await run.one(capture_command(one, 60))
        assert settled[0].settlement.charge.customer == 60
        repeated: Any = await run.one(capture_command(one, 60))
        assert repeated[0].settlement == settled[0].settlement
        assert await owned(store) == (940, 0)

    async def test_a_refusal_is_remembered(self, store: LedgerStore) -> None:
        run, one = attempts(store), new_id()
        for _ in range(2):
            with pytest.raises(InsufficientCreditsError) as raised:
                await run.one(authorize_command(one, worst_case=5000))
            assert raised.value.metadata["available_nano_credits"] == "1000"
        await grant(store, new_id(), 9000)
        with pytest.raises(InsufficientCreditsError):
            await run.one(authorize_command(one, worst_case=5000))

    async def test_an_operation_is_answered_once(self, store: LedgerStore) -> None:
        one = new_id()
        first = await grant(store, one, 5)
        assert await grant(store, one, 5) == first
        with pytest.raises(RequestIdReusedError):
            await grant(store, one, 6)
        assert await owned(store) == (1005, 0)

    async def test_an_account_is_made_once(self, store: LedgerStore) -> None:
        with pytest.raises(AccountExistsError):
            await create(store, new_id())
        found = await store.peek([Wanted("nobody")], lambda files: "nobody" in files)
        assert not found

    async def test_a_unit_that_fails_leaves_nothing(self, store: LedgerStore) -> None:
        def spoil(files: Any) -> None:
            files["demo"].account.revision += 7
            files["demo"].changes.account = True
            raise LookupError("a bug")

        def revision(files: Any) -> int:
            found: int = files["demo"].account.revision
            return found

        before = await store.peek([Wanted("demo")], revision)
        with pytest.raises(LookupError):
            await store.change([Wanted("demo")], spoil)
        assert await store.peek([Wanted("demo")], revision) == before

    async def test_what_is_peeked_at_is_not_written(self, store: LedgerStore) -> None:
        def spend(files: Any) -> int:
            files["demo"].book.reserve(100)
            reserved: int = files["demo"].account.totals.reserved
            return reserved

        assert await store.peek([Wanted("demo")], spend) == 100
        assert await owned(store) == (1000, 0)

    async def test_units_on_one_account_come_one_after_another(self, store: LedgerStore) -> None:
        await asyncio.gather(*(grant(store, new_id(), 1) for _ in range(20)))
        assert await owned(store) == (1020, 0)

    async def test_open_holds_are_told_to_who_asks(self, store: LedgerStore) -> None:
        run, one, two = attempts(store), new_id(), new_id()
        await run.one(authorize_command(one))
        await run.one(authorize_command(two))
        await run.one(release_command(two))
        assert await set_mode(store, new_id(), BillingMode.OWN_KEY_ONLY) == b"2 1"

    async def test_a_run_whose_lease_ran_out_is_found_and_settled_once(
        self, store: LedgerStore
    ) -> None:
        run, one = attempts(store, lease_seconds=0), new_id()
        await run.one(authorize_command(one))
        await run.one(renew_command(one, 40))
        (found,) = await store.lapsed_runs(10)
        assert (found.account_id, found.request_id) == ("demo", one)
        sweeper = Sweeper(store=store, clock=SystemClock(), interval_seconds=1)
        assert [await sweeper.sweep(), await sweeper.sweep()] == [1, 0]
        assert await owned(store) == (960, 0)
        assert await store.lapsed_runs(10) == []
