# SPDX-License-Identifier: Apache-2.0
"""The ledger's store on PostgreSQL: load locked files, let the rules work, write what changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg

from services.ledger.adapters import records
from services.ledger.adapters import statements as sql
from services.ledger.domain.accounts import bucket_of, month_of
from services.ledger.domain.book import Book
from services.ledger.domain.files import AccountFile
from services.ledger.usecases.ports import LapsedRun, UnitRefusedError, Wanted
from services.shared.postgres import Connection, Database

T = TypeVar("T")
Files = dict[str, AccountFile]


class PostgresLedgerStore:
    """
    Implements LedgerStore.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def change(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run one unit of work; see LedgerStore."""

        async def unit(connection: Connection) -> T:
            rows = _Rows(connection, wanted)
            files = await _load(rows, wanted, lock=True)
            result = work(files)
            await _save(rows, files)
            return result

        try:
            return await self._database.run(unit)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as fault:
            raise UnitRefusedError(type(fault).__name__) from fault

    async def peek(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run a unit of work that is not written back; see LedgerStore."""

        async def unit(connection: Connection) -> T:
            return work(await _load(_Rows(connection, wanted), wanted, lock=False))

        return await self._database.run(unit, isolation="repeatable_read", readonly=True)

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Return lapsed runs; see LedgerStore."""
        rows = await self._database.fetch(sql.LAPSED_RUNS, limit)
        return [LapsedRun(row["account_id"], str(row["request_id"])) for row in rows]


class _Rows:
    """
    Runs statements on the rows of one unit of work.

    A unit on one bucket uses the texts that filter on it, whatever the server.

    Args:
        connection: Inside the unit's transaction.
        wanted: What the unit needs.
    """

    def __init__(self, connection: Connection, wanted: Sequence[Wanted]) -> None:
        self.connection = connection
        self._buckets = {one.account_id: bucket_of(one.account_id) for one in wanted}
        self._one_bucket = len(set(self._buckets.values())) == 1

    async def fetch(
        self, statement: sql.Statement, rows: Collection[tuple[Any, ...]]
    ) -> list[asyncpg.Record]:
        """
        Run one statement.

        Args:
            statement: The statement.
            rows: Its rows, at least one, each beginning with the account's id.
        """
        columns = [list(column) for column in zip(*rows, strict=True)]
        buckets = [self._buckets[account_id] for account_id in columns[0]]
        found: list[asyncpg.Record]
        if self._one_bucket:
            found = await self.connection.fetch(statement.one_bucket, buckets[0], *columns)
        else:
            found = await self.connection.fetch(statement.many_buckets, buckets, *columns)
        return found

    def bucket(self, account_id: str) -> int:
        """Return the bucket of an account of this unit."""
        return self._buckets[account_id]


async def _load(rows: _Rows, wanted: Sequence[Wanted], *, lock: bool) -> Files:
    created = set()
    for one in wanted:
        key = (rows.bucket(one.account_id), one.account_id)
        if one.create and await rows.connection.fetchval(sql.CREATE_ACCOUNT, *key):
            created.add(one.account_id)
    ids = sorted({(one.account_id,) for one in wanted})
    found = await rows.fetch(sql.LOCK_ACCOUNTS if lock else sql.READ_ACCOUNTS, ids)
    clock = await rows.connection.fetchval(sql.CLOCK)
    files: Files = {}
    for row in found:
        account = records.account_of(row)
        account.last_time = max(account.last_time, clock)
        book = Book(account, {}, account.last_time)
        made = account.account_id in created
        files[account.account_id] = AccountFile(account, book, clock, created=made)
    if not files:
        return files
    await _load_requests(rows, files, wanted)
    await _load_operations(rows, files, wanted)
    await _load_budgets(rows, files, wanted)
    await _load_grants(rows, files)
    return files


async def _load_requests(rows: _Rows, files: Files, wanted: Sequence[Wanted]) -> None:
    refs = {(one.account_id, one.request_id, one.claimant) for one in wanted if one.request_id}
    ids = {(account_id, request_id) for account_id, request_id, _ in refs}
    if not ids:
        return
    found = await rows.fetch(sql.READ_REQUESTS, ids)
    for row in found:
        request = records.request_of(row)
        files[row["account_id"]].requests[request.request_id] = request
    if not found:
        return
    for row in await rows.fetch(sql.READ_ATTEMPTS, refs):
        attempt = records.authorization_of(row)
        key = (attempt.request_id, attempt.claimant, attempt.sequence)
        files[row["account_id"]].attempts.setdefault(key, attempt)
    seen = set()
    for row in await rows.fetch(sql.READ_SETTLEMENTS, refs):
        key = (str(row["request_id"]), row["claimant"], row["sequence"])
        place = (row["account_id"], *key, row["revision"])
        if place not in seen:
            seen.add(place)
            files[row["account_id"]].attempts[key].settlements.append(records.settlement_of(row))
    for row in await rows.fetch(sql.READ_REFUSALS, refs):
        key = (str(row["request_id"]), row["claimant"], row["sequence"])
        files[row["account_id"]].refusals[key] = records.recorded_refusal_of(row)


async def _load_operations(rows: _Rows, files: Files, wanted: Sequence[Wanted]) -> None:
    refs = {(one.account_id, one.operation_id) for one in wanted if one.operation_id}
    if refs:
        for row in await rows.fetch(sql.READ_OPERATIONS, refs):
            operation = records.operation_of(row)
            files[row["account_id"]].operations[operation.request_id] = operation
    holders = {(one.account_id,) for one in wanted if one.open_holds}
    if holders:
        for row in await rows.fetch(sql.READ_OPEN_HOLDS, holders):
            name = f"r{row['request_id']}-{row['run']}-{row['sequence']}"
            files[row["account_id"]].open_holds.append((name, row["held"]))


async def _load_budgets(rows: _Rows, files: Files, wanted: Sequence[Wanted]) -> None:
    """Load the months that attempts count on, and this month of the keys asked for."""
    ids = {
        (one.account_id, one.key, month_of(files[one.account_id].now))
        for one in wanted
        if one.key and one.account_id in files
    }
    for account_id, file in files.items():
        budgets = (attempt.budget_id for attempt in file.attempts.values())
        ids |= {(account_id, *budget_id) for budget_id in budgets if budget_id is not None}
    if ids:
        for row in await rows.fetch(sql.READ_BUDGETS, ids):
            budget = records.budget_of(row)
            files[row["account_id"]].budgets[budget.key, budget.month] = budget


async def _load_grants(rows: _Rows, files: Files) -> None:
    """Load what is unspent, and spent grants that an attempt may give back to."""
    ids = [(account_id,) for account_id in files]
    for row in await rows.fetch(sql.READ_UNSPENT_GRANTS, ids):
        files[row["account_id"]].book.grants[row["grant_id"]] = records.grant_of(row)
    missing = {
        (account_id, part.grant_id)
        for account_id, file in files.items()
        for attempt in file.attempts.values()
        for part in attempt.charge.parts
        if part.grant_id not in file.book.grants
    }
    if missing:
        for row in await rows.fetch(sql.READ_GRANTS, missing):
            files[row["account_id"]].book.grants[row["grant_id"]] = records.grant_of(row)


async def _save(rows: _Rows, files: Files) -> None:
    """Write what the rules changed, each table's rows in one statement."""
    writes: dict[sql.Statement, list[tuple[Any, ...]]] = {}
    for account_id, file in files.items():
        for statement, values in _written(file):
            writes.setdefault(statement, []).append((account_id, *values))
    for statement in _WRITE_ORDER:
        if statement in writes:
            await rows.fetch(statement, writes[statement])


# Referenced rows first.
_WRITE_ORDER = (
    sql.UPDATE_ACCOUNT,
    sql.UPSERT_GRANT,
    sql.UPSERT_REQUEST,
    sql.INSERT_AUTHORIZATION,
    sql.INSERT_SETTLEMENT,
    sql.INSERT_REFUSAL,
    sql.INSERT_ENTRY,
    sql.INSERT_OPERATION,
    sql.INSERT_MODE_CHANGE,
    sql.ADD_USAGE,
    sql.UPSERT_BUDGET,
)


def _written(file: AccountFile) -> list[tuple[sql.Statement, tuple[Any, ...]]]:
    """Return each row to write as its statement and its values after the account's key."""
    return [*_money_rows(file), *_attempt_rows(file), *_other_rows(file)]


def _money_rows(file: AccountFile) -> Iterator[tuple[sql.Statement, tuple[Any, ...]]]:
    book = file.book
    if file.changes.account or book.entries or book.touched:
        yield sql.UPDATE_ACCOUNT, records.account_values(file.account)
    for grant_id in sorted(book.touched):
        yield sql.UPSERT_GRANT, records.grant_values(book.grants[grant_id])
    for entry in book.entries:
        yield sql.INSERT_ENTRY, records.entry_values(entry)


def _attempt_rows(file: AccountFile) -> Iterator[tuple[sql.Statement, tuple[Any, ...]]]:
    changes = file.changes
    for request_id in sorted(changes.requests):
        yield sql.UPSERT_REQUEST, records.request_values(file.requests[request_id])
    for attempt in changes.authorizations:
        yield sql.INSERT_AUTHORIZATION, records.authorization_values(attempt)
    for attempt, revision, settlement in changes.settlements:
        values = records.settlement_values(attempt, revision, settlement)
        yield sql.INSERT_SETTLEMENT, values
    for key, refused in changes.refusals.items():
        values = (*key, refused.digest, records.refusal_json(refused.refusal), file.now)
        yield sql.INSERT_REFUSAL, values


def _other_rows(file: AccountFile) -> Iterator[tuple[sql.Statement, tuple[Any, ...]]]:
    changes = file.changes
    for operation in changes.operations:
        yield sql.INSERT_OPERATION, (*records.operation_values(operation), file.now)
    for change in changes.mode_changes:
        yield sql.INSERT_MODE_CHANGE, records.mode_change_values(change)
    for usage_key, usage in changes.usage.items():
        yield sql.ADD_USAGE, records.usage_values(usage_key, usage)
    for budget_id in sorted(changes.budgets):
        yield sql.UPSERT_BUDGET, records.budget_values(file.budgets[budget_id])
