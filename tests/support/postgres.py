# SPDX-License-Identifier: Apache-2.0
"""
Databases for tests, on a real PostgreSQL: the one that OWNKEY_TEST_POSTGRES_DSN names (of a role
that may create databases and roles), else an embedded one that lives as long as the test run.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.postgres import EmbeddedPostgres, PostgresServer

DSN_VARIABLE = "OWNKEY_TEST_POSTGRES_DSN"
_PASSWORD = "for-tests"
"""Of roles that live as long as one test run."""


@dataclass(frozen=True, slots=True)
class Databases:
    """Makes databases that live as long as a `with` block."""

    server: PostgresServer
    _prefix: str = field(default_factory=lambda: f"test_{secrets.token_hex(4)}")
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """Yields the DSN of an empty database and of the role that owns it."""
        name = self._next_name()
        dsn = self.server.create_database(name, password=_PASSWORD)
        try:
            yield dsn
        finally:
            self.server.drop_database(name)

    @contextmanager
    def copy(self, dsn: str) -> Iterator[str]:
        """
        A copy of a database that `empty` made, in some milliseconds.

        Args:
            dsn: The database to copy, to which nobody is connected.

        Yields:
            The copy's DSN, for the same role.
        """
        name = self._next_name()
        template = urlsplit(dsn).path.removeprefix("/")
        self.server.copy_database(name, template=template)
        try:
            yield self.server.dsn_for(name, user=template, password=_PASSWORD)
        finally:
            self.server.drop_database(name)

    def _next_name(self) -> str:
        return f"{self._prefix}_{next(self._numbers)}"


@contextmanager
def postgres_for_tests(folder: Path) -> Iterator[PostgresServer]:
    """A real server: the named one, or an embedded one in the folder."""
    dsn = os.environ.get(DSN_VARIABLE)
    if dsn:
        yield PostgresServer(dsn)
        return
    with EmbeddedPostgres(folder / "postgres", log_folder=folder / "logs") as embedded:
        yield embedded.server
