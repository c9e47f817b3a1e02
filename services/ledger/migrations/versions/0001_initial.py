# SPDX-License-Identifier: Apache-2.0
"""
The ledger's first schema.

Every key starts with `bucket, account_id`: rows of one account stay together when the tables are
spread over a cluster, and no key is unique across accounts.

What is written with every attempt has no foreign keys: each would cost a look-up and a lock for
each row. Rows that refer to each other are written in one transaction under their account's lock,
and VerifyLedger proves that every row has the one it refers to.
"""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0001"
down_revision = None

ACCOUNTS = """
CREATE TABLE accounts (
    bucket smallint NOT NULL CHECK (bucket BETWEEN 0 AND 1023),
    account_id text NOT NULL,
    plan_id text NOT NULL,
    billing_mode text NOT NULL CHECK (billing_mode IN ('CREDITS', 'OWN_KEY_FIRST', 'OWN_KEY_ONLY')),
    mode_epoch bigint NOT NULL CHECK (mode_epoch >= 1),
    fallback_consent text NOT NULL
        CHECK (fallback_consent IN ('NEVER', 'RATE_LIMIT', 'KEY_FAILURE', 'ANY')),
    fallback_daily_cap bigint CHECK (fallback_daily_cap >= 0),
    fallback_day date,
    fallback_used bigint NOT NULL DEFAULT 0 CHECK (fallback_used >= 0),
    allowance_month date,
    allowance_used bigint NOT NULL DEFAULT 0 CHECK (allowance_used >= 0),
    first_period timestamptz,
    period_count bigint NOT NULL DEFAULT 0 CHECK (period_count >= 0),
    pause_time timestamptz,
    paused_for interval NOT NULL DEFAULT '0',
    credits bigint NOT NULL DEFAULT 0 CHECK (credits >= 0),
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    overdrawn bigint NOT NULL DEFAULT 0 CHECK (overdrawn >= 0),
    issued bigint NOT NULL DEFAULT 0,
    spent bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    fees bigint NOT NULL DEFAULT 0 CHECK (fees >= 0),
    invoiced bigint NOT NULL DEFAULT 0 CHECK (invoiced >= 0),
    absorbed bigint NOT NULL DEFAULT 0 CHECK (absorbed >= 0),
    expired bigint NOT NULL DEFAULT 0 CHECK (expired >= 0),
    overdraft_limit bigint NOT NULL CHECK (overdraft_limit >= 0),
    entry_count bigint NOT NULL DEFAULT 0,
    authorization_count bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 1,
    retained_from timestamptz,
    last_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, account_id),
    CONSTRAINT holds_within_credits CHECK (reserved <= credits),
    CONSTRAINT overdraft_within_limit CHECK (overdrawn <= overdraft_limit),
    CONSTRAINT books_sum_to_zero CHECK (
        credits + spent + fees + expired = overdrawn + issued + invoiced + absorbed),
    CONSTRAINT paused_in_own_key_only CHECK (
        (pause_time IS NOT NULL) = (billing_mode = 'OWN_KEY_ONLY'))
) WITH (fillfactor = 70)
"""

GRANTS = """
CREATE TABLE grants (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    grant_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('MONTHLY', 'PURCHASED', 'PROMOTIONAL', 'ADJUSTMENT')),
    amount bigint NOT NULL CHECK (amount > 0),
    remaining bigint NOT NULL CHECK (remaining >= 0),
    reserved bigint NOT NULL CHECK (reserved >= 0 AND reserved <= remaining),
    expire_time timestamptz,
    paused_before interval NOT NULL,
    note text NOT NULL,
    create_time timestamptz NOT NULL,
    number bigint NOT NULL,
    spent boolean GENERATED ALWAYS AS (remaining = 0) STORED,
    PRIMARY KEY (bucket, account_id, grant_id),
    FOREIGN KEY (bucket, account_id) REFERENCES accounts
) WITH (fillfactor = 50)
"""

# By a column that changes once in a grant's life: a change of `remaining` touches no index.
GRANTS_UNSPENT = "CREATE INDEX grants_unspent ON grants (bucket, account_id) WHERE NOT spent"

REQUESTS = """
CREATE TABLE requests (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    request_id uuid NOT NULL,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    fingerprint_version integer NOT NULL CHECK (fingerprint_version >= 1),
    claimant text NOT NULL,
    run integer NOT NULL CHECK (run >= 1),
    state text NOT NULL
        CHECK (state IN ('RUNNING', 'SUCCEEDED', 'FAILED_CHARGED', 'FAILED_UNCHARGED')),
    ended_by text NOT NULL CHECK (ended_by IN ('', 'CALLER', 'REFUSAL', 'LAPSE')),
    last_sequence smallint NOT NULL CHECK (last_sequence BETWEEN 1 AND 32),
    lease_expire_time timestamptz NOT NULL,
    own_key_tried boolean NOT NULL,
    always_use boolean NOT NULL,
    checkpoint jsonb,
    outcome bytea NOT NULL CHECK (octet_length(outcome) <= 16384),
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, account_id, request_id),
    CONSTRAINT running_has_not_ended CHECK ((state = 'RUNNING') = (ended_by = ''))
) WITH (fillfactor = 90)
"""

# Small at any time, and without the lease's end, so that renewing touches no index.
REQUESTS_RUNNING = (
    "CREATE INDEX requests_running ON requests (bucket, account_id) WHERE state = 'RUNNING'"
)

# Small whatever the table's size: rows lie in the order of their times.
REQUESTS_AGE = "CREATE INDEX requests_age ON requests USING brin (bucket, account_id, create_time)"
OPERATIONS_AGE = (
    "CREATE INDEX operations_age ON operations USING brin (bucket, account_id, create_time)"
)

AUTHORIZATIONS = """
CREATE TABLE authorizations (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    request_id uuid NOT NULL,
    claimant text NOT NULL,
    sequence smallint NOT NULL CHECK (sequence BETWEEN 1 AND 32),
    run integer NOT NULL,
    number bigint NOT NULL,
    digest bytea NOT NULL,
    funding text NOT NULL CHECK (funding IN ('OWN_KEY', 'CREDITS')),
    source text NOT NULL CHECK (source IN ('AUTO', 'OWN_KEY', 'CREDITS')),
    own_key_state text NOT NULL,
    fallback_day date,
    mode_epoch bigint NOT NULL,
    plan_id text NOT NULL,
    operation text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    price_id text NOT NULL,
    credit_value_nano_usd bigint NOT NULL,
    markup_parts_per_million bigint NOT NULL,
    fixed_nano_credits bigint,
    fee_basis text CHECK (fee_basis IN ('CREDIT_PRICE', 'VENDOR_COST')),
    fee_rate_parts_per_million bigint,
    fee_source text CHECK (fee_source IN ('CREDITS', 'INVOICE')),
    fee_cap_nano_credits bigint,
    allowance_month date,
    key text NOT NULL,
    key_version bigint NOT NULL,
    key_etag text NOT NULL,
    key_limit_nano_usd bigint,
    worst_case_nano_usd bigint CHECK (worst_case_nano_usd >= 0),
    held bigint NOT NULL CHECK (held >= 0),
    hold_grants text[] NOT NULL,
    hold_amounts bigint[] NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, account_id, request_id, claimant, sequence)
)
"""

# Partial, so that only what pages by number can use it: to find an attempt by its request, the
# planner would take it for as good as the primary key, and read all attempts of a busy account.
AUTHORIZATIONS_NUMBERS = """
CREATE UNIQUE INDEX authorizations_numbers ON authorizations (bucket, account_id, number)
WHERE number > 0
"""

SETTLEMENTS = """
CREATE TABLE settlements (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    request_id uuid NOT NULL,
    claimant text NOT NULL,
    sequence smallint NOT NULL,
    revision smallint NOT NULL CHECK (revision BETWEEN 1 AND 100),
    state text NOT NULL CHECK (state IN ('CAPTURED', 'RELEASED', 'LAPSED')),
    terms_digest bytea NOT NULL,
    capture jsonb,
    outcome text NOT NULL,
    vendor_cost_nano_usd bigint CHECK (vendor_cost_nano_usd >= 0),
    charged bigint NOT NULL CHECK (charged >= 0),
    fee bigint NOT NULL CHECK (fee >= 0 AND fee <= charged),
    overdraft bigint NOT NULL CHECK (overdraft >= 0),
    absorbed bigint NOT NULL CHECK (absorbed >= 0),
    invoiced bigint NOT NULL CHECK (invoiced >= 0 AND invoiced <= fee),
    refunded bigint NOT NULL CHECK (refunded >= 0),
    charge_grants text[] NOT NULL,
    charge_amounts bigint[] NOT NULL,
    settle_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, account_id, request_id, claimant, sequence, revision)
)
"""

REFUSALS = """
CREATE TABLE refusals (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    request_id uuid NOT NULL,
    claimant text NOT NULL,
    sequence smallint NOT NULL,
    digest bytea NOT NULL,
    refusal jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, account_id, request_id, claimant, sequence)
)
"""

ENTRIES = """
CREATE TABLE entries (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    sequence bigint NOT NULL CHECK (sequence >= 1),
    kind text NOT NULL CHECK (kind IN (
        'GRANT', 'ADJUSTMENT', 'CHARGE', 'FEE', 'CORRECTION', 'EXPIRY', 'REPAYMENT',
        'REFUND')),
    debit text NOT NULL,
    credit text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    posted_after bigint NOT NULL,
    grant_id text NOT NULL,
    authorization_id text NOT NULL,
    mode_epoch bigint NOT NULL,
    credits_asked boolean NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, account_id, sequence),
    CONSTRAINT two_sides CHECK (debit <> credit)
)
"""

OPERATIONS = """
CREATE TABLE operations (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    request_id uuid NOT NULL,
    operation text NOT NULL,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    response bytea,
    refusal jsonb,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, account_id, request_id),
    FOREIGN KEY (bucket, account_id) REFERENCES accounts,
    CONSTRAINT answered_one_way CHECK ((response IS NULL) <> (refusal IS NULL))
)
"""

MODE_CHANGES = """
CREATE TABLE mode_changes (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    mode_epoch bigint NOT NULL,
    billing_mode text NOT NULL,
    plan_id text NOT NULL,
    entry_sequence bigint NOT NULL,
    posted bigint NOT NULL,
    reserved bigint NOT NULL,
    receipt jsonb,
    actor text NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, account_id, mode_epoch),
    FOREIGN KEY (bucket, account_id) REFERENCES accounts,
    CONSTRAINT a_pause_has_its_receipt CHECK (
        (receipt IS NOT NULL) = (billing_mode = 'OWN_KEY_ONLY'))
)
"""

USAGE = """
CREATE TABLE usage_days (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    day date NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    key text NOT NULL,
    funding text NOT NULL,
    attempt_count bigint NOT NULL,
    vendor_cost_nano_usd bigint NOT NULL,
    charged_nano_credits bigint NOT NULL,
    fee_nano_credits bigint NOT NULL,
    input_token_count bigint NOT NULL,
    cached_input_token_count bigint NOT NULL,
    cache_write_token_count bigint NOT NULL,
    output_token_count bigint NOT NULL,
    reasoning_token_count bigint NOT NULL,
    image_count bigint NOT NULL,
    character_count bigint NOT NULL,
    media_milliseconds bigint NOT NULL,
    PRIMARY KEY (bucket, account_id, day, model, provider, key, funding)
) WITH (fillfactor = 70)
"""

# Own-key spending by month and key.
KEY_BUDGETS = """
CREATE TABLE key_budgets (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    key text NOT NULL,
    month date NOT NULL,
    held_nano_usd bigint NOT NULL CHECK (held_nano_usd >= 0),
    spent_nano_usd bigint NOT NULL CHECK (spent_nano_usd >= 0),
    PRIMARY KEY (bucket, account_id, key, month)
) WITH (fillfactor = 70)
"""


# Made behind the writes; the entries are found by the same key, and may not be held to it: a
# removed entry must show.
ENTRY_LINKS = """
CREATE TABLE entry_links (
    bucket smallint NOT NULL,
    account_id text NOT NULL,
    sequence bigint NOT NULL CHECK (sequence >= 1),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    PRIMARY KEY (bucket, account_id, sequence)
)
"""

# What was written stays as it was, whoever connects: a correction is another row.
IMMUTABLE_TABLES = (
    "authorizations",
    "settlements",
    "refusals",
    "entries",
    "operations",
    "mode_changes",
    "entry_links",
)

# Only these are ever forgotten, past the retention: the time that each row counts from.
FORGOTTEN_TABLES = {
    "authorizations": "create_time",
    "settlements": "settle_time",
    "refusals": "create_time",
    "operations": "create_time",
}

# Their rows are written again and again. Vacuumed early, they stay small and their dead versions
# make room on the same page, so that most updates touch no index.
REWRITTEN_TABLES = ("accounts", "grants", "requests", "usage_days", "key_budgets")


def vacuumed_early(table: str) -> str:
    """Return the statement that has a table vacuumed after a fiftieth of it has changed."""
    return (
        f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05)"
    )


REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$
"""


def immutable(table: str) -> list[str]:
    """Return the triggers that refuse changes of a table's rows, and removing them too early."""
    refuse = "FOR EACH ROW {when} EXECUTE FUNCTION refuse_change()"
    time = FORGOTTEN_TABLES.get(table)
    young = f"WHEN (OLD.{time} >= now() - interval '400 days')" if time else ""
    return [
        f"CREATE TRIGGER {table}_never_change BEFORE UPDATE ON {table} {refuse.format(when='')}",
        f"CREATE TRIGGER {table}_are_kept BEFORE DELETE ON {table} {refuse.format(when=young)}",
    ]


def upgrade() -> None:
    for statement in (
        ACCOUNTS,
        GRANTS,
        GRANTS_UNSPENT,
        REQUESTS,
        REQUESTS_RUNNING,
        REQUESTS_AGE,
        AUTHORIZATIONS,
        AUTHORIZATIONS_NUMBERS,
        SETTLEMENTS,
        REFUSALS,
        ENTRIES,
        OPERATIONS,
        OPERATIONS_AGE,
        MODE_CHANGES,
        USAGE,
        KEY_BUDGETS,
        ENTRY_LINKS,
    ):
        op.execute(statement)
    for table in REWRITTEN_TABLES:
        op.execute(vacuumed_early(table))
    op.execute(REFUSE_CHANGE)
    for table in IMMUTABLE_TABLES:
        for trigger in immutable(table):
            op.execute(trigger)
    record_version(1, lowest_code=1)
