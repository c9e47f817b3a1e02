# SPDX-License-Identifier: Apache-2.0
"""The audit trail in PostgreSQL: rows are only added; a trigger refuses anything else."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from services.keyvault.domain.audit import AuditAction, AuditEntry, AuditEvent
from services.shared.postgres import Connection, Database

# One statement however many entries there are, and one text: it is made several times faster than
# the driver makes arrays.
_INSERT = """
INSERT INTO audit_events (account_id, actor, action, key_id, version, request_id, details)
SELECT e ->> 0, e ->> 1, e ->> 2, e ->> 3, (e ->> 4)::bigint, e ->> 5, (e -> 6)::jsonb
FROM json_array_elements($1::json) WITH ORDINALITY AS n (e, place) ORDER BY place
"""
_PAGE = """
SELECT number, event_time, account_id, actor, action, key_id, version, request_id, details
FROM audit_events WHERE account_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3
"""
_NUMBER_MAX = 2**63 - 1


async def insert_audit(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Add entries within a transaction."""
    await connection.execute(_INSERT, _json(entries))


class PostgresAuditLog:
    """
    The audit trail.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries; they are durable when this returns."""
        await self._database.execute(_INSERT, _json(entries))

    async def page(self, account: str, *, before: int | None, limit: int) -> list[AuditEvent]:
        """Return an account's entries, newest first, older than a number."""
        bound = _NUMBER_MAX if before is None else before
        rows = await self._database.fetch(_PAGE, account, bound, limit)
        return [
            AuditEvent(
                number=row["number"],
                event_time=row["event_time"],
                entry=AuditEntry(
                    account=row["account_id"],
                    actor=row["actor"],
                    action=AuditAction(row["action"]),
                    key_id=row["key_id"],
                    version=row["version"],
                    request_id=row["request_id"],
                    details=json.loads(row["details"]),
                ),
            )
            for row in rows
        ]


def _json(entries: Sequence[AuditEntry]) -> str:
    rows = [
        (
            *(entry.account, entry.actor, entry.action.value, entry.key_id, entry.version),
            *(entry.request_id, entry.details),
        )
        for entry in entries
    ]
    return msgspec.json.encode(rows).decode()
