# SPDX-License-Identifier: Apache-2.0
"""
A service's process: serve, tell its health, stop gracefully.

On SIGTERM or SIGINT health turns NOT_SERVING and callers leave; then new calls are refused, running
ones may finish within the drain's bound, and what was opened is closed. What else the process
serves, such as HTTP, stops at the same time, so that the bound holds for all of it together.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.shared.boundary import STREAM_SECONDS_MAX
from services.shared.config import ConfigError, is_loopback
from services.shared.errors import ServiceError
from services.shared.logging import get_logger
from services.shared.metrics import MetricsListener, show_certificate_end
from services.shared.serving_config import CONNECTION_SECONDS_DEFAULT
from services.shared.tls import server_credentials

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from services.shared.boundary import Boundary
    from services.shared.certificates import Certificates

DRAIN_SECONDS_DEFAULT = 30.0
CONNECTION_GRACE_SECONDS = STREAM_SECONDS_MAX + 30.0
"""What a call on an ageing connection gets to end in: more than the longest stream takes."""
LEAVE_SECONDS = 0.5
"""What callers get to go to another replica in, once health says NOT_SERVING."""
KEEPALIVE_MILLIS = 30_000
KEEPALIVE_TIMEOUT_MILLIS = 10_000
PING_MILLIS_MIN = 10_000
"""Callers that ping an idle connection more often are cut off; ours do every twenty seconds."""
RECEIVE_FACTOR = 2
CONNECTION_STREAMS_MAX = 4096
GC_THRESHOLDS = (200_000, 20, 100)
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h

Stop: TypeAlias = "Callable[[], Awaitable[None]]"
"""Stops something, and returns when it has stopped."""

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
        certificates: What it shows and trusts; plain text without, on loopback only.
        health_listen: Where health alone is served in plain text; None for nowhere.
        metrics_listen: Where metrics are served in plain text; None for nowhere.
        connection_seconds: Age at which a caller is asked to connect anew.
        drain_seconds: How long running calls may go on after a stop was asked for.
        on_stop: Stop what else the process serves, each within the same bound; all begin together
            with the drain.
    """

    listen: str
    services: Sequence[str]
    register: Callable[[grpc.aio.Server], None]
    boundary: Boundary
    certificates: Certificates | None = None
    health_listen: str | None = None
    metrics_listen: str | None = None
    connection_seconds: float = CONNECTION_SECONDS_DEFAULT
    drain_seconds: float = DRAIN_SECONDS_DEFAULT
    on_stop: Sequence[Stop] = ()


class RunningServer:
    """
    A server that serves.

    Args:
        server: The gRPC server.
        port: The port it listens on.
        health_server: Serves health in plain text; None where nobody asked for it.
        health_servicer: Tells its health.
        metrics: Serves metrics in plain text; None where nobody asked for it.
        spec: What it serves.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        port: int,
        health_server: grpc.aio.Server | None,
        health_servicer: health.aio.HealthServicer,
        metrics: MetricsListener | None,
        spec: ServerSpec,
    ) -> None:
        self.port = port
        self.metrics = metrics
        self._server = server
        self._health_server = health_server
        self._health = health_servicer
        self._spec = spec

    async def stop(self) -> None:
        """Say NOT_SERVING, let running calls finish within the bound, then stop."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(min(LEAVE_SECONDS, self._spec.drain_seconds))
        others = (stop() for stop in self._spec.on_stop)
        await asyncio.gather(self._server.stop(self._spec.drain_seconds), *others)
        if self._health_server is not None:
            await self._health_server.stop(None)
        if self.metrics is not None:
            await asyncio.to_thread(self.metrics.close)


def server_options(spec: ServerSpec) -> Sequence[tuple[str, int]]:
    """
    Return what gRPC is told of a server's messages and connections.

    See https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
    """
    return (
        # Past what is taken, so that a message a little too large is refused by the boundary, with
        # a reason; far past it, gRPC drops it unread.
        ("grpc.max_receive_message_length", RECEIVE_FACTOR * spec.boundary.request_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", CONNECTION_STREAMS_MAX),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_MILLIS_MIN),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MILLIS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLIS),
        ("grpc.max_connection_age_ms", round(1000 * spec.connection_seconds)),
        ("grpc.max_connection_age_grace_ms", round(1000 * CONNECTION_GRACE_SECONDS)),
    )


async def start(spec: ServerSpec) -> RunningServer:
    """
    Start serving.

    Raises:
        ConfigError: If an address cannot be listened on.
    """
    server = grpc.aio.server(interceptors=[spec.boundary], options=server_options(spec))
    spec.register(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = (*spec.services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = _listen(server, spec.listen, spec.certificates)
    health_server = None
    if spec.health_listen is not None:
        health_server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, health_server)
        _add_port(health_server, spec.health_listen, None)
        await health_server.start()
    metrics = None if spec.metrics_listen is None else MetricsListener(spec.metrics_listen)
    if spec.certificates is not None:
        show_certificate_end(spec.certificates)
    await server.start()
    for name in ("", *spec.services):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("serving", listen=spec.listen, port=port, tls=spec.certificates is not None)
    return RunningServer(
        server,
        port=port,
        health_server=health_server,
        health_servicer=health_servicer,
        metrics=metrics,
        spec=spec,
    )


def _listen(server: grpc.aio.Server, address: str, certificates: Certificates | None) -> int:
    """Listen with the certificate, or without one on loopback; return the port."""
    if certificates is not None:
        return _add_port(server, address, server_credentials(certificates))
    if not is_loopback(address):
        problem = (
            f"{address} is not on loopback, and plain text is served on loopback only: set the "
            "TLS files, or listen on 127.0.0.1"
        )
        raise ConfigError([problem])
    return _add_port(server, address, None)


def _add_port(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as fault:
        problem = (
            f"cannot listen on {address}; another process has the port, or it is no address of "
            "this machine: stop that process or choose another address"
        )
        raise ConfigError([problem]) from fault


async def serve_until_stopped(spec: ServerSpec) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = await start(spec)
    # Calls and batches make tens of thousands of values that live for milliseconds and hold no
    # cycles: to look through them as often as Python does by default costs a sixth of the
    # throughput. What is there at the start stays: collections need not look at it.
    gc.set_threshold(*GC_THRESHOLDS)
    gc.collect()
    gc.freeze()
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
