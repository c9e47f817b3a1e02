# SPDX-License-Identifier: Apache-2.0
"""What is past the retention is forgotten; the books stay and still verify."""

from __future__ import annotations

import asyncio

import asyncpg
import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import entry_pb2, grant_pb2, usage_pb2

from services.ledger.adapters.retention import PostgresRetention
from services.ledger.usecases.retention import Expired, Retention
from services.shared.postgres import Database
from tests.support.clock import ManualClock
from tests.support.ledger import Run, RunningLedger, consistent, refused, request_id, rewrite

END = pb.RequestEnd(succeeded=True)

AGED = {
    "requests": "create_time",
    "authorizations": "create_time",
    "settlements": "settle_time",
    "refusals": "create_time",
    "operations": "create_time",
    "entries": "create_time",
}


async def age(books: RunningLedger, days: int) -> None:
    """Make everything older."""
    step = f"- interval '{days} days'"
    await rewrite(
        books.dsn,
        *(
            f"UPDATE {table} SET {column} = {column} {step}"  # noqa: S608 - constants
            for table, column in AGED.items()
        ),
        f"UPDATE usage_days SET day = day {step}",  # noqa: S608
        f"UPDATE key_budgets SET month = date_trunc('month', month {step})",  # noqa: S608
    )


async def forget(books: RunningLedger) -> int:
    """Make one pass."""
    database = Database(books.dsn, application_name="test", pool_size=2)
    await database.open()
    try:
        store = PostgresRetention(database, days=400)
        return await Retention(store=store, clock=ManualClock(), interval_seconds=1).forget()
    finally:
        await database.close()


async def recorded(books: RunningLedger, run: Run) -> bool:
    """Return whether a request is on record."""
    request = pb.GetAuthorizationRequest(account=run.account, request_id=run.request_id)
    try:
        await books.backend.GetAuthorization(request)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return False
    return True


@pytest.mark.requirement("L11", "L12")
class TestRetention:
    async def test_the_old_is_forgotten_and_the_books_stay(self, books: RunningLedger) -> None:
        account = await books.account(plan="fee-credits", owns=1000)
        old, refused_one, young = (books.run(account) for _ in range(3))
        await old.authorize()
        await old.capture(100, end=END)
        await refused(refused_one.authorize(worst_case=10**9))
        await age(books, 402)
        await young.authorize()
        await young.capture(50, end=END)
        assert await forget(books) > 0
        assert await forget(books) == 0
        assert [await recorded(books, run) for run in (old, refused_one, young)] == [
            False,
            False,
            True,
        ]
        balance = await books.balance(account)
        assert balance.posted_nano_credits == 700
        listed = entry_pb2.ListEntriesRequest(parent=account)
        assert len((await books.backend.ListEntries(listed)).entries) == 3
        usage = await books.backend.GetUsage(usage_pb2.GetUsageRequest(account=account))
        assert [row.charged_nano_credits for row in usage.rows] == [200, 100]
        assert await consistent(books)
        # Long after, the same id is a new request.
        anew = old.again()
        assert (await anew.authorize()).granted.held_nano_credits == 200
        await anew.capture(30, end=END)
        assert await consistent(books)

    async def test_the_young_the_running_and_the_lately_settled_stay(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        running, late, kept = (books.run(account) for _ in range(3))
        await running.authorize()
        await late.authorize()
        await kept.authorize()
        await kept.capture(1, end=END)
        await age(books, 399)
        assert await forget(books) == 0
        await age(books, 3)
        await late.capture(7, end=END)
        await forget(books)
        found = [await recorded(books, run) for run in (running, late, kept)]
        assert found == [True, True, False]
        assert await consistent(books)

    async def test_the_database_refuses_to_forget_too_early(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.capture(1)
        connection = await asyncpg.connect(books.dsn)
        for table in ("settlements", "authorizations", "operations", "entries", "mode_changes"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await connection.execute(f"DELETE FROM {table}")  # noqa: S608
        await connection.close()

    async def test_a_request_that_came_back_to_life_meanwhile_stays(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await refused(run.authorize(worst_case=10**9))
        await age(books, 402)
        database = Database(books.dsn, application_name="test", pool_size=2)
        await database.open()
        store = PostgresRetention(database, days=400)
        (found,) = await store.expired(10)
        assert found == Expired("demo", (run.request_id,))
        await run.again().authorize()
        await store.forget(found)
        await database.close()
        assert await recorded(books, run)
        assert await consistent(books)

    async def test_an_operation_is_answered_anew_long_after(self, books: RunningLedger) -> None:
        account = await books.account()
        request = grant_pb2.GrantCreditsRequest(
            request_id=request_id(),
            account=account,
            kind=grant_pb2.GRANT_KIND_PURCHASED,
            amount_nano_credits=5,
        )
        for _ in range(2):
            await books.backend.GrantCredits(request)
        await age(books, 402)
        await asyncio.gather(forget(books), forget(books))
        await books.backend.GrantCredits(request)
        assert (await books.balance(account)).posted_nano_credits == 10
        assert await consistent(books)
