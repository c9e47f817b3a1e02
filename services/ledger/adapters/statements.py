# SPDX-License-Identifier: Apache-2.0
"""
The SQL of a unit of work: a few statements for all its accounts, whatever their number.

Rules:
1. Every statement takes its rows as arrays, one for each column, after the bucket.
2. Every statement exists in two texts that differ in nothing but the bucket. `one_bucket` takes one
   bucket as $1 and filters on it, so a cluster runs it on the one shard that holds that bucket.
   `many_buckets` takes a bucket for each row as $1: on a single server, where a unit of work may
   span buckets, its statements are as many as for one.
3. Columns stand in the order in which `records` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.ledger.domain.usage import UsageUnits

_KEYS = {"account_id": "text"}
_REQUEST_KEYS = {**_KEYS, "request_id": "uuid"}
_CLAIMANT_KEYS = {**_REQUEST_KEYS, "claimant": "text"}


@dataclass(frozen=True, slots=True)
class Statement:
    """
    One statement on the rows of a unit of work.

    Args:
        one_bucket: Its text for rows of one bucket, $1 smallint.
        many_buckets: Its text for rows of any bucket, $1 smallint[].
    """

    one_bucket: str
    many_buckets: str


def _statement(template: str, columns: Mapping[str, str]) -> Statement:
    """
    Return a statement of a template.

    Args:
        template: SQL in which `{wanted}` is the rows asked for, as `w`, and `{bucket}` the bucket
            of such a row.
        columns: Type of each array after the bucket, by its column in `w`.
    """

    def rows(names: list[str], types: list[str], *, first: int) -> str:
        arrays = ", ".join(f"${first + i}::{type_}[]" for i, type_ in enumerate(types))
        return f"unnest({arrays}) AS w ({', '.join(names)})"

    names = list(columns)
    # An array of arrays has no ragged rows, so arrays travel as their text.
    types = ["text" if type_.endswith("[]") else type_ for type_ in columns.values()]
    one = rows(names, types, first=2)
    many = rows(["bucket", *names], ["smallint", *types], first=1)
    return Statement(
        one_bucket=template.format(wanted=one, bucket="$1::smallint"),
        many_buckets=template.format(wanted=many, bucket="w.bucket"),
    )


def _insert(table: str, columns: Mapping[str, str], *, conflict: str = "") -> Statement:
    values = (
        f"w.{name}::{type_}" if type_.endswith("[]") else f"w.{name}"
        for name, type_ in columns.items()
    )
    template = (
        f"INSERT INTO {table} (bucket, account_id, {', '.join(columns)}) "  # noqa: S608 - constants
        f"SELECT {{bucket}}, w.account_id, {', '.join(values)} FROM {{wanted}} {conflict}"
    )
    return _statement(template, {**_KEYS, **columns})


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

_ACCOUNTS = """
SELECT a.* FROM {wanted} JOIN accounts a
    ON a.bucket = {bucket} AND a.account_id = w.account_id
"""

READ_ACCOUNTS = _statement(_ACCOUNTS, _KEYS)

# All lock in one order.
LOCK_ACCOUNTS = _statement(_ACCOUNTS + "ORDER BY a.bucket, a.account_id FOR UPDATE OF a", _KEYS)

# Read after the locks were taken: a lock may be waited for.
CLOCK = "SELECT clock_timestamp()"

READ_UNSPENT_GRANTS = _statement(
    """
SELECT g.* FROM {wanted} JOIN grants g
    ON g.bucket = {bucket} AND g.account_id = w.account_id AND g.remaining > 0
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

_ATTEMPTS = """
FROM {wanted} JOIN requests r
    ON r.bucket = {bucket} AND r.account_id = w.account_id AND r.request_id = w.request_id
JOIN authorizations a
    ON a.bucket = {bucket} AND a.account_id = r.account_id AND a.request_id = r.request_id
    AND (a.run = r.run OR a.claimant = w.claimant)
"""

READ_ATTEMPTS = _statement("SELECT a.*" + _ATTEMPTS, _CLAIMANT_KEYS)

READ_SETTLEMENTS = _statement(
    "SELECT s.*"
    + _ATTEMPTS
    + """
JOIN settlements s
    ON s.bucket = {bucket} AND s.account_id = a.account_id AND s.request_id = a.request_id
    AND s.claimant = a.claimant AND s.sequence = a.sequence
ORDER BY s.revision
""",
    _CLAIMANT_KEYS,
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

_ACCOUNT_COLUMNS = {
    "plan_id": "text",
    "billing_mode": "text",
    "mode_epoch": "bigint",
    "fallback_consent": "text",
    "fallback_daily_cap": "bigint",
    "fallback_day": "date",
    "fallback_used": "bigint",
    "allowance_month": "date",
    "allowance_used": "bigint",
    "first_period": "timestamptz",
    "period_count": "bigint",
    "pause_time": "timestamptz",
    "paused_for": "interval",
    "credits": "bigint",
    "reserved": "bigint",
    "overdrawn": "bigint",
    "issued": "bigint",
    "spent": "bigint",
    "fees": "bigint",
    "invoiced": "bigint",
    "absorbed": "bigint",
    "expired": "bigint",
    "overdraft_limit": "bigint",
    "entry_count": "bigint",
    "authorization_count": "bigint",
    "revision": "bigint",
    "last_time": "timestamptz",
    "update_time": "timestamptz",
}

UPDATE_ACCOUNT = _statement(
    f"UPDATE accounts a SET {', '.join(f'{name} = w.{name}' for name in _ACCOUNT_COLUMNS)} "  # noqa: S608 - every part is a constant
    "FROM {wanted} WHERE a.bucket = {bucket} AND a.account_id = w.account_id",
    {**_KEYS, **_ACCOUNT_COLUMNS},
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

UPSERT_REQUEST = _insert(
    "requests",
    {
        "request_id": "uuid",
        "fingerprint": "bytea",
        "fingerprint_version": "integer",
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
    conflict=_replacing(
        "request_id",
        (
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
        ),
    ),
)

INSERT_AUTHORIZATION = _insert(
    "authorizations",
    {
        "request_id": "uuid",
        "claimant": "text",
        "sequence": "smallint",
        "run": "integer",
        "number": "bigint",
        "digest": "bytea",
        "funding": "text",
        "source": "text",
        "own_key_state": "text",
        "fallback_day": "date",
        "mode_epoch": "bigint",
        "plan_id": "text",
        "operation": "text",
        "model": "text",
        "provider": "text",
        "price_id": "text",
        "credit_value_nano_usd": "bigint",
        "markup_parts_per_million": "bigint",
        "fixed_nano_credits": "bigint",
        "fee_basis": "text",
        "fee_rate_parts_per_million": "bigint",
        "fee_source": "text",
        "fee_cap_nano_credits": "bigint",
        "allowance_month": "date",
        "key": "text",
        "key_version": "bigint",
        "key_etag": "text",
        "key_limit_nano_usd": "bigint",
        "worst_case_nano_usd": "bigint",
        "held": "bigint",
        "hold_grants": "text[]",
        "hold_amounts": "bigint[]",
        "create_time": "timestamptz",
    },
)

INSERT_SETTLEMENT = _insert(
    "settlements",
    {
        "request_id": "uuid",
        "claimant": "text",
        "sequence": "smallint",
        "revision": "smallint",
        "state": "text",
        "terms_digest": "bytea",
        "capture": "jsonb",
        "outcome": "text",
        "vendor_cost_nano_usd": "bigint",
        "charged": "bigint",
        "fee": "bigint",
        "overdraft": "bigint",
        "absorbed": "bigint",
        "invoiced": "bigint",
        "refunded": "bigint",
        "charge_grants": "text[]",
        "charge_amounts": "bigint[]",
        "settle_time": "timestamptz",
    },
)

INSERT_REFUSAL = _insert(
    "refusals",
    {
        "request_id": "uuid",
        "claimant": "text",
        "sequence": "smallint",
        "digest": "bytea",
        "refusal": "jsonb",
        "create_time": "timestamptz",
    },
)

INSERT_ENTRY = _insert(
    "entries",
    {
        "sequence": "bigint",
        "kind": "text",
        "debit": "text",
        "credit": "text",
        "amount": "bigint",
        "posted_after": "bigint",
        "grant_id": "text",
        "authorization_id": "text",
        "mode_epoch": "bigint",
        "credits_asked": "boolean",
        "reason": "text",
        "actor": "text",
        "create_time": "timestamptz",
    },
)

INSERT_OPERATION = _insert(
    "operations",
    {
        "request_id": "uuid",
        "operation": "text",
        "fingerprint": "bytea",
        "response": "bytea",
        "refusal": "jsonb",
        "create_time": "timestamptz",
    },
)

INSERT_MODE_CHANGE = _insert(
    "mode_changes",
    {
        "mode_epoch": "bigint",
        "billing_mode": "text",
        "plan_id": "text",
        "entry_sequence": "bigint",
        "posted": "bigint",
        "reserved": "bigint",
        "receipt": "jsonb",
        "actor": "text",
        "create_time": "timestamptz",
    },
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
    *UsageUnits.__slots__,
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
