# SPDX-License-Identifier: Apache-2.0
"""
Revocations in PostgreSQL, and replaying them.

Who replays or accepts holds the one row of `served_database`; keys change under nobody's hand
meanwhile, as the store refuses to change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.keyvault.adapters.postgres_audit import insert_audit
from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.names import PLATFORM
from services.keyvault.domain.revocations import (
    PAGE_MAX,
    Page,
    RestoreState,
    Revocation,
    RevocationKind,
)
from services.keyvault.usecases.housekeeping import CHANGES_KEPT
from services.shared.postgres import Connection, Database
from services.shared.secret import Secret

_TRUST = """
UPDATE served_database SET promotions_trusted = $1 WHERE promotions_trusted <> $1
"""
_STATE = """
SELECT s.served, t.system || '-' || t.timeline AS database,
       d.system || '-' || d.timeline AS accepted_database, d.accept_time, d.accepted_by,
       greatest(h.sequence, d.replayed_through) AS through,
       d.replayed_through IS NOT NULL AS replayed
FROM database_served s, this_database t, served_database d, change_head h
"""
_LOCK = "SELECT 1 FROM served_database FOR UPDATE"
# One statement sees one moment: up to the head's number nothing is missing.
_PAGE = """
SELECT h.sequence AS head, d.system || '-' || d.timeline AS database,
       clock_timestamp() AS read_time, r.*
FROM change_head h CROSS JOIN served_database d LEFT JOIN LATERAL (
    SELECT sequence, account_id, key_id, kind, version FROM revocations
    WHERE sequence > $1 ORDER BY sequence FETCH FIRST $2 ROWS WITH TIES
) r ON true
ORDER BY r.sequence, r.key_id, r.kind
"""
# Of a page: first what must stop serving, then its own lines, which the next export holds again.
_REPLAY = """
WITH page AS (
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS p (sequence, account_id, key_id, kind, version)
), kept AS (
    INSERT INTO revocations (sequence, account_id, key_id, kind, version)
    SELECT sequence, account_id, key_id, kind, version FROM page ON CONFLICT DO NOTHING
), gone AS (
    DELETE FROM keys k USING page p
    WHERE (k.account_id, k.key_id) = (p.account_id, p.key_id) AND p.kind = 'DELETED'
    RETURNING k.account_id, k.key_id, k.current_version
), named AS (
    INSERT INTO deleted_keys (account_id, key_id, last_version)
    SELECT account_id, key_id, current_version FROM gone ON CONFLICT DO NOTHING
), replaced AS (
    SELECT account_id, key_id, max(version) AS version FROM page
    WHERE kind = 'REPLACED' GROUP BY 1, 2
), destroyed AS (
    DELETE FROM key_secrets s USING replaced r
    WHERE (s.account_id, s.key_id) = (r.account_id, r.key_id) AND s.version <= r.version
), forgotten AS (
    UPDATE key_versions v SET destroy_time = clock_timestamp(), secret_mac = NULL FROM replaced r
    WHERE (v.account_id, v.key_id) = (r.account_id, r.key_id) AND v.version <= r.version
        AND v.destroy_time IS NULL
), disabled AS (
    UPDATE keys k
    SET enabled = false, revision = revision + 1, update_time = clock_timestamp()
    WHERE k.enabled AND EXISTS (
        SELECT 1 FROM page p
        WHERE (k.account_id, k.key_id) = (p.account_id, p.key_id)
            AND (p.kind = 'DISABLED' OR (p.kind = 'REPLACED' AND k.current_version <= p.version))
    ) AND (k.account_id, k.key_id) NOT IN (
        SELECT account_id, key_id FROM page WHERE kind = 'DELETED'
    )
    RETURNING k.account_id, k.key_id, k.current_version
)
SELECT account_id, key_id, current_version, 'deleted' AS became FROM gone
UNION ALL SELECT account_id, key_id, current_version, 'disabled' FROM disabled
"""
_KEPT_ACTIVE = """
UPDATE accounts a SET active_provider = '', revision = revision + 1
WHERE account_id = ANY($1::text[]) AND active_provider <> '' AND NOT EXISTS (
    SELECT 1 FROM keys k WHERE k.account_id = a.account_id AND k.provider = a.active_provider
)
"""
_REPLAYED = """
UPDATE served_database SET replayed_through = greatest(replayed_through, $1::bigint)
"""
# The feed goes on past every place that a router may hold, so that each begins anew.
_MOVE_HEAD = """
UPDATE change_head SET sequence = greatest(sequence, $1::bigint) + $2
"""
_ACCEPT = """
UPDATE served_database d
SET system = t.system, timeline = t.timeline, restored = false, replayed_through = NULL,
    accept_time = now(), accepted_by = $1
FROM this_database t
"""


class PostgresRestoring:
    """
    Revocations, and which database may serve.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def trust_promotions(self, *, trusted: bool) -> None:
        """Set whether a promoted standby serves without being accepted."""
        await self._database.execute(_TRUST, trusted)

    async def state(self) -> RestoreState:
        """Return where it stands."""
        [row] = await self._database.fetch(_STATE)
        return _state(row)

    async def page(self, after: int) -> Page:
        """Return the revocations after a number; see the port."""
        rows = await self._database.fetch(_PAGE, after, PAGE_MAX)
        found = [
            Revocation(
                row["account_id"],
                row["key_id"],
                RevocationKind(row["kind"]),
                row["version"],
                row["sequence"],
            )
            for row in rows
            if row["sequence"] is not None
        ]
        first = rows[0]
        through = found[-1].sequence if len(found) >= PAGE_MAX else max(after, first["head"])
        return Page(first["database"], after, through, first["read_time"], found)

    async def replay(self, page: Page, mac: bytes, *, key: Secret, actor: str) -> int:
        """Check a page and revoke what it says; see the port."""

        async def unit(connection: Connection) -> int:
            await connection.execute(_LOCK)
            state = _state(await connection.fetchrow(_STATE))
            state.check_page(page, mac, key)
            rows = await connection.fetch(
                _REPLAY,
                [one.sequence for one in page.revocations],
                [one.account for one in page.revocations],
                [one.key_id for one in page.revocations],
                [one.kind.value for one in page.revocations],
                [one.version for one in page.revocations],
            )
            await connection.execute(_KEPT_ACTIVE, [row["account_id"] for row in rows])
            await insert_audit(connection, [_replayed(row, actor) for row in rows])
            # A page that ends before the backup says nothing about what came after it.
            if page.through >= state.through:
                await connection.execute(_REPLAYED, page.through)
            return len(rows)

        return await self._database.run(unit)

    async def accept(self, *, replayed_through: int | None, name: str, actor: str) -> None:
        """Let the database serve; see the port."""

        async def unit(connection: Connection) -> None:
            await connection.execute(_LOCK)
            state = _state(await connection.fetchrow(_STATE))
            if state.serving:
                return
            state.check_acceptance(replayed_through)
            details = {
                "accepted_by": name,
                "restored": state.accepted_database,
                "database": state.database,
                "replayed_through": "none" if replayed_through is None else str(replayed_through),
            }
            entry = AuditEntry(PLATFORM, actor, AuditAction.ACCEPT_RESTORE, details=details)
            await insert_audit(connection, [entry])
            await connection.execute(_MOVE_HEAD, state.through, CHANGES_KEPT)
            await connection.execute(_ACCEPT, name)

        await self._database.run(unit)


def _state(row: Mapping[str, Any]) -> RestoreState:
    return RestoreState(
        serving=row["served"],
        database=row["database"],
        accepted_database=row["accepted_database"],
        accept_time=row["accept_time"],
        accepted_by=row["accepted_by"],
        through=row["through"],
        replayed=row["replayed"],
    )


def _replayed(row: Mapping[str, Any], actor: str) -> AuditEntry:
    return AuditEntry(
        account=row["account_id"],
        actor=actor,
        action=AuditAction.REPLAY,
        key_id=row["key_id"],
        version=row["current_version"],
        details={"became": row["became"]},
    )
