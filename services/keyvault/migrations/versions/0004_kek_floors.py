# SPDX-License-Identifier: Apache-2.0
"""The lowest version of each key-encryption key that rows may name; it only rises."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE kek_floors (
            kek_name text PRIMARY KEY CHECK (length(kek_name) BETWEEN 1 AND 200),
            lowest_version bigint NOT NULL DEFAULT 1 CHECK (lowest_version >= 1)
        )
        """
    )
    # Older code does not look at floors and could write a row that no key opens any more.
    record_version(4, lowest_code=4)
