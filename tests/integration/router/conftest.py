# SPDX-License-Identifier: Apache-2.0
"""A router for each test, with an own and a shared OpenAI key in place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, serve_router
from tests.support.simulated_providers import KEYS

SHARED = "sk-proj-sim-shared-0123456789abcdef"


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[RouterUnderTest]:
    """A router that serves."""
    async with serve_router(tmp_path) as served:
        served.keyvault.put("demo", stored_key("demo", "main", "openai", KEYS["openai"]))
        served.keyvault.put("platform", stored_key("platform", "openai-1", "openai", SHARED))
        yield served
