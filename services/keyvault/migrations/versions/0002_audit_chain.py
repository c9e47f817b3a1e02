# SPDX-License-Identifier: Apache-2.0
"""The audit trail's chains: their signed heads, and the wrapped key that they are made with."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    # Keys of keyvault's own, wrapped by the key-encryption key as data keys are.
    """
    CREATE TABLE service_keys (
        purpose text PRIMARY KEY CHECK (length(purpose) BETWEEN 1 AND 63),
        kek_name text NOT NULL CHECK (length(kek_name) BETWEEN 1 AND 200),
        kek_version bigint NOT NULL CHECK (kek_version >= 1),
        wrapped bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 32 AND 1024),
        create_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    # The end of each account's chain, signed.
    """
    CREATE TABLE audit_heads (
        account_id text PRIMARY KEY,
        sequence bigint NOT NULL CHECK (sequence >= 1),
        number bigint NOT NULL CHECK (number >= 1),
        mac bytea NOT NULL CHECK (octet_length(mac) = 32),
        signature bytea NOT NULL CHECK (octet_length(signature) = 32),
        sign_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    # Its one row is locked by the replica that chains.
    """
    CREATE TABLE audit_chaining (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
    )
    """,
    "INSERT INTO audit_chaining DEFAULT VALUES",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    record_version(2, lowest_code=1)
