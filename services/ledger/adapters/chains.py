# SPDX-License-Identifier: Apache-2.0
"""Links of hash chains on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from services.ledger.adapters import records
from services.ledger.adapters.reader import PostgresLedgerReader
from services.ledger.domain.accounts import bucket_of
from services.ledger.domain.chains import CHAIN_START
from services.ledger.domain.entries import Entry
from services.ledger.usecases.chain import Chained, ChainHead
from services.shared.postgres import Database

HEADS = """
SELECT a.account_id, a.entry_count, coalesce(l.sequence, 0) AS sequence, l.digest
FROM accounts a
LEFT JOIN LATERAL (
    SELECT x.sequence, x.digest FROM entry_links x
    WHERE x.bucket = $1 AND x.account_id = a.account_id
    ORDER BY x.sequence DESC LIMIT 1
) l ON true
WHERE a.bucket = $1 AND a.account_id > $2
ORDER BY a.account_id LIMIT $3
"""

HEAD_SEQUENCE = """
SELECT sequence FROM entry_links WHERE bucket = $1 AND account_id = $2
ORDER BY sequence DESC LIMIT 1
"""

ADD_LINKS = """
INSERT INTO entry_links (bucket, account_id, sequence, digest)
SELECT $1, $2, w.sequence, w.digest FROM unnest($3::bigint[], $4::bytea[]) AS w (sequence, digest)
ON CONFLICT (bucket, account_id, sequence) DO NOTHING
"""

CHAINED = """
SELECT e.*, l.sequence AS link_sequence, l.digest FROM entry_links l
LEFT JOIN entries e
    ON e.bucket = $1 AND e.account_id = l.account_id AND e.sequence = l.sequence
WHERE l.bucket = $1 AND l.account_id = $2 AND l.sequence > $3
ORDER BY l.sequence LIMIT $4
"""


class PostgresChainStore:
    """
    Implements ChainStore.

    Args:
        database: The ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = PostgresLedgerReader(database)

    async def heads(self, bucket: int, *, after: str, limit: int) -> list[ChainHead]:
        """Return heads; see ChainStore."""
        return [
            ChainHead(
                account_id=row["account_id"],
                sequence=row["sequence"],
                digest=row["digest"] or CHAIN_START,
                entry_count=row["entry_count"],
            )
            for row in await self._database.fetch(HEADS, bucket, after, limit)
        ]

    async def head_sequence(self, account_id: str) -> int:
        """Return the last link's number; see ChainStore."""
        row = await self._database.fetchrow(HEAD_SEQUENCE, bucket_of(account_id), account_id)
        return int(row["sequence"]) if row else 0

    async def entries(self, account_id: str, *, after: int, up_to: int, limit: int) -> list[Entry]:
        """Return entries; see ChainStore."""
        return await self._reader.entries(account_id, after=after, up_to=up_to, limit=limit)

    async def add(self, account_id: str, links: Sequence[tuple[int, bytes]]) -> None:
        """Write links; see ChainStore."""
        sequences, digests = (list(column) for column in zip(*links, strict=True))
        bucket = bucket_of(account_id)
        await self._database.execute(ADD_LINKS, bucket, account_id, sequences, digests)

    async def chained(self, account_id: str, *, after: int, limit: int) -> list[Chained]:
        """Return links with their entries; see ChainStore."""
        bucket = bucket_of(account_id)
        rows = await self._database.fetch(CHAINED, bucket, account_id, after, limit)
        return [
            Chained(
                sequence=row["link_sequence"],
                digest=row["digest"],
                entry=records.entry_of(row) if row["sequence"] is not None else None,
            )
            for row in rows
        ]
