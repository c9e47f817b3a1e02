# SPDX-License-Identifier: Apache-2.0
"""
The first schema.

Secrets stand apart from what is known of their keys, so that destroying one is deleting a row, and
so that what a record must be (version, generation) is never taken from the record itself.
"""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0001"
down_revision = None

_STATEMENTS = (
    # One row for each account seen: its settings, and the lock under which its keys change.
    """
    CREATE TABLE accounts (
        account_id text PRIMARY KEY CHECK (account_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
        active_provider text NOT NULL DEFAULT '' CHECK (length(active_provider) <= 63),
        use_backups boolean NOT NULL DEFAULT false,
        revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
        create_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE keys (
        account_id text NOT NULL REFERENCES accounts,
        key_id text NOT NULL CHECK (key_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
        provider text NOT NULL CHECK (length(provider) BETWEEN 1 AND 63),
        label text NOT NULL CHECK (length(label) <= 100),
        default_model text NOT NULL CHECK (length(default_model) <= 200),
        allowed_models text[] NOT NULL CHECK (cardinality(allowed_models) <= 100),
        always_use boolean NOT NULL,
        place integer NOT NULL CHECK (place BETWEEN 0 AND 1000000),
        monthly_limit_nano_usd bigint CHECK (monthly_limit_nano_usd > 0),
        enabled boolean NOT NULL,
        active boolean NOT NULL,
        current_version bigint NOT NULL CHECK (current_version >= 1),
        revision bigint NOT NULL CHECK (revision >= 1),
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL,
        PRIMARY KEY (account_id, key_id)
    )
    """,
    "CREATE UNIQUE INDEX keys_one_active ON keys (account_id, provider) WHERE active",
    # What is known of a version; it stays when its secret is destroyed.
    """
    CREATE TABLE key_versions (
        account_id text NOT NULL,
        key_id text NOT NULL,
        version bigint NOT NULL CHECK (version >= 1),
        generation bigint NOT NULL CHECK (generation >= 1),
        hint text NOT NULL CHECK (length(hint) <= 64),
        create_time timestamptz NOT NULL,
        expire_time timestamptz,
        destroy_time timestamptz,
        probe_lease_until timestamptz,
        PRIMARY KEY (account_id, key_id, version),
        FOREIGN KEY (account_id, key_id) REFERENCES keys ON DELETE CASCADE
    )
    """,
    # The record of a version's secret; the sizes are those of its format.
    """
    CREATE TABLE key_secrets (
        account_id text NOT NULL,
        key_id text NOT NULL,
        version bigint NOT NULL,
        format_version smallint NOT NULL CHECK (format_version >= 1),
        algorithm text NOT NULL CHECK (length(algorithm) <= 32),
        kek_name text NOT NULL CHECK (length(kek_name) BETWEEN 1 AND 200),
        kek_version bigint NOT NULL CHECK (kek_version >= 1),
        generation bigint NOT NULL CHECK (generation >= 1),
        wrapped_dek bytea NOT NULL CHECK (octet_length(wrapped_dek) BETWEEN 32 AND 1024),
        nonce bytea NOT NULL CHECK (octet_length(nonce) = 12),
        ciphertext bytea NOT NULL CHECK (octet_length(ciphertext) BETWEEN 17 AND 16400),
        commitment bytea NOT NULL CHECK (octet_length(commitment) = 32),
        PRIMARY KEY (account_id, key_id, version),
        FOREIGN KEY (account_id, key_id, version) REFERENCES key_versions ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX key_secrets_by_kek
        ON key_secrets (kek_name, kek_version, account_id, key_id, version)
    """,
    # Names that were given once; a name never comes to mean another key.
    """
    CREATE TABLE deleted_keys (
        account_id text NOT NULL REFERENCES accounts,
        key_id text NOT NULL,
        last_version bigint NOT NULL,
        delete_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (account_id, key_id)
    )
    """,
    # Only what is not plain ACTIVE; model '' is the whole key.
    """
    CREATE TABLE key_health (
        account_id text NOT NULL,
        key_id text NOT NULL,
        version bigint NOT NULL,
        model text NOT NULL CHECK (length(model) <= 200),
        state text NOT NULL CHECK (state IN ('SUSPECT', 'REJECTED', 'NO_CREDIT', 'COOLING')),
        cause text NOT NULL CHECK (length(cause) <= 1000),
        since_time timestamptz NOT NULL,
        until_time timestamptz,
        backoff interval,
        PRIMARY KEY (account_id, key_id, version, model),
        FOREIGN KEY (account_id, key_id, version) REFERENCES key_versions ON DELETE CASCADE
    )
    """,
    # The change feed: its number is taken under the head's row lock as the last statement of a
    # transaction, so that no lower number commits after a higher one.
    """
    CREATE TABLE change_head (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        sequence bigint NOT NULL
    )
    """,
    "INSERT INTO change_head (sequence) VALUES (0)",
    """
    CREATE TABLE changes (
        sequence bigint PRIMARY KEY,
        account_id text NOT NULL,
        change_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE requests (
        account_id text NOT NULL,
        request_id uuid NOT NULL,
        fingerprints jsonb NOT NULL,
        outcome bytea NOT NULL CHECK (octet_length(outcome) <= 131072),
        create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (account_id, request_id)
    )
    """,
    "CREATE INDEX requests_by_age ON requests (create_time)",
    # The chain's columns are filled once, behind the writes.
    """
    CREATE TABLE audit_events (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        account_id text NOT NULL,
        event_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        actor text NOT NULL,
        action text NOT NULL,
        key_id text NOT NULL,
        version bigint NOT NULL,
        request_id text NOT NULL,
        details jsonb NOT NULL,
        chain_sequence bigint,
        chain_previous bytea CHECK (octet_length(chain_previous) = 32),
        chain_mac bytea CHECK (octet_length(chain_mac) = 32)
    )
    """,
    "CREATE INDEX audit_events_by_account ON audit_events (account_id, number)",
    """
    CREATE UNIQUE INDEX audit_events_chain ON audit_events (account_id, chain_sequence)
        WHERE chain_sequence IS NOT NULL
    """,
    "CREATE INDEX audit_events_unchained ON audit_events (number) WHERE chain_sequence IS NULL",
    """
    CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND OLD.chain_sequence IS NULL
            AND (NEW.number, NEW.account_id, NEW.event_time, NEW.actor, NEW.action, NEW.key_id,
                 NEW.version, NEW.request_id, NEW.details)
            IS NOT DISTINCT FROM
                (OLD.number, OLD.account_id, OLD.event_time, OLD.actor, OLD.action, OLD.key_id,
                 OLD.version, OLD.request_id, OLD.details)
        THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'the audit trail is append-only';
    END
    $$
    """,
    """
    CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_events
        FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()
    """,
    """
    CREATE TRIGGER audit_never_emptied BEFORE TRUNCATE ON audit_events
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    record_version(1, lowest_code=1)
