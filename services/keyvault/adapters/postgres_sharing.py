# SPDX-License-Identifier: Apache-2.0
"""
Shared keys' limits and providers' outages in PostgreSQL, by its own clock.

A lease takes its rows in order. Whoever waited for a row past the end of a minute goes on in the
minute that the row has reached, so a minute is never leased out twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from services.keyvault.adapters.postgres_audit import insert_audit
from services.keyvault.domain.audit import AuditEntry
from services.keyvault.domain.names import PLATFORM
from services.keyvault.usecases.sharing import Allotment, Outage, Wish
from services.shared.postgres import Connection, Database

FORGOTTEN_MAX = 200
"""Parts of past minutes that one lease removes: more than it can add."""

_SET_LIMIT = """
INSERT INTO shared_limits (account_id, key_id, requests_per_minute)
SELECT account_id, key_id, $3 FROM keys WHERE account_id = $1 AND key_id = $2
ON CONFLICT (account_id, key_id) DO UPDATE SET requests_per_minute = excluded.requests_per_minute
RETURNING 1
"""
_LIFT_LIMIT = "DELETE FROM shared_limits WHERE account_id = $1 AND key_id = $2"
_KEY_EXISTS = "SELECT 1 FROM keys WHERE account_id = $1 AND key_id = $2"
_LEASE = """
INSERT INTO allotments AS a (account_id, key_id, customer, minute, most, leased, granted)
SELECT account_id, key_id, customer, date_trunc('minute', statement_timestamp()), most,
       least(requests, most), least(requests, most)
FROM (
    SELECT l.account_id, l.key_id, w.customer, w.requests,
           CASE WHEN w.customer = '' THEN l.requests_per_minute
                ELSE greatest(1, l.requests_per_minute * w.part / 1000000) END AS most
    FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[])
        AS w (key_id, customer, part, requests)
    JOIN shared_limits l ON l.account_id = $1 AND l.key_id = w.key_id
) wished
ORDER BY key_id, customer
ON CONFLICT (account_id, key_id, customer) DO UPDATE SET
    minute = greatest(a.minute, excluded.minute),
    most = excluded.most,
    leased = CASE WHEN a.minute < excluded.minute THEN excluded.granted
             ELSE a.leased + least(excluded.granted, greatest(0, excluded.most - a.leased)) END,
    granted = CASE WHEN a.minute < excluded.minute THEN excluded.granted
              ELSE least(excluded.granted, greatest(0, excluded.most - a.leased)) END
RETURNING key_id, customer, most, granted,
          minute + interval '1 minute' - clock_timestamp() AS remaining
"""
_FORGET_LEASED = """
DELETE FROM allotments WHERE (account_id, key_id, customer) IN (
    SELECT account_id, key_id, customer FROM allotments
    WHERE customer <> '' AND minute < date_trunc('minute', statement_timestamp())
    ORDER BY minute LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""
_REMAINING = """
SELECT date_trunc('minute', t.now) + interval '1 minute' - t.now
FROM (SELECT clock_timestamp() AS now) t
"""
_ADD_OUTAGES = """
INSERT INTO outages AS o (provider, host, model, until_time)
SELECT provider, host, model, clock_timestamp() + max(remaining)
FROM unnest($1::text[], $2::text[], $3::text[], $4::interval[])
    AS f (provider, host, model, remaining)
GROUP BY provider, host, model ORDER BY provider, host, model
ON CONFLICT (provider, host, model)
    DO UPDATE SET until_time = greatest(o.until_time, excluded.until_time)
"""
_FORGET_OUTAGES = "DELETE FROM outages WHERE until_time <= clock_timestamp()"
_OUTAGES = """
SELECT provider, host, model, until_time - clock_timestamp() AS remaining FROM outages
WHERE until_time > clock_timestamp() ORDER BY until_time DESC LIMIT $1
"""


class PostgresSharing:
    """
    Limits and outages.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set_limit(
        self, key_id: str, requests_per_minute: int | None, entry: AuditEntry
    ) -> bool:
        """Set or lift a limit and record it; see the port."""

        async def unit(connection: Connection) -> bool:
            if await connection.fetchrow(_KEY_EXISTS, PLATFORM, key_id) is None:
                return False
            if requests_per_minute is None:
                await connection.execute(_LIFT_LIMIT, PLATFORM, key_id)
            else:
                await connection.execute(_SET_LIMIT, PLATFORM, key_id, requests_per_minute)
            await insert_audit(connection, [entry])
            return True

        return await self._database.run(unit)

    async def lease(self, wishes: Sequence[Wish]) -> list[Allotment]:
        """Lease slices; see the port."""

        async def unit(connection: Connection) -> list[Allotment]:
            rows = await connection.fetch(
                _LEASE,
                PLATFORM,
                [wish.key_id for wish in wishes],
                [wish.customer for wish in wishes],
                [wish.part_per_million for wish in wishes],
                [wish.requests for wish in wishes],
            )
            leased = {(row["key_id"], row["customer"]): row for row in rows}
            await connection.execute(_FORGET_LEASED, FORGOTTEN_MAX)
            left: timedelta = await connection.fetchval(_REMAINING)
            return [
                Allotment(wish, None, 0, left)
                if (row := leased.get((wish.key_id, wish.customer))) is None
                else Allotment(
                    wish, row["most"], row["granted"], max(timedelta(), row["remaining"])
                )
                for wish in wishes
            ]

        return await self._database.run(unit)

    async def exchange(self, found: Sequence[Outage], *, limit: int) -> list[Outage]:
        """Add outages and return what is not over; see the port."""

        async def unit(connection: Connection) -> list[Outage]:
            if found:
                await connection.execute(_FORGET_OUTAGES)
                await connection.execute(
                    _ADD_OUTAGES,
                    [outage.provider for outage in found],
                    [outage.host for outage in found],
                    [outage.model for outage in found],
                    [outage.remaining for outage in found],
                )
            rows = await connection.fetch(_OUTAGES, limit)
            return [Outage(r["provider"], r["host"], r["model"], r["remaining"]) for r in rows]

        return await self._database.run(unit)
