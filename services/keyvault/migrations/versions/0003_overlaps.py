# SPDX-License-Identifier: Apache-2.0
"""Overlaps: finding the replaced versions whose time is over."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        "CREATE INDEX key_versions_expiring ON key_versions (expire_time)"
        " WHERE expire_time IS NOT NULL AND destroy_time IS NULL"
    )
    record_version(3, lowest_code=1)
