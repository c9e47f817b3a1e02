# SPDX-License-Identifier: Apache-2.0
"""
Accounts are stamped: every write of anything of an account stamps its row with a random number.

Whoever finds the stamp that it wrote itself knows that nothing has changed since. A writer that
does not know of stamps, such as the version before while replicas are replaced, leaves the stamp
as it was: then the trigger takes it away. That version's Renew writes its request alone, which a
process that kept the file sees when it reads it next: until then it holds an older lease's end.
"""

from __future__ import annotations

from alembic import op

from services.shared.migrate import record_version

revision = "0002"
down_revision = "0001"

STAMP = "ALTER TABLE accounts ADD COLUMN stamp bigint NOT NULL DEFAULT 0"

TAKE_STAMP_AWAY = """
CREATE FUNCTION take_stamp_away() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.stamp := 0;
    RETURN NEW;
END
$$
"""

UNSTAMPED = """
CREATE TRIGGER accounts_unstamped BEFORE UPDATE ON accounts
FOR EACH ROW WHEN (NEW.stamp = OLD.stamp AND OLD.stamp <> 0) EXECUTE FUNCTION take_stamp_away()
"""


def upgrade() -> None:
    for statement in (STAMP, TAKE_STAMP_AWAY, UNSTAMPED):
        op.execute(statement)
    record_version(2, lowest_code=1)
