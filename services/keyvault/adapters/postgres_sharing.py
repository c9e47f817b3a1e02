# SPDX-License-Identifier: Apache-2.0
"""
Shared keys' limits and providers' outages in PostgreSQL, by its own clock.

A lease takes its rows in order and reads the clock under their locks, so that leases of one limit
are counted one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

from asyncpg import Record

from services.keyvault.adapters.postgres_audit import insert_audit
from services.keyvault.domain.allotments import (
    SLOTS,
    UNLIMITED_REQUESTS,
    Window,
    ends_in,
    free_in,
    in_use,
    lease,
    slot_of,
)
from services.keyvault.domain.audit import AuditEntry
from services.keyvault.domain.names import PLATFORM
from services.keyvault.usecases.sharing import Allotment, Outage, SharedLimit, Wish
from services.shared.postgres import Connection, Database

FORGOTTEN_MAX = 200
"""Parts that nobody uses any more and one lease removes: more than it can add."""

_SET_LIMIT = """
INSERT INTO shared_limits (account_id, key_id, requests_per_minute)
SELECT account_id, key_id, $3 FROM keys WHERE account_id = $1 AND key_id = $2
ON CONFLICT (account_id, key_id) DO UPDATE SET requests_per_minute = excluded.requests_per_minute
RETURNING 1
"""
_LIFT_LIMIT = "DELETE FROM shared_limits WHERE account_id = $1 AND key_id = $2"
_FORGET_WHOLE = "DELETE FROM allotments WHERE account_id = $1 AND key_id = $2 AND customer = ''"
_KEY_EXISTS = "SELECT 1 FROM keys WHERE account_id = $1 AND key_id = $2"
_LIMIT = """
SELECT l.requests_per_minute, a.slot, a.leased, extract(epoch FROM clock_timestamp()) AS now
FROM keys k
LEFT JOIN shared_limits l USING (account_id, key_id)
LEFT JOIN allotments a ON a.account_id = k.account_id AND a.key_id = k.key_id AND a.customer = ''
WHERE k.account_id = $1 AND k.key_id = $2
"""
_LOCK_LEASED = """
INSERT INTO allotments AS a (account_id, key_id, customer, most, slot, leased)
SELECT k.account_id, k.key_id, w.customer,
       CASE WHEN w.customer = '' THEN l.requests_per_minute
            ELSE greatest(1, coalesce(l.requests_per_minute, $7) * w.part / 1000000) END,
       $5, $6::bigint[]
FROM unnest($2::text[], $3::text[], $4::bigint[]) AS w (key_id, customer, part)
JOIN keys k ON k.account_id = $1 AND k.key_id = w.key_id
LEFT JOIN shared_limits l ON l.account_id = k.account_id AND l.key_id = k.key_id
WHERE w.customer <> '' OR l.requests_per_minute IS NOT NULL
ORDER BY k.key_id, w.customer
ON CONFLICT (account_id, key_id, customer) DO UPDATE SET most = excluded.most
RETURNING key_id, customer, most, slot, leased
"""
_WRITE_LEASED = """
UPDATE allotments SET slot = $4, leased = $5 WHERE account_id = $1 AND key_id = $2 AND customer = $3
"""
_FORGET_LEASED = """
DELETE FROM allotments WHERE (account_id, key_id, customer) IN (
    SELECT account_id, key_id, customer FROM allotments
    WHERE customer <> '' AND slot < $1 ORDER BY slot LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""
_NOW = "SELECT extract(epoch FROM clock_timestamp())"
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
                await connection.execute(_FORGET_WHOLE, PLATFORM, key_id)
            else:
                await connection.execute(_SET_LIMIT, PLATFORM, key_id, requests_per_minute)
            await insert_audit(connection, [entry])
            return True

        return await self._database.run(unit)

    async def limit(self, key_id: str) -> SharedLimit | None:
        """Read a limit; see the port."""
        row = await self._database.fetchrow(_LIMIT, PLATFORM, key_id)
        if row is None:
            return None
        if row["slot"] is None:
            return SharedLimit(row["requests_per_minute"], 0)
        window, now = _window(row), _seconds(row["now"])
        return SharedLimit(row["requests_per_minute"], in_use(window, slot=slot_of(now)))

    async def lease(self, wishes: Sequence[Wish]) -> list[Allotment]:
        """Lease slices; see the port."""

        async def unit(connection: Connection) -> list[Allotment]:
            empty = Window()
            rows = await connection.fetch(
                _LOCK_LEASED,
                PLATFORM,
                [wish.key_id for wish in wishes],
                [wish.customer for wish in wishes],
                [wish.part_per_million for wish in wishes],
                empty.slot,
                empty.leased,
                UNLIMITED_REQUESTS,
            )
            limits = {(row["key_id"], row["customer"]): row for row in rows}
            now = _seconds(await connection.fetchval(_NOW))
            found, written = [], []
            for wish in wishes:
                row = limits.get((wish.key_id, wish.customer))
                if row is None:
                    found.append(Allotment(wish, None, 0, ends_in(slot_of(now), now=now)))
                    continue
                most, slot = row["most"], slot_of(now)
                window, granted = lease(_window(row), slot=slot, wanted=wish.requests, most=most)
                remaining = ends_in(window.slot, now=now)
                wait = timedelta() if granted else free_in(window, now=now, most=most)
                found.append(Allotment(wish, most, granted, remaining, wait))
                written.append((PLATFORM, wish.key_id, wish.customer, window.slot, window.leased))
            await connection.executemany(_WRITE_LEASED, written)
            await connection.execute(_FORGET_LEASED, slot_of(now) - SLOTS, FORGOTTEN_MAX)
            return found

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


def _window(row: Record) -> Window:
    return Window(row["slot"], tuple(row["leased"]))


def _seconds(epoch: Decimal) -> timedelta:
    return timedelta(seconds=float(epoch))
