# SPDX-License-Identifier: Apache-2.0
"""Limits of shared keys hold in every minute, wherever it begins: leases are counted by slots."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0008"
down_revision = "0007"

_STATEMENTS = (
    # What was leased lasts for a minute at most; nothing of it is carried over.
    "DROP TABLE allotments",
    # What was leased in each of the last slots, the newest first: of a key as a whole (customer
    # ''), and of the part that one customer may use.
    """
    CREATE TABLE allotments (
        account_id text NOT NULL,
        key_id text NOT NULL,
        customer text NOT NULL CHECK (length(customer) <= 63),
        most bigint NOT NULL CHECK (most >= 1),
        slot bigint NOT NULL CHECK (slot >= 0),
        leased bigint[] NOT NULL CHECK (0 <= ALL (leased)),
        PRIMARY KEY (account_id, key_id, customer),
        FOREIGN KEY (account_id, key_id) REFERENCES shared_limits ON DELETE CASCADE
    )
    """,
    "CREATE INDEX allotments_by_slot ON allotments (slot)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    record_version(8, lowest_code=8)
