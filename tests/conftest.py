# SPDX-License-Identifier: Apache-2.0
"""
Real parts for all tests. What is missing fails the test that needs it, with a sentence; nothing is
skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from deploy.local.postgres import PostgresServer
from deploy.local.vault import LocalVault
from tests.support.postgres import Databases, postgres_for_tests
from tests.support.vault import vault_for_tests

# A busy machine is slow now and then: what an example finds counts, not how long it took.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real PostgreSQL server, shared by the run."""
    with postgres_for_tests(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Databases:
    """Makes databases on the run's server."""
    return Databases(postgres)


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalVault]:
    """A real Vault, shared by the run; a test that seals or stops it starts its own."""
    with vault_for_tests(tmp_path_factory.mktemp("vault")) as server:
        yield server


@pytest.fixture
def own_vault(tmp_path: Path) -> Iterator[LocalVault]:
    """A real Vault of the test's own, to seal, stop and start."""
    with vault_for_tests(tmp_path) as server:
        yield server
