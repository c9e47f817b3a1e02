# SPDX-License-Identifier: Apache-2.0
"""Forgets on PostgreSQL what is past the retention, an account at a time, under its lock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.ledger.domain.accounts import bucket_of
from services.ledger.usecases.retention import Expired
from services.shared.postgres import Connection, Database

# Whole UTC days, so that the usage of a day is either all there or all forgotten.
HORIZON = """
SELECT (date_trunc('day', clock_timestamp() AT TIME ZONE 'UTC') - make_interval(days => $1))
    AT TIME ZONE 'UTC'
"""

_OLD = """
    AND r.state <> 'RUNNING'
    AND NOT EXISTS (
        SELECT 1 FROM settlements s
        WHERE s.bucket = r.bucket AND s.account_id = r.account_id
            AND s.request_id = r.request_id AND s.settle_time >= {horizon})
    AND NOT EXISTS (
        SELECT 1 FROM refusals f
        WHERE f.bucket = r.bucket AND f.account_id = r.account_id
            AND f.request_id = r.request_id AND f.create_time >= {horizon})
"""

# Asks all shards and locks nothing; each account is looked at again under its lock.
OLD_REQUESTS = f"""
SELECT r.account_id, r.request_id FROM requests r
WHERE r.create_time < $1 {_OLD.format(horizon="$1")} LIMIT $2
"""  # noqa: S608 - every part is a constant
OLD_OPERATIONS = "SELECT account_id FROM operations WHERE create_time < $1 LIMIT $2"

LOCK = "SELECT account_id FROM accounts WHERE bucket = $1 AND account_id = $2 FOR UPDATE"

STILL_OLD = f"""
SELECT r.request_id FROM requests r
WHERE r.bucket = $1 AND r.account_id = $2 AND r.request_id = ANY($3::uuid[])
    AND r.create_time < $4 {_OLD.format(horizon="$4")}
"""  # noqa: S608 - every part is a constant

# Referring rows first.
FORGET_REQUESTS = tuple(
    f"DELETE FROM {table} WHERE bucket = $1 AND account_id = $2 AND request_id = ANY($3::uuid[])"  # noqa: S608 - constants
    for table in ("settlements", "refusals", "authorizations", "requests")
)
FORGET_OPERATIONS = (
    "DELETE FROM operations WHERE bucket = $1 AND account_id = $2 AND create_time < $3"
)
SET_RETAINED = (
    "UPDATE accounts SET retained_from = greatest(retained_from, $3) "
    "WHERE bucket = $1 AND account_id = $2"
)


class PostgresRetention:
    """
    Implements RetentionStore.

    Args:
        database: The ledger's database.
        days: How long outcomes are kept.
    """

    def __init__(self, database: Database, *, days: int) -> None:
        self._database = database
        self._days = days

    async def expired(self, limit: int) -> Sequence[Expired]:
        """Return what is past the retention; see RetentionStore."""

        async def read(connection: Connection) -> list[Expired]:
            horizon = await connection.fetchval(HORIZON, self._days)
            found: dict[str, list[str]] = {}
            for row in await connection.fetch(OLD_REQUESTS, horizon, limit):
                found.setdefault(row["account_id"], []).append(str(row["request_id"]))
            for row in await connection.fetch(OLD_OPERATIONS, horizon, limit):
                found.setdefault(row["account_id"], [])
            return [Expired(account_id, tuple(ids)) for account_id, ids in sorted(found.items())]

        return await self._database.run(read, readonly=True)

    async def forget(self, expired: Expired) -> int:
        """Forget it; see RetentionStore."""
        key = (bucket_of(expired.account_id), expired.account_id)

        async def unit(connection: Connection) -> int:
            await connection.fetchval(LOCK, *key)
            horizon: datetime = await connection.fetchval(HORIZON, self._days)
            rows = await connection.fetch(STILL_OLD, *key, list(expired.request_ids), horizon)
            ids = [row["request_id"] for row in rows]
            tags = [await connection.execute(text, *key, ids) for text in FORGET_REQUESTS if ids]
            tags.append(await connection.execute(FORGET_OPERATIONS, *key, horizon))
            await connection.execute(SET_RETAINED, *key, horizon)
            # A command tag ends with the number of rows: `DELETE 3`.
            return sum(int(tag.rpartition(" ")[2]) for tag in tags)

        return await self._database.run(unit)
