# SPDX-License-Identifier: Apache-2.0
"""A collector on loopback: takes spans by OTLP over gRPC, and keeps them to be looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

from services.shared.certificates import TlsFiles

WAIT_SECONDS_MAX = 15.0


@dataclass(frozen=True, slots=True)
class TakenSpan:
    """A span as it arrived."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool
    links: tuple[str, ...]
    """Trace ids of what it is linked to."""


@dataclass
class Collector(pb_grpc.TraceServiceServicer):
    """What has arrived."""

    endpoint: str = ""
    bodies: list[bytes] = field(default_factory=list)
    """Every message, as it was sent."""
    _spans: list[TakenSpan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def Export(  # noqa: N802 - the RPC's name
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        """Take spans."""
        with self._lock:
            self.bodies.append(request.SerializeToString())
            for resource in request.resource_spans:
                service = attributes_of(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self._spans += [taken(service, span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def spans(self, trace_id: str = "") -> list[TakenSpan]:
        """Give the spans of a trace, or all of them."""
        with self._lock:
            return [one for one in self._spans if trace_id in ("", one.trace_id)]

    def wait(
        self, holds: Callable[[list[TakenSpan]], bool], *, trace_id: str = ""
    ) -> list[TakenSpan]:
        """Wait until what has arrived suffices, and give it."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not holds(found := self.spans(trace_id)):
            assert time.monotonic() < deadline, [f"{one.service} {one.name}" for one in found]
            time.sleep(0.05)
        return found


def taken(service: str, span: Any) -> TakenSpan:
    """Read a span."""
    return TakenSpan(
        service=service,
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=attributes_of(span.attributes),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        links=tuple(link.trace_id.hex() for link in span.links),
    )


def attributes_of(attributes: Any) -> dict[str, Any]:
    """Read attributes."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting(files: TlsFiles | None = None) -> Iterator[Collector]:
    """Run a collector meanwhile, in plain text or with a certificate."""
    server = grpc.server(ThreadPoolExecutor(2))
    if files is None:
        scheme, port = "http", server.add_insecure_port("127.0.0.1:0")
    else:
        shown = (files.key.read_bytes(), files.certificate.read_bytes())
        scheme = "https"
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([shown]))
    collector = Collector(endpoint=f"{scheme}://127.0.0.1:{port}")
    pb_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
