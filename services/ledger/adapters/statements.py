# SPDX-License-Identifier: Apache-2.0
"""
The SQL of a unit of work. $1 is always the bucket: a unit stays on one shard.

Columns stand in the order in which `records` writes them.
"""

from __future__ import annotations

from services.ledger.domain.usage import UsageUnits

CREATE_ACCOUNT = """
INSERT INTO accounts (bucket, account_id, plan_id, billing_mode, mode_epoch, fallback_consent,
    overdraft_limit, last_time, create_time, update_time)
SELECT $1, $2, '', 'CREDITS', 1, 'ANY', 0, now, now, now FROM clock_timestamp() AS now
ON CONFLICT (bucket, account_id) DO NOTHING
RETURNING account_id
"""

READ_ACCOUNTS = """
SELECT * FROM accounts WHERE bucket = $1 AND account_id = ANY($2::text[]) ORDER BY account_id
"""

LOCK_ACCOUNTS = READ_ACCOUNTS + "FOR UPDATE"

# Read after the locks were taken: a lock may be waited for.
CLOCK = "SELECT clock_timestamp()"

READ_UNSPENT_GRANTS = """
SELECT * FROM grants WHERE bucket = $1 AND account_id = ANY($2::text[]) AND remaining > 0
"""

READ_GRANTS = """
SELECT g.* FROM unnest($2::text[], $3::text[]) AS w (account_id, grant_id)
JOIN grants g ON g.bucket = $1 AND g.account_id = w.account_id AND g.grant_id = w.grant_id
"""

READ_REQUESTS = """
SELECT r.* FROM unnest($2::text[], $3::uuid[]) AS w (account_id, request_id)
JOIN requests r
    ON r.bucket = $1 AND r.account_id = w.account_id AND r.request_id = w.request_id
"""

_ATTEMPTS = """
FROM unnest($2::text[], $3::uuid[], $4::text[]) AS w (account_id, request_id, claimant)
JOIN requests r
    ON r.bucket = $1 AND r.account_id = w.account_id AND r.request_id = w.request_id
JOIN authorizations a
    ON a.bucket = $1 AND a.account_id = r.account_id AND a.request_id = r.request_id
    AND (a.run = r.run OR a.claimant = w.claimant)
"""

READ_ATTEMPTS = "SELECT a.*" + _ATTEMPTS

READ_SETTLEMENTS = (
    "SELECT s.*"
    + _ATTEMPTS
    + """
JOIN settlements s
    ON s.bucket = $1 AND s.account_id = a.account_id AND s.request_id = a.request_id
    AND s.claimant = a.claimant AND s.sequence = a.sequence
ORDER BY s.revision
"""
)

READ_REFUSALS = """
SELECT f.* FROM unnest($2::text[], $3::uuid[], $4::text[]) AS w (account_id, request_id, claimant)
JOIN refusals f
    ON f.bucket = $1 AND f.account_id = w.account_id AND f.request_id = w.request_id
    AND f.claimant = w.claimant
"""

READ_OPERATIONS = """
SELECT o.* FROM unnest($2::text[], $3::uuid[]) AS w (account_id, request_id)
JOIN operations o
    ON o.bucket = $1 AND o.account_id = w.account_id AND o.request_id = w.request_id
"""

READ_OPEN_HOLDS = """
SELECT a.account_id, a.request_id, a.run, a.sequence, a.held
FROM requests r
JOIN authorizations a
    ON a.bucket = $1 AND a.account_id = r.account_id AND a.request_id = r.request_id
    AND a.run = r.run
LEFT JOIN settlements s
    ON s.bucket = $1 AND s.account_id = a.account_id AND s.request_id = a.request_id
    AND s.claimant = a.claimant AND s.sequence = a.sequence
WHERE r.bucket = $1 AND r.account_id = ANY($2::text[]) AND r.state = 'RUNNING'
    AND s.request_id IS NULL AND a.held > 0
"""

LAPSED_RUNS = """
SELECT account_id, request_id FROM requests
WHERE state = 'RUNNING' AND lease_expire_time <= clock_timestamp()
LIMIT $1
"""

UPDATE_ACCOUNT = """
UPDATE accounts SET plan_id = $3, billing_mode = $4, mode_epoch = $5, fallback_consent = $6,
    fallback_daily_cap = $7, fallback_day = $8, fallback_used = $9, pause_time = $10,
    paused_for = $11, credits = $12, reserved = $13, overdrawn = $14, issued = $15, spent = $16,
    fees = $17, invoiced = $18, absorbed = $19, expired = $20, overdraft_limit = $21,
    entry_count = $22, authorization_count = $23, revision = $24, last_time = $25,
    update_time = $26
WHERE bucket = $1 AND account_id = $2
"""

UPSERT_GRANT = """
INSERT INTO grants (bucket, account_id, grant_id, kind, amount, remaining, reserved, expire_time,
    paused_before, note, create_time, number)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (bucket, account_id, grant_id)
DO UPDATE SET remaining = excluded.remaining, reserved = excluded.reserved
"""

UPSERT_REQUEST = """
INSERT INTO requests (bucket, account_id, request_id, fingerprint, fingerprint_version, claimant,
    run, state, ended_by, last_sequence, lease_expire_time, own_key_tried, always_use, checkpoint,
    outcome)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (bucket, account_id, request_id) DO UPDATE SET
    claimant = excluded.claimant, run = excluded.run, state = excluded.state,
    ended_by = excluded.ended_by, last_sequence = excluded.last_sequence,
    lease_expire_time = excluded.lease_expire_time, own_key_tried = excluded.own_key_tried,
    always_use = excluded.always_use, checkpoint = excluded.checkpoint,
    outcome = excluded.outcome
"""

INSERT_AUTHORIZATION = """
INSERT INTO authorizations (bucket, account_id, request_id, claimant, sequence, run, number, digest,
    funding, source, own_key_state, fallback_day, mode_epoch, plan_id, operation, model, provider,
    price_id, credit_value_nano_usd, markup_parts_per_million, fixed_nano_credits, key,
    key_version, key_etag, worst_case_nano_usd, held, hold_grants, hold_amounts, create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
    $21, $22, $23, $24, $25, $26, $27, $28, $29)
"""

INSERT_SETTLEMENT = """
INSERT INTO settlements (bucket, account_id, request_id, claimant, sequence, revision, state,
    terms_digest, capture, outcome, vendor_cost_nano_usd, charged, overdraft, absorbed,
    charge_grants, charge_amounts, settle_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
"""

INSERT_REFUSAL = """
INSERT INTO refusals (bucket, account_id, request_id, claimant, sequence, digest, refusal,
    create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

INSERT_ENTRY = """
INSERT INTO entries (bucket, account_id, sequence, kind, debit, credit, amount, posted_after,
    grant_id, authorization_id, mode_epoch, credits_asked, reason, actor, create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""

INSERT_OPERATION = """
INSERT INTO operations (bucket, account_id, request_id, operation, fingerprint, response, refusal,
    create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

INSERT_MODE_CHANGE = """
INSERT INTO mode_changes (bucket, account_id, mode_epoch, billing_mode, plan_id, entry_sequence,
    posted, reserved, receipt, actor, create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""

_SUMS = (
    "attempt_count",
    "vendor_cost_nano_usd",
    "charged_nano_credits",
    "fee_nano_credits",
    *UsageUnits.__slots__,
)

ADD_USAGE = f"""
INSERT INTO usage_days (bucket, account_id, day, model, provider, key, funding, {", ".join(_SUMS)})
VALUES ($1, $2, $3, $4, $5, $6, $7, {", ".join(f"${8 + i}" for i in range(len(_SUMS)))})
ON CONFLICT (bucket, account_id, day, model, provider, key, funding) DO UPDATE SET
    {", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in _SUMS)}
"""  # noqa: S608 - every part is a constant
