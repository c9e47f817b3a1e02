# SPDX-License-Identifier: Apache-2.0
"""One running suite for all end-to-end tests; a test that breaks parts starts its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from tests.e2e import support


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """The running suite; each test makes accounts of its own on it."""
    with support.running_suite(tmp_path_factory.mktemp("suite") / "state") as running:
        yield running


@pytest.fixture(scope="session")
def secrets() -> list[str]:
    """Every secret sent to a suite so far; it grows while tests run."""
    return support.SECRETS


@pytest_asyncio.fixture
async def clients(suite: Suite) -> AsyncIterator[Clients]:
    """Stubs to the running suite."""
    async with support.clients_of(suite) as stubs:
        yield stubs
