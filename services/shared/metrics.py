# SPDX-License-Identifier: Apache-2.0
"""
Metrics that every service has, and the listener where Prometheus reads all of a process.

Labels are bounded: RPC names, codes, providers, words of ours; never an account, a key or a
request. https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import threading
from functools import cache
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

from services.shared.config import ConfigError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from typing import Any

    from services.shared.boundary import CallRecord
    from services.shared.certificates import Certificates

DURATION_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0),
)
SCRAPE_SECONDS_MAX = 5.0
"""How long a reader may keep the listener waiting; readers are served one at a time."""
WAITING_READERS_MAX = 8
STOP_POLL_SECONDS = 0.1

RPC_CALLS = Counter("ownkey_rpc_calls", "Calls that have ended, by RPC and code.", ["rpc", "code"])
RPC_SECONDS = Histogram(
    "ownkey_rpc_duration_seconds",
    "How long calls took, streams to their end.",
    ["rpc"],
    buckets=DURATION_BUCKETS,
)
CERTIFICATE_END = Gauge(
    "ownkey_certificate_end_timestamp_seconds",
    "When the certificate that this process shows ends; 0 where it shows none.",
)
DATABASE_WAIT_SECONDS = Histogram(
    "ownkey_database_wait_seconds",
    "How long units of work waited for a connection of the pool.",
    buckets=(0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
DATABASE_FAILURES = Counter(
    "ownkey_database_failures",
    "Units of work that the database failed: lost on the way, timeout of it or of its pool, "
    "rows that stayed locked, or a conflict that was tried again.",
    ["kind"],
)
for _kind in ("conflict", "locked", "lost", "timeout"):
    # At zero from the start, so that the first is an increase.
    DATABASE_FAILURES.labels(kind=_kind)

log = get_logger()


def observe_rpc(record: CallRecord) -> None:
    """Count a call that has ended."""
    _calls(record.rpc, record.code).inc()
    _seconds(record.rpc).observe(record.seconds)


@cache
def _calls(rpc: str, code: str) -> Counter:
    # Kept: to look the labels up takes longer than to count.
    return RPC_CALLS.labels(rpc=rpc, code=code)


@cache
def _seconds(rpc: str) -> Histogram:
    return RPC_SECONDS.labels(rpc=rpc)


def show_certificate_end(certificates: Certificates) -> None:
    """Show when the certificate ends, as its file has it at each reading."""

    def end() -> float:
        return certificates.current().not_after.timestamp()

    CERTIFICATE_END.set_function(end)


class MetricsListener:
    """
    Serves the metrics in plain text, in a thread of its own.

    Args:
        address: `host:port`, checked; port 0 takes a free one.

    Raises:
        ConfigError: If it cannot be listened on.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = AF_INET6 if ":" in host else AF_INET
        try:
            self._server = _server_of(family)((host, int(port)), _Reader)
        except OSError as fault:
            problem = (
                f"cannot listen on {address} for metrics; another process has the port, or it is "
                "no address of this machine: stop that process or choose another address"
            )
            raise ConfigError([problem]) from fault
        self._server.set_app(make_wsgi_app())
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(STOP_POLL_SECONDS,),
            name="metrics",
            daemon=True,
        )
        self._thread.start()
        log.info("serving_metrics", listen=address, port=self.port)

    def close(self) -> None:
        """Stop listening; a reading under way ends within its bound."""
        self._server.shutdown()
        self._server.server_close()


def _server_of(family: int) -> type[WSGIServer]:
    class Server(WSGIServer):
        address_family = family
        request_queue_size = WAITING_READERS_MAX
        allow_reuse_port = False

        def server_bind(self) -> None:
            """Bind without asking DNS for this machine's name, which may take long."""
            TCPServer.server_bind(self)
            host, self.server_port = self.server_address[:2]
            self.server_name = str(host)
            self.setup_environ()

        def handle_error(self, *_: Any) -> None:
            """Leave a reader that went away or was too slow."""
            log.info("metrics_reader_left")

    return Server


class _Reader(WSGIRequestHandler):
    """One reading."""

    timeout = SCRAPE_SECONDS_MAX

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's signature
        """Say nothing: a reading every few seconds is no news."""
