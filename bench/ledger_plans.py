# SPDX-License-Identifier: Apache-2.0
"""How PostgreSQL runs the statements of a unit of work on a full database."""

from __future__ import annotations

import re

from deploy.local.postgres import PostgresServer
from services.ledger.adapters import statements

SMALL_ROWS = 1000
"""A table of so few rows is rightly read as a whole."""


def scanning(server: PostgresServer, database: str) -> list[str]:
    """
    Return the statements whose plan reads the whole of a table that is not small.

    The plans asked for are those without parameters (PostgreSQL 16 and newer), which the ledger's
    prepared statements settle on.

    Args:
        server: The server.
        database: A database with statistics.
    """
    small = server.execute(
        f"SELECT relname FROM pg_class WHERE reltuples < {SMALL_ROWS}",  # noqa: S608 - a constant
        database=database,
    ).split()
    found = []
    for name, statement in vars(statements).items():
        if isinstance(statement, statements.Statement):
            text = f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {statement.many_buckets}"
            plan = server.execute(text, database=database)
            if set(re.findall(r"Seq Scan on (\w+)", plan)) - set(small):
                found.append(name)
    return found
