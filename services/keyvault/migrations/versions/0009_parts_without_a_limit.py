# SPDX-License-Identifier: Apache-2.0
"""A customer's part is counted of every shared key, also of one that has no limit."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0009"
down_revision = "0008"

_STATEMENTS = (
    "ALTER TABLE allotments DROP CONSTRAINT allotments_account_id_key_id_fkey",
    """
    ALTER TABLE allotments
        ADD FOREIGN KEY (account_id, key_id) REFERENCES keys ON DELETE CASCADE
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    record_version(9, lowest_code=8)
