# SPDX-License-Identifier: Apache-2.0
"""
The SQL of a unit of work: a few statements for all its accounts, whatever their number.

Rules:
1. Every statement takes its rows as arrays, one for each column, after the bucket.
2. Every statement exists in two texts that differ in nothing but the bucket. `one_bucket` takes one
   bucket as $1 and filters on it, so a cluster runs it on the one shard that holds that bucket.
   `many_buckets` takes a bucket for each row as $1: on a single server, where a unit of work may
   span buckets, its statements are as many as for one.
3. Rows that are only ever added are copied in, bucket and account first: a cluster sends each to
   the shard of its bucket.
4. Columns stand in the order in which `records` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.ledger.domain.usage import UsageUnits

_KEYS = {"account_id": "text"}
_REQUEST_KEYS = {**_KEYS, "request_id": "uuid"}
_CLAIMANT_KEYS = {**_REQUEST_KEYS, "claimant": "text"}

Column = Callable[[Sequence[Any]], Any]
"""Turns the values of a column into the one that travels."""


def plain_array(values: Iterable[Any]) -> str:
    """Write numbers, times, truth values or UUIDs, and None for NULL, as an array's text."""
    # Several times faster than to encode them one by one as an array, on both sides together.
    return "{" + ",".join(map(str, values)).replace("None", "NULL") + "}"


def text_array(values: Sequence[str]) -> str:
    """Write texts, at least one and none of them None, as an array's text."""
    inner = '","'.join(values)
    if "\\" in inner or inner.count('"') != 2 * (len(values) - 1):
        inner = '","'.join(value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return f'{{"{inner}"}}'


_AS_TEXT: Mapping[str, Column] = {
    "text": text_array,
    **dict.fromkeys(
        ("smallint", "integer", "bigint", "boolean", "date", "timestamptz", "uuid"), plain_array
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """
    One statement on the rows of a unit of work.

    Args:
        one_bucket: Its text for rows of one bucket, $1 smallint.
        many_buckets: Its text for rows of any bucket, $1 smallint[] as text.
        columns: How each array after the bucket travels.
    """

    one_bucket: str
    many_buckets: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """
    Rows that a unit of work adds to a table.

    Args:
        table: The table.
        columns: Its columns that are written; the rest has defaults.
    """

    table: str
    columns: tuple[str, ...]


def _statement(template: str, columns: Mapping[str, str]) -> Statement:
    """
    Return a statement of a template.

    Args:
        template: SQL in which `{wanted}` is the rows asked for, as `w`, and `{bucket}` the bucket
            of such a row.
        columns: Type of each array after the bucket, by its column in `w`.
    """

    def rows(typed: Mapping[str, str], *, first: int) -> str:
        arrays = ", ".join(
            f"${place}::text::{type_}[]" if type_ in _AS_TEXT else f"${place}::{type_}[]"
            for place, type_ in enumerate(typed.values(), first)
        )
        return f"unnest({arrays}) AS w ({', '.join(typed)})"

    one = rows(columns, first=2)
    many = rows({"bucket": "smallint", **columns}, first=1)
    return Statement(
        one_bucket=template.format(wanted=one, bucket="$1::smallint"),
        many_buckets=template.format(wanted=many, bucket="w.bucket"),
        columns=tuple(_AS_TEXT.get(type_, list) for type_ in columns.values()),
    )


def _copied(table: str, *columns: str) -> Copied:
    return Copied(table, ("bucket", "account_id", *columns))


def _insert(table: str, columns: Mapping[str, str], *, conflict: str = "") -> Statement:
    values = (f"w.{name}" for name in columns)
    template = (
        f"INSERT INTO {table} (bucket, account_id, {', '.join(columns)}) "  # noqa: S608 - constants
        f"SELECT {{bucket}}, w.account_id, {', '.join(values)} FROM {{wanted}} {conflict}"
    )
    return _statement(template, {**_KEYS, **columns})


def _update(table: str, keys: Mapping[str, str], columns: Mapping[str, str]) -> Statement:
    assigned = ", ".join(f"{name} = w.{name}" for name in columns)
    same = " AND ".join(f"t.{name} = w.{name}" for name in keys)
    template = (
        f"UPDATE {table} t SET {assigned} FROM {{wanted}} "  # noqa: S608 - constants
        f"WHERE t.bucket = {{bucket}} AND {same}"
    )
    return _statement(template, {**keys, **columns})


def _replacing(key: str, columns: tuple[str, ...]) -> str:
    assigned = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return f"ON CONFLICT (bucket, account_id, {key}) DO UPDATE SET {assigned}"


CREATE_ACCOUNT = """
INSERT INTO accounts (bucket, account_id, plan_id, billing_mode, mode_epoch, fallback_consent,
    overdraft_limit, last_time, create_time, update_time)
SELECT $1, $2, '', 'CREDITS', 1, 'ANY', 0, now, now, now FROM clock_timestamp() AS now
ON CONFLICT (bucket, account_id) DO NOTHING
RETURNING account_id
"""

READ_ACCOUNTS = _statement(
    """
SELECT a.*, clock_timestamp() AS clock FROM {wanted} JOIN accounts a
    ON a.bucket = {bucket} AND a.account_id = w.account_id
""",
    _KEYS,
)

# All lock in one order. The clock of each row is read after its lock was taken, for which it may
# have waited.
LOCK_ACCOUNTS = _statement(
    """
SELECT l.account_id, l.stamp, clock_timestamp() AS clock FROM (
    SELECT a.account_id, a.stamp FROM {wanted} JOIN accounts a
        ON a.bucket = {bucket} AND a.account_id = w.account_id
    ORDER BY a.bucket, a.account_id FOR UPDATE OF a
) l
""",
    _KEYS,
)

READ_UNSPENT_GRANTS = _statement(
    """
SELECT g.* FROM {wanted} JOIN grants g
    ON g.bucket = {bucket} AND g.account_id = w.account_id AND NOT g.spent
""",
    _KEYS,
)

READ_GRANTS = _statement(
    """
SELECT g.* FROM {wanted} JOIN grants g
    ON g.bucket = {bucket} AND g.account_id = w.account_id AND g.grant_id = w.grant_id
""",
    {**_KEYS, "grant_id": "text"},
)

READ_REQUESTS = _statement(
    """
SELECT r.* FROM {wanted} JOIN requests r
    ON r.bucket = {bucket} AND r.account_id = w.account_id AND r.request_id = w.request_id
""",
    _REQUEST_KEYS,
)

READ_ATTEMPTS = _statement(
    """
SELECT a.* FROM {wanted} JOIN authorizations a
    ON a.bucket = {bucket} AND a.account_id = w.account_id AND a.request_id = w.request_id
    AND (a.run = w.run OR a.claimant = w.claimant)
""",
    {**_CLAIMANT_KEYS, "run": "integer"},
)

READ_SETTLEMENTS = _statement(
    """
SELECT s.* FROM {wanted} JOIN settlements s
    ON s.bucket = {bucket} AND s.account_id = w.account_id AND s.request_id = w.request_id
    AND s.claimant = w.claimant AND s.sequence = w.sequence
ORDER BY s.revision
""",
    {**_CLAIMANT_KEYS, "sequence": "smallint"},
)

READ_REFUSALS = _statement(
    """
SELECT f.* FROM {wanted} JOIN refusals f
    ON f.bucket = {bucket} AND f.account_id = w.account_id AND f.request_id = w.request_id
    AND f.claimant = w.claimant
""",
    _CLAIMANT_KEYS,
)

READ_OPERATIONS = _statement(
    """
SELECT o.* FROM {wanted} JOIN operations o
    ON o.bucket = {bucket} AND o.account_id = w.account_id AND o.request_id = w.request_id
""",
    _REQUEST_KEYS,
)

READ_BUDGETS = _statement(
    """
SELECT b.* FROM {wanted} JOIN key_budgets b
    ON b.bucket = {bucket} AND b.account_id = w.account_id AND b.key = w.key AND b.month = w.month
""",
    {**_KEYS, "key": "text", "month": "date"},
)

READ_OPEN_HOLDS = _statement(
    """
SELECT a.account_id, a.request_id, a.run, a.sequence, a.held
FROM {wanted} JOIN requests r
    ON r.bucket = {bucket} AND r.account_id = w.account_id AND r.state = 'RUNNING'
JOIN authorizations a
    ON a.bucket = {bucket} AND a.account_id = r.account_id AND a.request_id = r.request_id
    AND a.run = r.run
LEFT JOIN settlements s
    ON s.bucket = {bucket} AND s.account_id = a.account_id AND s.request_id = a.request_id
    AND s.claimant = a.claimant AND s.sequence = a.sequence
WHERE s.request_id IS NULL AND a.held > 0
""",
    _KEYS,
)

# Not of a unit of work: the sweeper asks all shards, locks nothing, and settles each run found in
# a unit of its own.
LAPSED_RUNS = """
SELECT account_id, request_id FROM requests
WHERE state = 'RUNNING' AND lease_expire_time <= clock_timestamp()
LIMIT $1
"""

# What attempts move; the rest of an account changes seldom.
_MOVED = {
    "fallback_day": "date",
    "fallback_used": "bigint",
    "allowance_month": "date",
    "allowance_used": "bigint",
    "credits": "bigint",
    "reserved": "bigint",
    "overdrawn": "bigint",
    "issued": "bigint",
    "spent": "bigint",
    "fees": "bigint",
    "invoiced": "bigint",
    "absorbed": "bigint",
    "expired": "bigint",
    "entry_count": "bigint",
    "authorization_count": "bigint",
    "last_time": "timestamptz",
    "stamp": "bigint",
}

MOVE_ACCOUNT = _update("accounts", _KEYS, _MOVED)

UPDATE_ACCOUNT = _update(
    "accounts",
    _KEYS,
    {
        **_MOVED,
        "plan_id": "text",
        "billing_mode": "text",
        "mode_epoch": "bigint",
        "fallback_consent": "text",
        "fallback_daily_cap": "bigint",
        "first_period": "timestamptz",
        "period_count": "bigint",
        "pause_time": "timestamptz",
        "paused_for": "interval",
        "overdraft_limit": "bigint",
        "revision": "bigint",
        "update_time": "timestamptz",
    },
)

MOVE_GRANT = _update(
    "grants",
    {**_KEYS, "grant_id": "text"},
    {"remaining": "bigint", "reserved": "bigint"},
)

UPSERT_GRANT = _insert(
    "grants",
    {
        "grant_id": "text",
        "kind": "text",
        "amount": "bigint",
        "remaining": "bigint",
        "reserved": "bigint",
        "expire_time": "timestamptz",
        "paused_before": "interval",
        "note": "text",
        "create_time": "timestamptz",
        "number": "bigint",
    },
    conflict=_replacing("grant_id", ("remaining", "reserved")),
)

REQUESTS = _copied(
    "requests",
    "request_id",
    "fingerprint",
    "fingerprint_version",
    "claimant",
    "run",
    "state",
    "ended_by",
    "last_sequence",
    "lease_expire_time",
    "own_key_tried",
    "always_use",
    "checkpoint",
    "outcome",
)

UPDATE_REQUEST = _update(
    "requests",
    _REQUEST_KEYS,
    {
        "claimant": "text",
        "run": "integer",
        "state": "text",
        "ended_by": "text",
        "last_sequence": "smallint",
        "lease_expire_time": "timestamptz",
        "own_key_tried": "boolean",
        "always_use": "boolean",
        "checkpoint": "jsonb",
        "outcome": "bytea",
    },
)

AUTHORIZATIONS = _copied(
    "authorizations",
    "request_id",
    "claimant",
    "sequence",
    "run",
    "number",
    "digest",
    "funding",
    "source",
    "own_key_state",
    "fallback_day",
    "mode_epoch",
    "plan_id",
    "operation",
    "model",
    "provider",
    "price_id",
    "credit_value_nano_usd",
    "markup_parts_per_million",
    "fixed_nano_credits",
    "fee_basis",
    "fee_rate_parts_per_million",
    "fee_source",
    "fee_cap_nano_credits",
    "allowance_month",
    "key",
    "key_version",
    "key_etag",
    "key_limit_nano_usd",
    "worst_case_nano_usd",
    "held",
    "hold_grants",
    "hold_amounts",
    "create_time",
)

SETTLEMENTS = _copied(
    "settlements",
    "request_id",
    "claimant",
    "sequence",
    "revision",
    "state",
    "terms_digest",
    "capture",
    "outcome",
    "vendor_cost_nano_usd",
    "charged",
    "fee",
    "overdraft",
    "absorbed",
    "invoiced",
    "refunded",
    "charge_grants",
    "charge_amounts",
    "settle_time",
)

REFUSALS = _copied(
    "refusals",
    "request_id",
    "claimant",
    "sequence",
    "digest",
    "refusal",
    "create_time",
)

ENTRIES = _copied(
    "entries",
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

OPERATIONS = _copied(
    "operations",
    "request_id",
    "operation",
    "fingerprint",
    "response",
    "refusal",
    "create_time",
)

MODE_CHANGES = _copied(
    "mode_changes",
    "mode_epoch",
    "billing_mode",
    "plan_id",
    "entry_sequence",
    "posted",
    "reserved",
    "receipt",
    "actor",
    "create_time",
)

UPSERT_BUDGET = _insert(
    "key_budgets",
    {
        "key": "text",
        "month": "date",
        "held_nano_usd": "bigint",
        "spent_nano_usd": "bigint",
    },
    conflict=_replacing("key, month", ("held_nano_usd", "spent_nano_usd")),
)

_SUMS = (
    "attempt_count",
    "vendor_cost_nano_usd",
    "charged_nano_credits",
    "fee_nano_credits",
    *UsageUnits._fields,
)

ADD_USAGE = _insert(
    "usage_days",
    {
        "day": "date",
        "model": "text",
        "provider": "text",
        "key": "text",
        "funding": "text",
        **dict.fromkeys(_SUMS, "bigint"),
    },
    conflict="ON CONFLICT (bucket, account_id, day, model, provider, key, funding) DO UPDATE SET "
    + ", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in _SUMS),
)
