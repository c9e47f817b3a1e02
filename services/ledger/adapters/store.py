# SPDX-License-Identifier: Apache-2.0
"""The ledger's store on PostgreSQL: load locked files, let the rules work, write what changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg

from services.ledger.adapters import records
from services.ledger.adapters import statements as sql
from services.ledger.domain.accounts import bucket_of, month_of
from services.ledger.domain.book import Book
from services.ledger.domain.files import AccountFile
from services.ledger.usecases.ports import LapsedRun, UnitRefusedError, Wanted
from services.shared.errors import OutcomeUnknownError
from services.shared.postgres import Connection, Database

LOST_COMMITS_MAX = 2
"""Units of work that are looked up after a connection lost at COMMIT, before the caller must."""

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
            for _ in range(LOST_COMMITS_MAX):
                # What was written has its ids: the next unit answers from it, or does it now.
                with contextlib.suppress(OutcomeUnknownError):
                    return await self._database.run(unit)
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
        self._one_bucket = len({bucket_of(one.account_id) for one in wanted}) == 1

    async def fetch(
        self, statement: sql.Statement, rows: Collection[tuple[Any, ...]]
    ) -> list[asyncpg.Record]:
        """
        Run one statement.

        Args:
            statement: The statement.
            rows: Its rows, at least one, each beginning with bucket and account.
        """
        buckets, *columns = zip(*rows, strict=True)
        values = [write(column) for write, column in zip(statement.columns, columns, strict=True)]
        found: list[asyncpg.Record]
        if self._one_bucket:
            found = await self.connection.fetch(statement.one_bucket, buckets[0], *values)
        else:
            among = sql.plain_array(buckets)
            found = await self.connection.fetch(statement.many_buckets, among, *values)
        return found

    async def copy(self, copied: sql.Copied, rows: Collection[tuple[Any, ...]]) -> None:
        """
        Add rows to a table.

        Args:
            copied: The table and its columns.
            rows: The rows, each beginning with bucket and account.
        """
        await self.connection.copy_records_to_table(
            copied.table, columns=copied.columns, records=rows
        )


async def _load(rows: _Rows, wanted: Sequence[Wanted], *, lock: bool) -> Files:
    created = set()
    for one in wanted:
        key = _key(one.account_id)
        if one.create and await rows.connection.fetchval(sql.CREATE_ACCOUNT, *key):
            created.add(one.account_id)
    ids = sorted({_key(one.account_id) for one in wanted})
    found = await rows.fetch(sql.LOCK_ACCOUNTS if lock else sql.READ_ACCOUNTS, ids)
    files: Files = {}
    if not found:
        return files
    clock = max(row["clock"] for row in found)
    for row in found:
        account = records.account_of(row)
        account.last_time = max(account.last_time, clock)
        book = Book(account, {}, account.last_time)
        made = account.account_id in created
        files[account.account_id] = AccountFile(account, book, clock, created=made)
    await _load_requests(rows, files, wanted)
    await _load_operations(rows, files, wanted)
    await _load_budgets(rows, files, wanted)
    await _load_grants(rows, files)
    return files


async def _load_requests(rows: _Rows, files: Files, wanted: Sequence[Wanted]) -> None:
    refs = {
        (*_key(one.account_id), one.request_id, one.claimant)
        for one in wanted
        if one.request_id and one.account_id in files
    }
    if not refs:
        return
    found = await rows.fetch(sql.READ_REQUESTS, {ref[:3] for ref in refs})
    for row in found:
        request = records.request_of(row)
        files[row["account_id"]].requests[request.request_id] = request
    if not found:
        return
    runs = [
        (*ref, known.run)
        for ref in refs
        if (known := files[ref[1]].requests.get(ref[2])) is not None
    ]
    await _load_attempts(rows, files, runs)
    asked = {(one.account_id, one.request_id, one.claimant) for one in wanted if one.refusals}
    authorizing = [run[:4] for run in runs if run[1:4] in asked]
    if authorizing:
        for row in await rows.fetch(sql.READ_REFUSALS, authorizing):
            key = (str(row["request_id"]), row["claimant"], row["sequence"])
            files[row["account_id"]].refusals[key] = records.recorded_refusal_of(row)


async def _load_attempts(rows: _Rows, files: Files, runs: Sequence[tuple[Any, ...]]) -> None:
    """Load attempts with their settlements; each run begins with bucket and account."""
    keys = set()
    for row in await rows.fetch(sql.READ_ATTEMPTS, runs):
        attempt = records.authorization_of(row)
        account_id = row["account_id"]
        files[account_id].put_attempt(attempt)
        keys.add((*_key(account_id), attempt.request_id, attempt.claimant, attempt.sequence))
    if keys:
        for row in await rows.fetch(sql.READ_SETTLEMENTS, keys):
            key = (str(row["request_id"]), row["claimant"], row["sequence"])
            files[row["account_id"]].attempts[key].settlements.append(records.settlement_of(row))


async def _load_operations(rows: _Rows, files: Files, wanted: Sequence[Wanted]) -> None:
    refs = {(*_key(one.account_id), one.operation_id) for one in wanted if one.operation_id}
    if refs:
        for row in await rows.fetch(sql.READ_OPERATIONS, refs):
            operation = records.operation_of(row)
            files[row["account_id"]].operations[operation.request_id] = operation
    holders = {_key(one.account_id) for one in wanted if one.open_holds}
    if holders:
        for row in await rows.fetch(sql.READ_OPEN_HOLDS, holders):
            name = f"r{row['request_id']}-{row['run']}-{row['sequence']}"
            files[row["account_id"]].open_holds.append((name, row["held"]))


async def _load_budgets(rows: _Rows, files: Files, wanted: Sequence[Wanted]) -> None:
    """Load the months that attempts count on, and this month of the keys asked for."""
    ids = {
        (*_key(one.account_id), one.key, month_of(files[one.account_id].now))
        for one in wanted
        if one.key and one.account_id in files
    }
    for account_id, file in files.items():
        for attempt in file.attempts.values():
            budget_id = attempt.budget_id
            if budget_id is not None:
                ids.add((*_key(account_id), *budget_id))
    if ids:
        for row in await rows.fetch(sql.READ_BUDGETS, ids):
            budget = records.budget_of(row)
            files[row["account_id"]].budgets[budget.key, budget.month] = budget


async def _load_grants(rows: _Rows, files: Files) -> None:
    """Load what is unspent, and spent grants that an attempt may give back to."""
    ids = [_key(account_id) for account_id in files]
    for row in await rows.fetch(sql.READ_UNSPENT_GRANTS, ids):
        files[row["account_id"]].book.grants[row["grant_id"]] = records.grant_of(row)
    missing = {
        (*_key(account_id), part.grant_id)
        for account_id, file in files.items()
        for attempt in file.attempts.values()
        for part in attempt.charge.parts
        if part.grant_id not in file.book.grants
    }
    if missing:
        for row in await rows.fetch(sql.READ_GRANTS, missing):
            files[row["account_id"]].book.grants[row["grant_id"]] = records.grant_of(row)


def _key(account_id: str) -> tuple[int, str]:
    return bucket_of(account_id), account_id


Writes = dict[sql.Statement | sql.Copied, list[tuple[Any, ...]]]


async def _save(rows: _Rows, files: Files) -> None:
    """Write what the rules changed, each table's rows in one statement."""
    writes: Writes = {target: [] for target in _WRITE_ORDER}
    for account_id, file in files.items():
        key = _key(account_id)
        _add_money(writes, key, file)
        _add_attempts(writes, key, file)
        _add_others(writes, key, file)
    for target, written in writes.items():
        if not written:
            continue
        if isinstance(target, sql.Copied):
            await rows.copy(target, written)
        else:
            await rows.fetch(target, written)


# All write in one order.
_WRITE_ORDER: tuple[sql.Statement | sql.Copied, ...] = (
    sql.MOVE_ACCOUNT,
    sql.UPDATE_ACCOUNT,
    sql.MOVE_GRANT,
    sql.UPSERT_GRANT,
    sql.REQUESTS,
    sql.UPDATE_REQUEST,
    sql.AUTHORIZATIONS,
    sql.SETTLEMENTS,
    sql.REFUSALS,
    sql.ENTRIES,
    sql.OPERATIONS,
    sql.MODE_CHANGES,
    sql.ADD_USAGE,
    sql.UPSERT_BUDGET,
)


def _add_money(writes: Writes, key: tuple[int, str], file: AccountFile) -> None:
    book = file.book
    if file.changes.account:
        writes[sql.UPDATE_ACCOUNT].append((*key, *records.account_values(file.account)))
    elif file.changes.counts or book.entries or book.touched:
        writes[sql.MOVE_ACCOUNT].append((*key, *records.moved_values(file.account)))
    for grant_id in sorted(book.touched):
        grant = book.grants[grant_id]
        if grant_id in book.made:
            writes[sql.UPSERT_GRANT].append((*key, *records.grant_values(grant)))
        else:
            writes[sql.MOVE_GRANT].append((*key, grant_id, grant.remaining, grant.reserved))
    for entry in book.entries:
        writes[sql.ENTRIES].append((*key, *records.entry_values(entry)))


def _add_attempts(writes: Writes, key: tuple[int, str], file: AccountFile) -> None:
    changes = file.changes
    for request_id in changes.new_requests:
        request = file.requests[request_id]
        writes[sql.REQUESTS].append((*key, *records.request_values(request)))
    for request_id in changes.requests:
        request = file.requests[request_id]
        writes[sql.UPDATE_REQUEST].append((*key, *records.changed_request_values(request)))
    for attempt in changes.authorizations:
        writes[sql.AUTHORIZATIONS].append((*key, *records.authorization_values(attempt)))
    for attempt, revision, settlement in changes.settlements:
        values = records.settlement_values(attempt, revision, settlement)
        writes[sql.SETTLEMENTS].append((*key, *values))
    for usage_key, usage in changes.usage.items():
        writes[sql.ADD_USAGE].append((*key, *records.usage_values(usage_key, usage)))
    for budget_id in changes.budgets:
        writes[sql.UPSERT_BUDGET].append((*key, *records.budget_values(file.budgets[budget_id])))


def _add_others(writes: Writes, key: tuple[int, str], file: AccountFile) -> None:
    changes = file.changes
    for attempt_key, refused in changes.refusals.items():
        values = (*attempt_key, refused.digest, records.refusal_json(refused.refusal), file.now)
        writes[sql.REFUSALS].append((*key, *values))
    for operation in changes.operations:
        writes[sql.OPERATIONS].append((*key, *records.operation_values(operation), file.now))
    for change in changes.mode_changes:
        writes[sql.MODE_CHANGES].append((*key, *records.mode_change_values(change)))
