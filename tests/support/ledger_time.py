# SPDX-License-Identifier: Apache-2.0
"""Makes a ledger's accounts older, as if months had passed."""

from __future__ import annotations

import asyncpg

from tests.support.ledger import rewrite

_COLUMNS = """
SELECT table_name, array_agg(column_name::text) AS columns FROM information_schema.columns c
WHERE table_schema = 'public' AND data_type IN ('timestamp with time zone', 'date')
    AND is_generated = 'NEVER' AND column_name <> 'lease_expire_time'
    AND EXISTS (
        SELECT 1 FROM information_schema.columns k
        WHERE k.table_schema = 'public' AND k.table_name = c.table_name
            AND k.column_name = 'account_id')
GROUP BY 1
"""

FAR = 1200
"""Months to a time of which there are no rows: two rows may not meet while they are moved."""


async def months_pass(dsn: str, account_id: str, months: int) -> None:
    """Make everything of an account that many calendar months older; running leases go on."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch(_COLUMNS)
    finally:
        await connection.close()
    statements = ["SET timezone = 'UTC'"]
    for table in tables:
        for step in (-FAR, FAR - months):
            moves = ", ".join(
                f"{name} = {name} + interval '{step} months'" for name in table["columns"]
            )
            statements.append(
                f"UPDATE {table['table_name']} SET {moves} WHERE account_id = '{account_id}'"  # noqa: S608
            )
    await rewrite(dsn, *statements)
