# SPDX-License-Identifier: Apache-2.0
"""
Used proofs in PostgreSQL.

A proof is spent and its release recorded by one transaction. Each use also removes a few that are
past their time, more than it adds, so the table stays as small as what is fresh.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from services.keyvault.adapters.key_rows import refuse_restored
from services.keyvault.adapters.postgres_audit import insert_audit
from services.keyvault.domain.audit import AuditEntry
from services.shared.postgres import Connection, Database

FORGOTTEN_MAX = 4
_KEPT_LONGER = timedelta(hours=1)
"""Past its expiry a proof is refused as such; this covers clocks that are apart."""

# Returns a row if the proof is new, or still serves its job.
_SPEND = """
INSERT INTO used_proofs AS p (account_id, digest, reuse_until, keep_until)
VALUES ($1, $2, clock_timestamp() + $3::interval,
        greatest($4::timestamptz, clock_timestamp() + coalesce($3::interval, '0')))
ON CONFLICT (account_id, digest) DO UPDATE SET digest = p.digest
    WHERE p.reuse_until > clock_timestamp()
RETURNING 1
"""
_SERVES = """
SELECT 1 FROM used_proofs
WHERE account_id = $1 AND digest = $2 AND reuse_until > clock_timestamp()
"""
_SERVED = "SELECT served FROM database_served"
_FORGET = """
DELETE FROM used_proofs WHERE (account_id, digest) IN (
    SELECT account_id, digest FROM used_proofs WHERE keep_until < clock_timestamp()
    ORDER BY keep_until LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""


class PostgresProofs:
    """
    The used proofs.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def serves_a_job(self, account: str, digest: bytes) -> bool:
        """Tell whether a job's proof was used in its time and still serves that job."""
        return await self._database.fetchrow(_SERVES, account, digest) is not None

    async def spend(
        self,
        account: str,
        digest: bytes,
        *,
        expire_time: datetime,
        reuse: timedelta | None,
        entry: AuditEntry,
    ) -> bool:
        """Spend a proof and record the release it is for; see the port."""

        async def unit(connection: Connection) -> bool:
            refuse_restored(await connection.fetchrow(_SERVED))
            kept = expire_time + _KEPT_LONGER
            spent = await connection.fetchrow(_SPEND, account, digest, reuse, kept)
            if spent is None:
                return False
            await connection.execute(_FORGET, FORGOTTEN_MAX)
            await insert_audit(connection, [entry])
            return True

        return await self._database.run(unit)
