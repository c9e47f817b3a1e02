# SPDX-License-Identifier: Apache-2.0
"""How the ledger's PostgreSQL stands."""

from __future__ import annotations

from services.ledger.usecases.metering import Condition
from services.shared.postgres import Database

OPEN_HOLDS = """
SELECT count(*) AS count FROM requests r
JOIN authorizations x ON x.bucket = r.bucket AND x.account_id = r.account_id
    AND x.request_id = r.request_id AND x.run = r.run
WHERE r.state = 'RUNNING' AND NOT EXISTS (
    SELECT 1 FROM settlements s
    WHERE s.bucket = x.bucket AND s.account_id = x.account_id
        AND s.request_id = x.request_id AND s.claimant = x.claimant
        AND s.sequence = x.sequence)
"""

# Only the levels from remote_write on wait for the standbys that are named.
# https://www.postgresql.org/docs/18/runtime-config-wal.html#GUC-SYNCHRONOUS-COMMIT
SYNCHRONOUS = """
SELECT current_setting('synchronous_standby_names') <> ''
    AND current_setting('synchronous_commit') NOT IN ('off', 'local') AS waits
"""


class PostgresCondition:
    """
    Implements ConditionReader.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Condition:
        """Return how it stands; see ConditionReader."""
        (holds,) = await self._database.fetch(OPEN_HOLDS)
        (synchronous,) = await self._database.fetch(SYNCHRONOUS)
        return Condition(holds["count"], synchronous["waits"])
