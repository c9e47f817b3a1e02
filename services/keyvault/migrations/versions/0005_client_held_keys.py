# SPDX-License-Identifier: Apache-2.0
"""Client-held keys: by what a version's secret is known again, and the proofs that were used."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0005"
down_revision = "0004"

_STATEMENTS = (
    # Set for a version whose secret the customer's browser holds; it has no row in key_secrets.
    """
    ALTER TABLE key_versions
        ADD COLUMN secret_mac bytea CHECK (octet_length(secret_mac) = 32)
    """,
    # A proof that is here is spent, or until reuse_until serves the job that it names.
    """
    CREATE TABLE used_proofs (
        account_id text NOT NULL,
        digest bytea NOT NULL CHECK (octet_length(digest) = 32),
        reuse_until timestamptz,
        keep_until timestamptz NOT NULL,
        PRIMARY KEY (account_id, digest)
    )
    """,
    "CREATE INDEX used_proofs_by_end ON used_proofs (keep_until)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    record_version(5, lowest_code=4)
