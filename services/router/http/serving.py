# SPDX-License-Identifier: Apache-2.0
"""
Listens for the door.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from services.shared.config import ConfigError
from services.shared.logging import get_logger
from services.shared.tls import http_server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.shared.certificates import Certificates
    from services.shared.server import Stop

HEADER_BYTES_MAX = 16 * 1024

log = get_logger()


@asynccontextmanager
async def serving(
    app: web.Application, listen: str, *, certificates: Certificates | None, drain_seconds: float
) -> AsyncIterator[Stop]:
    """
    Serve an application until it is stopped, at the latest at the end of the context.

    Args:
        app: What to serve.
        listen: `host:port`, checked.
        certificates: What it shows and trusts; plain text without, on loopback only.
        drain_seconds: How long running calls may go on.

    Yields:
        What stops it: nobody may connect any more, and running calls may finish.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    host, _, port = listen.rpartition(":")
    context = None if certificates is None else http_server_context(certificates)
    # A caller that leaves cancels its handler, which ends its request as on gRPC.
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=drain_seconds,
        max_field_size=HEADER_BYTES_MAX,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context).start()
        except OSError as fault:
            problem = (
                f"cannot listen on {listen}; stop what listens there or choose another address"
            )
            raise ConfigError([problem]) from fault
        log.info("serving_http", listen=listen, tls=context is not None)
        yield runner.cleanup
    finally:
        await runner.cleanup()
