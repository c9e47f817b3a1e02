# SPDX-License-Identifier: Apache-2.0
"""Fill a ledger's database with accounts that own credits and have a history, by COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    connection: asyncpg.Connection[asyncpg.Record],
    *,
    accounts: int,
    entries: int,
    first: int = 0,
    name: Callable[[int], str] = account_name,
    plan: str = "bench",
) -> None:
    """
    Make accounts with one grant each and the same number of entries each.

    Args:
        connection: To a migrated database.
        accounts: How many there are in the end.
        entries: Of all together; a multiple of it.
        first: The first one's number; those before it are there already.
        name: Gives the id of an account by its number.
        plan: Their plan.
    """
    each = max(1, entries // accounts)
    for start in range(first, accounts, ACCOUNTS_PER_COPY):
        numbers = range(start, min(accounts, start + ACCOUNTS_PER_COPY))
        keys = [(bucket_of(name(n)), name(n)) for n in numbers]
        for table, columns, rows in (
            ("accounts", ACCOUNT_COLUMNS, _accounts(keys, each, plan)),
            ("mode_changes", MODE_CHANGE_COLUMNS, _mode_changes(keys, plan)),
            ("grants", GRANT_COLUMNS, _grants(keys, each)),
            ("entries", ENTRY_COLUMNS, _entries(keys, each)),
        ):
            await connection.copy_records_to_table(table, columns=columns, records=rows)
    await connection.execute("VACUUM (ANALYZE)")


Row = tuple[Any, ...]

ACCOUNT_COLUMNS = (
    "bucket",
    "account_id",
    "plan_id",
    "billing_mode",
    "mode_epoch",
    "fallback_consent",
    "overdraft_limit",
    "credits",
    "issued",
    "entry_count",
    "last_time",
    "create_time",
    "update_time",
)
MODE_CHANGE_COLUMNS = (
    "bucket",
    "account_id",
    "mode_epoch",
    "billing_mode",
    "plan_id",
    "entry_sequence",
    "posted",
    "reserved",
    "actor",
    "create_time",
)
GRANT_COLUMNS = (
    "bucket",
    "account_id",
    "grant_id",
    "kind",
    "amount",
    "remaining",
    "reserved",
    "paused_before",
    "note",
    "create_time",
    "number",
)
ENTRY_COLUMNS = (
    "bucket",
    "account_id",
    "sequence",
    "kind",
    "debit",
    "credit",
    "amount",
    "posted_after",
    "grant_id",
    "authorization_id",
    "mode_epoch",
    "credits_asked",
    "reason",
    "actor",
    "create_time",
)


def _accounts(keys: list[tuple[int, str]], each: int, plan: str) -> Iterator[Row]:
    mode, owned = "OWN_KEY_FIRST", OWNED * each
    for key in keys:
        yield (*key, plan, mode, 1, "ANY", 0, owned, owned, each, TIME, TIME, TIME)


def _mode_changes(keys: list[tuple[int, str]], plan: str) -> Iterator[Row]:
    for key in keys:
        yield (*key, 1, "OWN_KEY_FIRST", plan, 0, 0, 0, "", TIME)


def _grants(keys: list[tuple[int, str]], each: int) -> Iterator[Row]:
    owned = OWNED * each
    for key in keys:
        yield (*key, "g1", "PURCHASED", owned, owned, 0, timedelta(), "", TIME, 1)


def _entries(keys: list[tuple[int, str]], each: int) -> Iterator[Row]:
    head, tail = ("GRANT", "ISSUED", "CREDITS", OWNED), ("g1", "", 1, False, "", "", TIME)
    for key in keys:
        for sequence in range(1, each + 1):
            yield (*key, sequence, *head, OWNED * sequence, *tail)
