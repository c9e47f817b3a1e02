# SPDX-License-Identifier: Apache-2.0
"""
A service's process: serve, tell its health, stop gracefully.

On SIGTERM or SIGINT health turns NOT_SERVING, new calls are refused, running ones may finish within
the drain's bound, then what was opened is closed.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.shared.config import ConfigError
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from services.shared.boundary import Boundary

DRAIN_SECONDS_DEFAULT = 30.0
RECEIVE_FACTOR = 2
CONNECTION_STREAMS_MAX = 4096
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h

log = get_logger()


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """
    What a process serves.

    Args:
        listen: `host:port`; port 0 takes a free one.
        services: Full names of its gRPC services.
        register: Adds the servicers to the server.
        boundary: Stands before all of them.
        drain_seconds: How long running calls may go on after a stop was asked for.
    """

    listen: str
    services: Sequence[str]
    register: Callable[[grpc.aio.Server], None]
    boundary: Boundary
    drain_seconds: float = DRAIN_SECONDS_DEFAULT


class RunningServer:
    """
    A server that serves.

    Args:
        server: The gRPC server.
        port: The port it listens on.
        health_servicer: Tells its health.
        spec: What it serves.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        port: int,
        health_servicer: health.aio.HealthServicer,
        spec: ServerSpec,
    ) -> None:
        self.port = port
        self._server = server
        self._health = health_servicer
        self._spec = spec

    async def stop(self) -> None:
        """Say NOT_SERVING, let running calls finish within the bound, then stop."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._spec.drain_seconds)


async def start(spec: ServerSpec) -> RunningServer:
    """
    Start serving.

    Raises:
        ConfigError: If the address cannot be listened on.
    """
    options = [
        # Past what is taken, so that a message a little too large is refused by the boundary, with
        # a reason; far past it, gRPC drops it unread.
        ("grpc.max_receive_message_length", RECEIVE_FACTOR * spec.boundary.request_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", CONNECTION_STREAMS_MAX),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    server = grpc.aio.server(interceptors=[spec.boundary], options=options)
    spec.register(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = (*spec.services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(spec.listen)
    except RuntimeError as fault:
        problem = (
            f"cannot listen on {spec.listen}; another process has the port: stop it or choose "
            "another address"
        )
        raise ConfigError([problem]) from fault
    await server.start()
    for name in ("", *spec.services):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("serving", listen=spec.listen, port=port)
    return RunningServer(server, port=port, health_servicer=health_servicer, spec=spec)


async def serve_until_stopped(spec: ServerSpec) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = await start(spec)
    await stop.wait()
    log.info("stopping", drain_seconds=spec.drain_seconds)
    await running.stop()
    log.info("stopped")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a process's main coroutine; a fault of configuration or start is said in plain words."""
    try:
        uvloop.run(main())
    except ConfigError as fault:
        for problem in fault.problems:
            print(f"error: {problem}", file=sys.stderr)  # noqa: T201 - before logging is set up
        sys.exit(EXIT_CONFIG)
    except ServiceError as fault:
        print(f"error: {fault.message}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
