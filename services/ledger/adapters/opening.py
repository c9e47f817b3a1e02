# SPDX-License-Identifier: Apache-2.0
"""Open the files of one unit of work: from PostgreSQL, or as this process wrote them last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from services.ledger.adapters import records
from services.ledger.adapters import statements as sql
from services.ledger.adapters.kept import KeptFiles, Run
from services.ledger.domain.accounts import Account, bucket_of, month_of
from services.ledger.domain.book import Book
from services.ledger.domain.files import AccountFile
from services.ledger.usecases.ports import Wanted
from services.shared.postgres import Connection


class Rows:
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


class Opened:
    """
    The files of one unit of work.

    Args:
        rows: Runs its statements.
        wanted: What it needs.
    """

    def __init__(self, rows: Rows, wanted: Sequence[Wanted]) -> None:
        self.rows = rows
        self.files: dict[str, AccountFile] = {}
        self._wanted = wanted
        self._ids = sorted({_key(one.account_id) for one in wanted})
        self._stamps: dict[str, int] = {}
        self._runs: dict[str, dict[str, Run]] = {}

    async def read(self) -> None:
        """Read what is needed, without a lock."""
        await self._read_accounts(self._ids)
        await self._load(self._ids)

    async def lock(self, kept: KeptFiles) -> None:
        """
        Lock the accounts and make those that are to be made; read what is not kept.

        Args:
            kept: What this process wrote last; what is opened is taken out of it.
        """
        created = set()
        for one in self._wanted:
            key = _key(one.account_id)
            if one.create and await self.rows.connection.fetchval(sql.CREATE_ACCOUNT, *key):
                created.add(one.account_id)
        found = await self.rows.fetch(sql.LOCK_ACCOUNTS, self._ids)
        if not found:
            return
        clock = max(row["clock"] for row in found)
        unknown = []
        for row in found:
            account_id: str = row["account_id"]
            self._stamps[account_id] = stamp = row["stamp"]
            known = kept.take(account_id, stamp)
            if known is None:
                unknown.append(_key(account_id))
                continue
            self._runs[account_id] = known.runs
            file = self._open(known.account, clock)
            file.book.grants, file.budgets = known.grants, known.budgets
        if unknown:
            await self._read_accounts(unknown, clock=clock)
        for account_id in created:
            self.files[account_id].created = True
        await self._load(unknown)

    def written_under(self, stamp: int) -> None:
        """Note that what changed was written under a stamp."""
        for account_id, file in self.files.items():
            if file.changed:
                self._stamps[account_id] = stamp

    def keep(self, kept: KeptFiles) -> None:
        """Keep the files, once they are known to be on record."""
        for account_id, file in self.files.items():
            kept.put(file, self._stamps[account_id], runs=self._runs.get(account_id, {}))

    def _open(self, account: Account, clock: datetime) -> AccountFile:
        account.last_time = max(account.last_time, clock)
        file = AccountFile(account, Book(account, {}, account.last_time), clock)
        self.files[account.account_id] = file
        return file

    async def _read_accounts(
        self, ids: Collection[tuple[int, str]], *, clock: datetime | None = None
    ) -> None:
        found = await self.rows.fetch(sql.READ_ACCOUNTS, ids)
        if found and clock is None:
            clock = max(row["clock"] for row in found)
        for row in found:
            assert clock is not None
            self._open(records.account_of(row), clock)

    async def _load(self, unknown: Collection[tuple[int, str]]) -> None:
        """Load what belongs to the accounts; grants only of those that were not kept."""
        if not self.files:
            return
        await self._load_requests()
        await self._load_operations()
        await self._load_budgets()
        await self._load_grants(unknown)

    async def _load_requests(self) -> None:
        asked = {
            (one.account_id, one.request_id, one.claimant)
            for one in self._wanted
            if one.request_id and one.account_id in self.files
        }
        if not asked:
            return
        requests = [ref[:2] for ref in asked]
        # Where several claimants ask, all that is on record is read.
        shared = set() if len(set(requests)) == len(requests) else _repeated(requests)
        unknown = [ref for ref in asked if ref[:2] in shared or not self._take_run(*ref)]
        if unknown:
            ids = {(*_key(ref[0]), ref[1]) for ref in unknown}
            found = await self._read_requests(ids)
            runs = [
                (bucket_of(ref[0]), *ref, found[ref[:2]]) for ref in unknown if ref[:2] in found
            ]
            if runs:
                await self._load_attempts(runs)
        authorizing = {
            (*_key(one.account_id), one.request_id, one.claimant)
            for one in self._wanted
            if one.refusals
            and one.account_id in self.files
            and one.request_id in self.files[one.account_id].requests
        }
        if authorizing:
            for row in await self.rows.fetch(sql.READ_REFUSALS, authorizing):
                key = (str(row["request_id"]), row["claimant"], row["sequence"])
                file = self.files[row["account_id"]]
                file.refusals[key] = records.recorded_refusal_of(row)

    def _take_run(self, account_id: str, request_id: str, claimant: str) -> bool:
        """Take a kept request into the file, if it is the claimant's; return whether it is."""
        runs = self._runs.get(account_id)
        run = runs.get(request_id) if runs else None
        if run is None or run.request.claimant != claimant:
            return False
        file = self.files[account_id]
        file.requests[request_id] = run.request.copied()
        for attempt in run.attempts:
            file.put_attempt(attempt.copied())
        return True

    async def _read_requests(self, ids: Collection[tuple[Any, ...]]) -> dict[tuple[str, str], int]:
        """Read requests and return the current run of each, by account and request."""
        runs = {}
        for row in await self.rows.fetch(sql.READ_REQUESTS, ids):
            request = records.request_of(row)
            account_id: str = row["account_id"]
            self.files[account_id].requests[request.request_id] = request
            runs[account_id, request.request_id] = request.run
        return runs

    async def _load_attempts(self, runs: Sequence[tuple[Any, ...]]) -> None:
        """Load attempts with their settlements; each run begins with bucket and account."""
        keys = set()
        for row in await self.rows.fetch(sql.READ_ATTEMPTS, runs):
            attempt = records.authorization_of(row)
            account_id = row["account_id"]
            self.files[account_id].put_attempt(attempt)
            keys.add((*_key(account_id), attempt.request_id, attempt.claimant, attempt.sequence))
        if keys:
            for row in await self.rows.fetch(sql.READ_SETTLEMENTS, keys):
                key = (str(row["request_id"]), row["claimant"], row["sequence"])
                attempt = self.files[row["account_id"]].attempts[key]
                attempt.settlements.append(records.settlement_of(row))

    async def _load_operations(self) -> None:
        refs = {
            (*_key(one.account_id), one.operation_id) for one in self._wanted if one.operation_id
        }
        if refs:
            for row in await self.rows.fetch(sql.READ_OPERATIONS, refs):
                operation = records.operation_of(row)
                self.files[row["account_id"]].operations[operation.request_id] = operation
        holders = {_key(one.account_id) for one in self._wanted if one.open_holds}
        if holders:
            for row in await self.rows.fetch(sql.READ_OPEN_HOLDS, holders):
                name = f"r{row['request_id']}-{row['run']}-{row['sequence']}"
                self.files[row["account_id"]].open_holds.append((name, row["held"]))

    async def _load_budgets(self) -> None:
        """Load the months that attempts count on, and this month of the keys asked for."""
        ids = set()
        for one in self._wanted:
            file = self.files.get(one.account_id)
            if one.key and file is not None:
                budget_id = (one.key, month_of(file.now))
                if budget_id not in file.budgets:
                    ids.add((*_key(one.account_id), *budget_id))
        for account_id, file in self.files.items():
            for attempt in file.attempts.values():
                counted = attempt.budget_id
                if counted is not None and counted not in file.budgets:
                    ids.add((*_key(account_id), *counted))
        if ids:
            for row in await self.rows.fetch(sql.READ_BUDGETS, ids):
                budget = records.budget_of(row)
                self.files[row["account_id"]].budgets[budget.key, budget.month] = budget

    async def _load_grants(self, unknown: Collection[tuple[int, str]]) -> None:
        """Load what is unspent, and spent grants that an attempt may give back to."""
        if unknown:
            for row in await self.rows.fetch(sql.READ_UNSPENT_GRANTS, unknown):
                self._put_grant(row)
        missing = {
            (*_key(account_id), part.grant_id)
            for account_id, file in self.files.items()
            for attempt in file.attempts.values()
            for part in attempt.charge.parts
            if part.grant_id not in file.book.grants
        }
        if missing:
            for row in await self.rows.fetch(sql.READ_GRANTS, missing):
                self._put_grant(row)

    def _put_grant(self, row: Any) -> None:
        self.files[row["account_id"]].book.grants[row["grant_id"]] = records.grant_of(row)


def _repeated(names: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    return {name for name, count in Counter(names).items() if count > 1}


def _key(account_id: str) -> tuple[int, str]:
    return bucket_of(account_id), account_id
