# SPDX-License-Identifier: Apache-2.0
"""A keyvault for each test, on a copy of a migrated database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.keyvault import RunningKeyvault, migrated, running_keyvault
from tests.support.postgres import Databases


@pytest.fixture(scope="session")
def keyvault_template(databases: Databases) -> Iterator[str]:
    """A migrated database that tests copy."""
    with databases.empty() as dsn:
        asyncio.run(migrated(dsn))
        yield dsn


@pytest.fixture
def keyvault_dsn(databases: Databases, keyvault_template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    with databases.copy(keyvault_template) as dsn:
        yield dsn


@pytest.fixture
async def vaulted(tmp_path: Path, keyvault_dsn: str) -> AsyncIterator[RunningKeyvault]:
    """A keyvault on a local keyring."""
    async with running_keyvault(tmp_path, keyvault_dsn) as running:
        yield running
