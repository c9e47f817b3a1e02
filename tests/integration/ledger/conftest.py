# SPDX-License-Identifier: Apache-2.0
"""A ledger for each test, on a copy of a migrated database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.ledger import RunningLedger, migrated, running_ledger
from tests.support.postgres import Databases


@pytest.fixture(scope="session")
def ledger_template(databases: Databases) -> Iterator[str]:
    """A migrated database that tests copy."""
    with databases.empty() as dsn:
        asyncio.run(migrated(dsn))
        yield dsn


@pytest.fixture
def ledger_dsn(databases: Databases, ledger_template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    with databases.copy(ledger_template) as dsn:
        yield dsn


@pytest.fixture
async def books(tmp_path: Path, ledger_dsn: str) -> AsyncIterator[RunningLedger]:
    """A ledger that serves."""
    async with running_ledger(tmp_path, ledger_dsn) as running:
        yield running
