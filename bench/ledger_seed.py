# SPDX-License-Identifier: Apache-2.0
"""Fill a ledger's database with accounts that own credits and have a history, by COPY."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from bench.ledger_load import account_name
from services.ledger.domain.accounts import bucket_of

PLANS = """
plans:
  - id: bench
    allowed_modes: [CREDITS, OWN_KEY_FIRST]
    default_mode: OWN_KEY_FIRST
    credit_value_nano_usd: 10_000_000
    markup_parts_per_million: 1_200_000
    fee: {basis: CREDIT_PRICE, rate_parts_per_million: 50_000, source: CREDITS}
"""
OWNED = 10**16
TIME = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNTS_PER_COPY = 20_000


async def fill(
    connection: asyncpg.Connection[asyncpg.Record], *, accounts: int, entries: int
) -> None:
    """
    Make accounts with one grant each and the same number of entries each.

    Args:
        connection: To a migrated, empty database.
        accounts: How many.
        entries: Of all together; a multiple of it.
    """
    each = max(1, entries // accounts)
    for start in range(0, accounts, ACCOUNTS_PER_COPY):
        numbers = range(start, min(accounts, start + ACCOUNTS_PER_COPY))
        keys = [(bucket_of(account_name(n)), account_name(n)) for n in numbers]
        for table, rows in (
            ("accounts", _accounts(keys, each)),
            ("grants", _grants(keys, each)),
            ("entries", _entries(keys, each)),
        ):
            first = next(rows)
            await connection.copy_records_to_table(
                table,
                columns=list(first),
                records=(tuple(row.values()) for row in _all(first, rows)),
            )
    await connection.execute("VACUUM (ANALYZE)")


Row = dict[str, Any]


def _all(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _accounts(keys: list[tuple[int, str]], each: int) -> Iterator[Row]:
    for bucket, account_id in keys:
        yield {
            "bucket": bucket,
            "account_id": account_id,
            "plan_id": "bench",
            "billing_mode": "OWN_KEY_FIRST",
            "mode_epoch": 1,
            "fallback_consent": "ANY",
            "overdraft_limit": 0,
            "credits": OWNED * each,
            "issued": OWNED * each,
            "entry_count": each,
            "last_time": TIME,
            "create_time": TIME,
            "update_time": TIME,
        }


def _grants(keys: list[tuple[int, str]], each: int) -> Iterator[Row]:
    for bucket, account_id in keys:
        yield {
            "bucket": bucket,
            "account_id": account_id,
            "grant_id": "g1",
            "kind": "PURCHASED",
            "amount": OWNED * each,
            "remaining": OWNED * each,
            "reserved": 0,
            "paused_before": timedelta(),
            "note": "",
            "create_time": TIME,
            "number": 1,
        }


def _entries(keys: list[tuple[int, str]], each: int) -> Iterator[Row]:
    for bucket, account_id in keys:
        for sequence in range(1, each + 1):
            yield {
                "bucket": bucket,
                "account_id": account_id,
                "sequence": sequence,
                "kind": "GRANT",
                "debit": "ISSUED",
                "credit": "CREDITS",
                "amount": OWNED,
                "posted_after": OWNED * sequence,
                "grant_id": "g1",
                "authorization_id": "",
                "mode_epoch": 1,
                "credits_asked": False,
                "reason": "",
                "actor": "",
                "create_time": TIME,
            }
