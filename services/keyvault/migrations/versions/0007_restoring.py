# SPDX-License-Identifier: Apache-2.0
"""What was revoked, in the order of the change feed, and which database may serve."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0007"
down_revision = "0006"

_STATEMENTS = (
    # Kept for ever: an export must reach back to the oldest backup.
    """
    CREATE TABLE revocations (
        sequence bigint NOT NULL CHECK (sequence >= 1),
        account_id text NOT NULL,
        key_id text NOT NULL,
        kind text NOT NULL CHECK (kind IN ('DELETED', 'REPLACED', 'DISABLED')),
        version bigint NOT NULL CHECK (version >= 1),
        PRIMARY KEY (sequence, key_id, kind)
    )
    """,
    # The database that was accepted last, as it saw itself then. `restored` is set by hand after a
    # restore that leaves no trace, such as a copied disk.
    """
    CREATE TABLE served_database (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        system text NOT NULL,
        timeline bigint NOT NULL,
        promotions_trusted boolean NOT NULL DEFAULT false,
        restored boolean NOT NULL DEFAULT false,
        replayed_through bigint,
        accept_time timestamptz NOT NULL DEFAULT now(),
        accepted_by text NOT NULL CHECK (length(accepted_by) <= 100)
    )
    """,
    # Another cluster has another identifier, recovery to a point in time and promotion make another
    # timeline, and a dump that is read back makes the table anew.
    """
    CREATE VIEW this_database AS
    SELECT s.system_identifier::text || '-' || 'served_database'::regclass::oid::text AS system,
           c.timeline_id::bigint AS timeline
    FROM pg_control_system() s, pg_control_checkpoint() c
    """,
    """
    CREATE VIEW database_served AS
    SELECT EXISTS (
        SELECT 1 FROM served_database d, this_database t
        WHERE NOT d.restored AND d.system = t.system
            AND (d.timeline = t.timeline OR (d.promotions_trusted AND d.timeline < t.timeline))
    ) AS served
    """,
    """
    INSERT INTO served_database (system, timeline, accepted_by)
    SELECT system, timeline, 'migration' FROM this_database
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    # Older code would serve a restored database, and would not write down what it revokes.
    record_version(7, lowest_code=7)
