# SPDX-License-Identifier: Apache-2.0
"""What all routers share: limits of the product's own keys, and outages of providers."""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0006"
down_revision = "0005"

_STATEMENTS = (
    """
    CREATE TABLE shared_limits (
        account_id text NOT NULL CHECK (account_id = 'platform'),
        key_id text NOT NULL,
        requests_per_minute bigint NOT NULL CHECK (requests_per_minute BETWEEN 1 AND 1000000000),
        PRIMARY KEY (account_id, key_id),
        FOREIGN KEY (account_id, key_id) REFERENCES keys ON DELETE CASCADE
    )
    """,
    # The minute that is being leased out, and how much of it is: of a key as a whole (customer ''),
    # and of the part that one customer may use.
    """
    CREATE TABLE allotments (
        account_id text NOT NULL,
        key_id text NOT NULL,
        customer text NOT NULL CHECK (length(customer) <= 63),
        minute timestamptz NOT NULL,
        most bigint NOT NULL CHECK (most >= 1),
        leased bigint NOT NULL CHECK (leased >= 0),
        granted bigint NOT NULL CHECK (granted >= 0),
        PRIMARY KEY (account_id, key_id, customer),
        FOREIGN KEY (account_id, key_id) REFERENCES shared_limits ON DELETE CASCADE
    )
    """,
    "CREATE INDEX allotments_by_minute ON allotments (minute)",
    """
    CREATE TABLE outages (
        provider text NOT NULL CHECK (length(provider) BETWEEN 1 AND 63),
        host text NOT NULL CHECK (length(host) BETWEEN 1 AND 253),
        model text NOT NULL CHECK (length(model) BETWEEN 1 AND 200),
        until_time timestamptz NOT NULL,
        PRIMARY KEY (provider, host, model)
    )
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    record_version(6, lowest_code=4)
