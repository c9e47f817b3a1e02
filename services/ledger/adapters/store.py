# SPDX-License-Identifier: Apache-2.0
"""The ledger's store on PostgreSQL: load locked files, let the rules work, write what changed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg

from services.ledger.adapters import records
from services.ledger.adapters import statements as sql
from services.ledger.adapters.kept import STAMP_BITS, KeptFiles
from services.ledger.adapters.opening import Opened, Rows
from services.ledger.domain.accounts import bucket_of
from services.ledger.domain.files import AccountFile
from services.ledger.usecases.ports import LapsedRun, UnitRefusedError, Wanted
from services.shared.errors import OutcomeUnknownError
from services.shared.postgres import Connection, Database

LOST_COMMITS_MAX = 2
"""Units of work that are looked up after a connection lost at COMMIT, before the caller must."""

T = TypeVar("T")


class PostgresLedgerStore:
    """
    Implements LedgerStore.

    Args:
        database: The ledger's database.
        chance: Where stamps come from.
    """

    def __init__(
        self,
        database: Database,
        *,
        chance: random.Random = random.SystemRandom(),  # noqa: B008 - it has no state
    ) -> None:
        self._database = database
        self._chance = chance
        self._kept = KeptFiles()

    async def change(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run one unit of work; see LedgerStore."""

        async def unit(connection: Connection) -> tuple[T, Opened]:
            opened = Opened(Rows(connection, wanted), wanted)
            await opened.lock(self._kept)
            result = work(opened.files)
            stamp = 1 + self._chance.getrandbits(STAMP_BITS - 1)
            await _save(opened.rows, opened.files, stamp=stamp)
            opened.written_under(stamp)
            return result, opened

        try:
            result, opened = await self._settled(unit)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as fault:
            raise UnitRefusedError(type(fault).__name__) from fault
        opened.keep(self._kept)
        return result

    async def _settled(self, unit: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a transaction until its outcome is known, or the caller must ask for it."""
        for _ in range(LOST_COMMITS_MAX):
            # What was written has its ids: the next unit answers from it, or does it now.
            with contextlib.suppress(OutcomeUnknownError):
                return await self._database.run(unit)
        return await self._database.run(unit)

    async def peek(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run a unit of work that is not written back; see LedgerStore."""

        async def unit(connection: Connection) -> T:
            opened = Opened(Rows(connection, wanted), wanted)
            await opened.read()
            return work(opened.files)

        return await self._database.run(unit, isolation="repeatable_read", readonly=True)

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Return lapsed runs; see LedgerStore."""
        rows = await self._database.fetch(sql.LAPSED_RUNS, limit)
        return [LapsedRun(row["account_id"], str(row["request_id"])) for row in rows]


Writes = dict[sql.Statement | sql.Copied, list[tuple[Any, ...]]]


async def _save(rows: Rows, files: Mapping[str, AccountFile], *, stamp: int) -> None:
    """Write what the rules changed, each table's rows in one statement."""
    writes: Writes = {target: [] for target in _WRITE_ORDER}
    for account_id, file in files.items():
        if not file.changed:
            continue
        key = (bucket_of(account_id), account_id)
        _add_money(writes, key, file, stamp=stamp)
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


def _add_money(writes: Writes, key: tuple[int, str], file: AccountFile, *, stamp: int) -> None:
    book = file.book
    if file.changes.account:
        writes[sql.UPDATE_ACCOUNT].append((*key, *records.account_values(file.account, stamp)))
    else:
        # Whatever was changed: the stamp tells of it.
        writes[sql.MOVE_ACCOUNT].append((*key, *records.moved_values(file.account, stamp)))
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
