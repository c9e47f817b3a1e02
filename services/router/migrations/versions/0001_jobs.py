# SPDX-License-Identifier: Apache-2.0
"""
Long jobs, the router's only table: no prompt and no bytes, and a row lives an hour past its end.

What queries go by stands in columns; the rest of a job is one versioned document. Leases are on the
database's clock, which all replicas share, and every write bears the number of its lease.
"""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0001"
down_revision = None

_STATEMENTS = (
    """
    CREATE TABLE jobs (
        account_id text NOT NULL CHECK (account_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
        job_id text NOT NULL CHECK (job_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
        provider text NOT NULL CHECK (length(provider) BETWEEN 1 AND 63),
        provider_job text NOT NULL CHECK (length(provider_job) <= 512),
        ended boolean NOT NULL,
        cancel text CHECK (length(cancel) <= 32),
        document jsonb NOT NULL CHECK (octet_length(document::text) <= 262144),
        create_time timestamptz NOT NULL,
        due_time timestamptz NOT NULL,
        lease_number bigint NOT NULL CHECK (lease_number >= 0),
        lease_owner text NOT NULL CHECK (length(lease_owner) <= 128),
        lease_expire_time timestamptz,
        PRIMARY KEY (account_id, job_id)
    )
    """,
    "CREATE INDEX jobs_due ON jobs (due_time)",
    "CREATE INDEX jobs_newest ON jobs (account_id, create_time DESC, job_id DESC)",
    "CREATE INDEX jobs_at_provider ON jobs (provider, provider_job) WHERE NOT ended",
)


def upgrade() -> None:
    """Make the table."""
    for statement in _STATEMENTS:
        op.execute(statement)
    record_version(1, lowest_code=1)
