# SPDX-License-Identifier: Apache-2.0
"""The provider simulator, served on loopback inside a test."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.typedefs import Middleware
from cryptography.hazmat.primitives.asymmetric import rsa

from simulator.api import Settings
from simulator.app import build_app
from simulator.credentials import service_account

_ENDPOINT = (
    "https://contoso.openai.azure.com/openai/deployments/{}/chat/completions?api-version=2024-10-21"
)


def azure_key(*slugs: str, api_key: str = "azure-contoso-sim-0123456789abcdefghij") -> str:
    """Give deployments of models, each under the model's own name."""
    deployments = []
    for slug in slugs:
        name = slug.partition("/")[2]
        deployment = {"model_slug": slug, "model_id": name, "api_key": api_key}
        deployments.append({**deployment, "endpoint_url": _ENDPOINT.format(name)})
    return json.dumps(deployments)


PRIVATE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
"""Of all service accounts in one run of tests: making one takes a while."""

KEYS = {
    "openai": "sk-proj-sim-0123456789abcdefghij",
    "openrouter": "sk-or-v1-sim-0123456789abcdefghij",
    "anthropic": "sk-ant-api03-sim-0123456789abcdefghij",
    "gemini": "AIzaSy-sim-0123456789abcdefghij",
    "azure": azure_key("openai/gpt-4o-mini", "openai/gpt-5-mini"),
    "amazon-bedrock": "ABSK-sim-0123456789abcdefghij",
    "google-vertex": service_account(private_key=PRIVATE_KEY),
    "deepseek": "sk-sim-0123456789abcdefghijklmnop",
    "stability": "sk-sim-0123456789abcdefghijklmnopqrstuvwxyz",
    "replicate": "r8_job-sim-0123456789abcdefghijklmnop0",
}
"""A good key of each provider; `faulty_key` makes a failing one of it."""

BOUND_TO_HOSTS = ("azure", "amazon-bedrock", "google-vertex", "replicate")
"""Providers whose credentials say where they are used: their address holds the host."""


def faulty_key(provider: str, fault: str) -> str:
    """Give a key that fails in the way a fault's words say."""
    if provider == "google-vertex":
        return service_account(fault=fault, private_key=PRIVATE_KEY)
    return KEYS[provider].replace("-sim-", f"-sim-{fault}-")


def base_url(simulator: str, provider: str) -> str:
    """Give a provider's address at the simulator."""
    host = "/{host}" if provider in BOUND_TO_HOSTS else ""
    return f"{simulator}/{provider}{host}"


@asynccontextmanager
async def serve_simulator(
    *,
    slow_seconds: float = 5.0,
    job_seconds: float = 0.5,
    webhook_address: str = "",
    middlewares: Iterable[Middleware] = (),
) -> AsyncIterator[str]:
    """Serve the simulator on a free port, behind a test's middlewares; give its base address."""
    settings = Settings(
        now=lambda: datetime.now(UTC),
        slow_seconds=slow_seconds,
        job_seconds=job_seconds,
        webhook_address=webhook_address,
    )
    app = build_app(settings)
    app.middlewares.extend(middlewares)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
