# SPDX-License-Identifier: Apache-2.0
"""The provider simulator, served on loopback inside a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

from simulator.api import Settings
from simulator.app import build_app

KEYS = {
    "openai": "sk-proj-sim-0123456789abcdefghij",
    "openrouter": "sk-or-v1-sim-0123456789abcdefghij",
    "anthropic": "sk-ant-api03-sim-0123456789abcdefghij",
    "gemini": "AIzaSy-sim-0123456789abcdefghij",
}
"""A good key of each provider; `faulty_key` makes a failing one of it."""


def faulty_key(provider: str, fault: str) -> str:
    """Give a key that fails in the way a fault's words say."""
    return KEYS[provider].replace("-sim-", f"-sim-{fault}-")


@asynccontextmanager
async def serve_simulator(*, slow_seconds: float = 5.0) -> AsyncIterator[str]:
    """Serve the simulator on a free port and give its base address."""
    settings = Settings(now=lambda: datetime.now(UTC), slow_seconds=slow_seconds)
    runner = web.AppRunner(build_app(settings), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
