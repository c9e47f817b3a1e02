# SPDX-License-Identifier: Apache-2.0
"""The ledger's store on PostgreSQL: load locked files, let the rules work, write what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

import asyncpg

from services.ledger.adapters import records
from services.ledger.adapters import statements as sql
from services.ledger.domain.accounts import bucket_of
from services.ledger.domain.book import Book
from services.ledger.domain.files import AccountFile
from services.ledger.domain.usage import UsageKey, UsageSum
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
        bucket = _bucket(wanted)

        async def unit(connection: Connection) -> T:
            files = await _load(connection, bucket, wanted, lock=True)
            result = work(files)
            await _save(connection, bucket, files)
            return result

        try:
            return await self._database.run(unit)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as fault:
            raise UnitRefusedError(type(fault).__name__) from fault

    async def peek(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run a unit of work that is not written back; see LedgerStore."""
        bucket = _bucket(wanted)

        async def unit(connection: Connection) -> T:
            return work(await _load(connection, bucket, wanted, lock=False))

        return await self._database.run(unit, isolation="repeatable_read", readonly=True)

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Return lapsed runs; see LedgerStore."""
        rows = await self._database.fetch(sql.LAPSED_RUNS, limit)
        return [LapsedRun(row["account_id"], str(row["request_id"])) for row in rows]


def _bucket(wanted: Sequence[Wanted]) -> int:
    (bucket,) = {bucket_of(one.account_id) for one in wanted}
    return bucket


async def _load(
    connection: Connection, bucket: int, wanted: Sequence[Wanted], *, lock: bool
) -> Files:
    created = set()
    for one in wanted:
        if one.create and await connection.fetchval(sql.CREATE_ACCOUNT, bucket, one.account_id):
            created.add(one.account_id)
    ids = sorted({one.account_id for one in wanted})
    rows = await connection.fetch(sql.LOCK_ACCOUNTS if lock else sql.READ_ACCOUNTS, bucket, ids)
    clock = await connection.fetchval(sql.CLOCK)
    files: Files = {}
    for row in rows:
        account = records.account_of(row)
        account.last_time = max(account.last_time, clock)
        book = Book(account, {}, account.last_time)
        made = account.account_id in created
        files[account.account_id] = AccountFile(account, book, clock, created=made)
    if not files:
        return files
    await _load_requests(connection, bucket, files, wanted)
    await _load_operations(connection, bucket, files, wanted)
    await _load_grants(connection, bucket, files)
    return files


async def _load_requests(
    connection: Connection, bucket: int, files: Files, wanted: Sequence[Wanted]
) -> None:
    refs = sorted(
        {(one.account_id, one.request_id, one.claimant) for one in wanted if one.request_id}
    )
    if not refs:
        return
    accounts, requests, claimants = (list(column) for column in zip(*refs, strict=True))
    rows = await connection.fetch(sql.READ_REQUESTS, bucket, accounts, requests)
    for row in rows:
        request = records.request_of(row)
        files[row["account_id"]].requests[request.request_id] = request
    if not rows:
        return
    refs_args = (bucket, accounts, requests, claimants)
    for row in await connection.fetch(sql.READ_ATTEMPTS, *refs_args):
        attempt = records.authorization_of(row)
        key = (attempt.request_id, attempt.claimant, attempt.sequence)
        files[row["account_id"]].attempts[key] = attempt
    seen = set()
    for row in await connection.fetch(sql.READ_SETTLEMENTS, *refs_args):
        key = (str(row["request_id"]), row["claimant"], row["sequence"])
        place = (row["account_id"], *key, row["revision"])
        if place not in seen:
            seen.add(place)
            files[row["account_id"]].attempts[key].settlements.append(records.settlement_of(row))
    for row in await connection.fetch(sql.READ_REFUSALS, *refs_args):
        key = (str(row["request_id"]), row["claimant"], row["sequence"])
        files[row["account_id"]].refusals[key] = records.recorded_refusal_of(row)


async def _load_operations(
    connection: Connection, bucket: int, files: Files, wanted: Sequence[Wanted]
) -> None:
    refs = sorted({(one.account_id, one.operation_id) for one in wanted if one.operation_id})
    if refs:
        accounts, ids = (list(column) for column in zip(*refs, strict=True))
        for row in await connection.fetch(sql.READ_OPERATIONS, bucket, accounts, ids):
            operation = records.operation_of(row)
            files[row["account_id"]].operations[operation.request_id] = operation
    holders = sorted({one.account_id for one in wanted if one.open_holds})
    if holders:
        for row in await connection.fetch(sql.READ_OPEN_HOLDS, bucket, holders):
            name = f"r{row['request_id']}-{row['run']}-{row['sequence']}"
            files[row["account_id"]].open_holds.append((name, row["held"]))


async def _load_grants(connection: Connection, bucket: int, files: Files) -> None:
    """Load what is unspent, and spent grants that an attempt may give back to."""
    rows = await connection.fetch(sql.READ_UNSPENT_GRANTS, bucket, sorted(files))
    for row in rows:
        files[row["account_id"]].book.grants[row["grant_id"]] = records.grant_of(row)
    missing = sorted(
        {
            (account_id, part.grant_id)
            for account_id, file in files.items()
            for attempt in file.attempts.values()
            for part in attempt.charge.parts
            if part.grant_id not in file.book.grants
        }
    )
    if missing:
        accounts, grants = (list(column) for column in zip(*missing, strict=True))
        for row in await connection.fetch(sql.READ_GRANTS, bucket, accounts, grants):
            files[row["account_id"]].book.grants[row["grant_id"]] = records.grant_of(row)


async def _save(connection: Connection, bucket: int, files: Files) -> None:
    """Write what the rules changed, each table's rows in one round trip."""
    writes: dict[str, list[tuple[Any, ...]]] = {}
    for account_id, file in files.items():
        for statement, values in _written(file):
            writes.setdefault(statement, []).append((bucket, account_id, *values))
    for statement in _WRITE_ORDER:
        if statement in writes:
            await connection.executemany(statement, writes[statement])


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
)


def _written(file: AccountFile) -> list[tuple[str, tuple[Any, ...]]]:
    """Return each row to write as its statement and its values after the account's key."""
    return [*_money_rows(file), *_attempt_rows(file), *_other_rows(file)]


def _money_rows(file: AccountFile) -> Iterator[tuple[str, tuple[Any, ...]]]:
    book = file.book
    if file.changes.account or book.entries or book.touched:
        yield sql.UPDATE_ACCOUNT, records.account_values(file.account)
    for grant_id in sorted(book.touched):
        yield sql.UPSERT_GRANT, records.grant_values(book.grants[grant_id])
    for entry in book.entries:
        yield sql.INSERT_ENTRY, records.entry_values(entry)


def _attempt_rows(file: AccountFile) -> Iterator[tuple[str, tuple[Any, ...]]]:
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


def _other_rows(file: AccountFile) -> Iterator[tuple[str, tuple[Any, ...]]]:
    changes = file.changes
    for operation in changes.operations:
        yield sql.INSERT_OPERATION, (*records.operation_values(operation), file.now)
    for change in changes.mode_changes:
        yield sql.INSERT_MODE_CHANGE, records.mode_change_values(change)
    for usage_key, usage in sorted(changes.usage.items(), key=_usage_order):
        yield sql.ADD_USAGE, records.usage_values(usage_key, usage)


def _usage_order(item: tuple[UsageKey, UsageSum]) -> tuple[date, str, str, str, str]:
    """Rows are locked in one order by all."""
    key = item[0]
    return (key.day, key.model, key.provider, key.key, key.funding.value)
