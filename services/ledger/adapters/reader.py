# SPDX-License-Identifier: Apache-2.0
"""Reads of the ledger on PostgreSQL: without locks, each one short statement or snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime

from services.ledger.adapters import records
from services.ledger.adapters.invariants import INVARIANTS, STRAYS
from services.ledger.domain.accounts import Account, bucket_of
from services.ledger.domain.entries import Entry
from services.ledger.domain.files import ModeChange
from services.ledger.domain.requests import Authorization, AuthorizationState, Request
from services.ledger.domain.usage import UsageKey
from services.ledger.usecases.ports import UsageRow, Violation
from services.shared.postgres import Connection, Database

_ENTRIES = "SELECT * FROM entries WHERE bucket = $1 AND account_id = $2 "

_LAST_SETTLEMENT = """
LEFT JOIN LATERAL (
    SELECT s.state FROM settlements s
    WHERE s.bucket = a.bucket AND s.account_id = a.account_id AND s.request_id = a.request_id
        AND s.claimant = a.claimant AND s.sequence = a.sequence
    ORDER BY s.revision DESC LIMIT 1
) last ON true
"""

_ATTEMPTS = f"""
SELECT a.* FROM authorizations a {_LAST_SETTLEMENT}
WHERE a.bucket = $1 AND a.account_id = $2 AND a.number > 0 AND a.number < $3
    AND ($4::text IS NULL OR coalesce(last.state, 'OPEN') = $4)
ORDER BY a.number DESC LIMIT $5
"""  # noqa: S608 - every part is a constant

_REQUESTS = """
SELECT * FROM requests WHERE bucket = $1 AND account_id = $2 AND request_id = ANY($3::uuid[])
"""

_SETTLEMENTS = """
SELECT s.* FROM unnest($3::uuid[], $4::text[], $5::smallint[])
    AS w (request_id, claimant, sequence)
JOIN settlements s
    ON s.bucket = $1 AND s.account_id = $2 AND s.request_id = w.request_id
    AND s.claimant = w.claimant AND s.sequence = w.sequence
ORDER BY s.revision
"""

_USAGE = """
SELECT * FROM usage_days
WHERE bucket = $1 AND account_id = $2
    AND ($3::date IS NULL OR day >= $3) AND ($4::date IS NULL OR day < $4)
    AND ($5::date IS NULL OR (day, model, provider, key, funding) > ($5, $6, $7, $8, $9))
ORDER BY day, model, provider, key, funding LIMIT $10
"""

_ACCOUNT_PAGE = """
SELECT bucket, account_id, entry_count FROM accounts WHERE (bucket, account_id) > ($1, $2)
ORDER BY bucket, account_id LIMIT $3
"""

VERIFY_SECONDS = 600
"""How long one invariant of one page may take."""


class PostgresLedgerReader:
    """
    Implements LedgerReader.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def account(self, account_id: str) -> Account | None:
        """Return an account; see LedgerReader."""
        row = await self._database.fetchrow(
            "SELECT * FROM accounts WHERE bucket = $1 AND account_id = $2",
            bucket_of(account_id),
            account_id,
        )
        return records.account_of(row) if row else None

    async def entries(self, account_id: str, *, after: int, up_to: int, limit: int) -> list[Entry]:
        """Return entries ascending; see LedgerReader."""
        rows = await self._database.fetch(
            _ENTRIES + "AND sequence > $3 AND sequence <= $4 ORDER BY sequence LIMIT $5",
            bucket_of(account_id),
            account_id,
            after,
            up_to,
            limit,
        )
        return [records.entry_of(row) for row in rows]

    async def entries_before(
        self,
        account_id: str,
        *,
        before: int,
        start: datetime | None,
        end: datetime | None,
        limit: int,
    ) -> list[Entry]:
        """Return entries descending; see LedgerReader."""
        first = await self.last_entry_before(account_id, start) if start else 0
        last = await self.last_entry_before(account_id, end) + 1 if end else before
        rows = await self._database.fetch(
            _ENTRIES + "AND sequence > $3 AND sequence < $4 ORDER BY sequence DESC LIMIT $5",
            bucket_of(account_id),
            account_id,
            first,
            min(before, last),
            limit,
        )
        return [records.entry_of(row) for row in rows]

    async def last_entry_before(self, account_id: str, time: datetime) -> int:
        """Return the number of the last entry before a time; see LedgerReader."""
        # An account's time never goes back, so its entries are in the order of their times and the
        # boundary is found by halving, without an index on time.
        account = await self.account(account_id)
        low, high = 0, account.entry_count if account else 0
        while low < high:
            middle = (low + high + 1) // 2
            row = await self._database.fetchrow(
                _ENTRIES + "AND sequence = $3", bucket_of(account_id), account_id, middle
            )
            if row is not None and row["create_time"] < time:
                low = middle
            else:
                high = middle - 1
        return low

    async def attempts_before(
        self, account_id: str, *, before: int, state: AuthorizationState | None, limit: int
    ) -> list[tuple[Authorization, Request]]:
        """Return attempts descending; see LedgerReader."""

        async def read(connection: Connection) -> list[tuple[Authorization, Request]]:
            rows = await connection.fetch(
                _ATTEMPTS,
                bucket_of(account_id),
                account_id,
                before,
                state.value if state else None,
                limit,
            )
            attempts = [records.authorization_of(row) for row in rows]
            return await _completed(connection, account_id, attempts)

        return await self._database.run(read, isolation="repeatable_read", readonly=True)

    async def attempt(
        self, account_id: str, *, request_id: str, run: int, sequence: int
    ) -> tuple[Authorization, Request] | None:
        """Return one attempt; see LedgerReader."""

        async def read(connection: Connection) -> list[tuple[Authorization, Request]]:
            rows = await connection.fetch(
                "SELECT * FROM authorizations WHERE bucket = $1 AND account_id = $2 "
                "AND request_id = $3 AND run = $4 AND sequence = $5",
                bucket_of(account_id),
                account_id,
                request_id,
                run,
                sequence,
            )
            attempts = [records.authorization_of(row) for row in rows]
            return await _completed(connection, account_id, attempts)

        found = await self._database.run(read, isolation="repeatable_read", readonly=True)
        return found[0] if found else None

    async def request(
        self, account_id: str, request_id: str
    ) -> tuple[Request, list[Authorization]] | None:
        """Return a request with its last run; see LedgerReader."""

        async def read(connection: Connection) -> tuple[Request, list[Authorization]] | None:
            key = (bucket_of(account_id), account_id)
            row = await connection.fetchrow(_REQUESTS, *key, [request_id])
            if row is None:
                return None
            request = records.request_of(row)
            rows = await connection.fetch(
                "SELECT * FROM authorizations WHERE bucket = $1 AND account_id = $2 "
                "AND request_id = $3 AND run = $4 ORDER BY sequence",
                *key,
                request_id,
                request.run,
            )
            attempts = [records.authorization_of(row) for row in rows]
            await _completed(connection, account_id, attempts)
            return request, attempts

        return await self._database.run(read, isolation="repeatable_read", readonly=True)

    async def mode_change(self, account_id: str, mode_epoch: int) -> ModeChange | None:
        """Return the change that began an epoch; see LedgerReader."""
        row = await self._database.fetchrow(
            "SELECT * FROM mode_changes WHERE bucket = $1 AND account_id = $2 AND mode_epoch = $3",
            bucket_of(account_id),
            account_id,
            mode_epoch,
        )
        return records.mode_change_of(account_id, row) if row else None

    async def usage(
        self,
        account_id: str,
        *,
        start: date | None,
        end: date | None,
        after: UsageKey | None,
        limit: int,
    ) -> list[UsageRow]:
        """Return usage; see LedgerReader."""
        place = (
            (after.day, after.model, after.provider, after.key, after.funding.value)
            if after
            else (None, "", "", "", "")
        )
        rows = await self._database.fetch(
            _USAGE, bucket_of(account_id), account_id, start, end, *place, limit
        )
        return [UsageRow(records.usage_key_of(row), records.usage_sum_of(row)) for row in rows]

    async def account_count(self) -> int:
        """Return how many accounts there are; see LedgerReader."""
        row = await self._database.fetchrow("SELECT count(*) AS count FROM accounts")
        return int(row["count"]) if row else 0

    async def account_pages(self, *, size: int) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield all accounts; see LedgerReader."""
        bucket, account_id = -1, ""
        while rows := await self._database.fetch(_ACCOUNT_PAGE, bucket, account_id, size):
            bucket, account_id = rows[-1]["bucket"], rows[-1]["account_id"]
            yield [(row["account_id"], row["entry_count"]) for row in rows]

    async def violations(self, account_ids: Sequence[str]) -> list[Violation]:
        """Return the invariants that do not hold; see LedgerReader."""

        async def read(connection: Connection) -> list[Violation]:
            buckets = sorted({bucket_of(account_id) for account_id in account_ids})
            found = []
            # One account may hold more entries than a statement of a request may read.
            await connection.execute(f"SET LOCAL statement_timeout = '{VERIFY_SECONDS}s'")
            for invariant in INVARIANTS:
                for row in await connection.fetch(
                    invariant.query, buckets, list(account_ids), timeout=VERIFY_SECONDS
                ):
                    text = invariant.sentence.format(**dict(row))
                    found.append(Violation(row["account_id"], invariant.name, text))
            return found

        return await self._database.run(read, isolation="repeatable_read", readonly=True)

    async def strays(self, buckets: range) -> list[Violation]:
        """Return what belongs to no account; see LedgerReader."""
        rows = await self._database.fetch(STRAYS.query, buckets[0], buckets[-1])
        return [
            Violation(row["account_id"], STRAYS.name, STRAYS.sentence.format(**dict(row)))
            for row in rows
        ]


async def _completed(
    connection: Connection, account_id: str, attempts: list[Authorization]
) -> list[tuple[Authorization, Request]]:
    """Give attempts their settlements and return them with their requests."""
    key = (bucket_of(account_id), account_id)
    ids = sorted({attempt.request_id for attempt in attempts})
    rows = await connection.fetch(_REQUESTS, *key, ids)
    requests = {str(row["request_id"]): records.request_of(row) for row in rows}
    by_key = {(a.request_id, a.claimant, a.sequence): a for a in attempts}
    if by_key:
        columns = (list(column) for column in zip(*by_key, strict=True))
        for row in await connection.fetch(_SETTLEMENTS, *key, *columns):
            place = (str(row["request_id"]), row["claimant"], row["sequence"])
            by_key[place].settlements.append(records.settlement_of(row))
    return [(attempt, requests[attempt.request_id]) for attempt in attempts]
