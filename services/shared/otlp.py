# SPDX-License-Identifier: Apache-2.0
"""
Spans by OpenTelemetry's SDK, sent to a collector by OTLP over gRPC.

The queue is bounded: where the collector is slow or away, the oldest spans are lost, and nothing
waits. Sampling is decided once, where a trace begins; a caller's `traceparent` has decided already.
https://opentelemetry.io/docs/specs/otel/trace/sdk/ ; https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

import contextvars
import logging
import socket
import time
from typing import TYPE_CHECKING

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter

from services.shared.logging import get_logger
from services.shared.tracing import HEADER, NO_SPAN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Self

    from services.shared.tracing import Attribute, Span, Trace

QUEUE_SPANS_MAX = 4096
BATCH_SPANS_MAX = 512
SEND_EVERY_MILLIS = 1000
SEND_SECONDS_MAX = 3.0
CLOSE_SECONDS_MAX = 3.0
"""What is left to be sent at the end gets so long, give or take one sending."""
LINKS_MAX = 32
ATTRIBUTES_MAX = 16
ATTRIBUTE_LENGTH_MAX = 128

SPANS_ENDED = Counter(
    "ownkey_trace_spans_ended", "Spans that ended in a sampled trace and were queued for sending."
)
SPANS_SENT = Counter(
    "ownkey_trace_spans_sent", "Spans that the collector took; what is missing was lost."
)

log = get_logger()

_here: contextvars.ContextVar[trace.Span | None] = contextvars.ContextVar("span", default=None)
_NOWHERE = Context()
_propagator = TraceContextTextMapPropagator()


class OtlpTracer:
    """
    Implements Tracer.

    Args:
        endpoint: The collector, `https://host:port`, or `http://` on loopback.
        service: This process's service.
        ratio: Share of traces begun here that are sampled, 0 to 1.
        ca_file: Checks the collector's certificate; None for the system's.
    """

    def __init__(
        self, endpoint: str, *, service: str, ratio: float, ca_file: Path | None = None
    ) -> None:
        # Its own lines would go to standard error unformatted; what matters is told by ours.
        library = logging.getLogger("opentelemetry")
        library.addHandler(logging.NullHandler())
        library.propagate = False
        self._sender = _Sender(endpoint, ca_file)
        resource = Resource(
            {"service.name": f"ownkey-{service}", "service.instance.id": socket.gethostname()}
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=resource,
            span_limits=SpanLimits(
                max_span_attributes=ATTRIBUTES_MAX,
                max_span_attribute_length=ATTRIBUTE_LENGTH_MAX,
                max_links=LINKS_MAX,
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(_Count())
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._sender,
                max_queue_size=QUEUE_SPANS_MAX,
                max_export_batch_size=BATCH_SPANS_MAX,
                schedule_delay_millis=SEND_EVERY_MILLIS,
            )
        )
        self._tracer = self._provider.get_tracer("ownkey")

    def close(self) -> None:
        """Send what waits, within a bound, and stop."""
        self._sender.give_up_after(CLOSE_SECONDS_MAX)
        self._provider.shutdown()

    def current(self) -> Trace | None:
        """Return where this task is; see Tracer."""
        span = _here.get()
        return None if span is None else span.get_span_context()

    def header(self) -> str:
        """Return the header of what is called from here; see Tracer."""
        span = _here.get()
        return "" if span is None else _header(span)

    def serving(self, name: str, header: str, attributes: dict[str, Attribute]) -> Span:
        """Begin to serve a call; see Tracer. The rest of a caller's context is not taken over."""
        parent = _propagator.extract({HEADER: header}, context=_NOWHERE) if header else _NOWHERE
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, record_exception=False)
        served = _OpenSpan(span, stays=True)
        served.set(**attributes)
        return served

    def span(self, name: str, attributes: dict[str, Attribute], *, outbound: bool) -> Span:
        """Begin a part; see Tracer."""
        here = _here.get()
        if here is None or not here.get_span_context().trace_flags.sampled:
            return NO_SPAN
        span = self._tracer.start_span(
            name,
            trace.set_span_in_context(here, _NOWHERE),
            SpanKind.CLIENT if outbound else SpanKind.INTERNAL,
            _dotted(attributes),
            record_exception=False,
        )
        return _OpenSpan(span)

    def shared(
        self, name: str, traces: Iterable[Trace | None], attributes: dict[str, Attribute]
    ) -> Span:
        """Begin work for many; see Tracer."""
        found = {one.span_id: one for one in traces if one is not None}
        sampled = [one for one in found.values() if one.trace_flags.sampled]
        if not sampled:
            # What is called from here must not take the decision anew.
            first = next(iter(found.values()), None)
            return NO_SPAN if first is None else _OpenSpan(NonRecordingSpan(first))
        parent, *others = sampled
        span = self._tracer.start_span(
            name,
            trace.set_span_in_context(NonRecordingSpan(parent), _NOWHERE),
            SpanKind.INTERNAL,
            _dotted(attributes),
            links=[trace.Link(other) for other in others[:LINKS_MAX]],
            record_exception=False,
        )
        return _OpenSpan(span)


class _OpenSpan:
    """
    Implements Span.

    Args:
        span: The library's.
        stays: Whether it is a served call's: its task stays in the trace, and its boundary knows
            how it ended.
    """

    __slots__ = ("_span", "_stays", "_token")

    def __init__(self, span: trace.Span, *, stays: bool = False) -> None:
        self._span = span
        self._stays = stays
        self._token: contextvars.Token[trace.Span | None] | None = None

    @property
    def trace_id(self) -> str:
        """The trace's id; see Span."""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def header(self) -> str:
        """The header of what is called in it; see Span."""
        return _header(self._span)

    def set(self, **attributes: Attribute) -> None:
        """Add attributes; see Span."""
        # Most calls are not sampled: nothing is written for them.
        if self._span.is_recording():
            self._span.set_attributes(_dotted(attributes))

    def fail(self, kind: str) -> None:
        """Mark it as failed; see Span."""
        self._span.set_status(StatusCode.ERROR)
        self._span.set_attribute("error.type", kind)

    def __enter__(self) -> Self:
        self._token = _here.set(self._span)
        return self

    def __exit__(self, kind: object, fault: object, trace_back: object) -> None:
        if isinstance(kind, type) and not self._stays:
            # The class alone: a failure's text may hold what was sent.
            self.fail(kind.__name__)
        if self._token is not None and not self._stays:
            _here.reset(self._token)
        self._span.end()


class _Count(SpanProcessor):
    """Counts the spans that are to be sent."""

    def on_end(self, span: ReadableSpan) -> None:
        """Count one."""
        if span.context is not None and span.context.trace_flags.sampled:
            SPANS_ENDED.inc()


class _Sender(SpanExporter):
    """
    Sends spans, and tells of failures in our own words.

    Args:
        endpoint: The collector.
        ca_file: Checks its certificate; None for the system's.
    """

    def __init__(self, endpoint: str, ca_file: Path | None) -> None:
        insecure = endpoint.startswith("http://")
        roots = None if ca_file is None else ca_file.read_bytes()
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=insecure,
            credentials=None if insecure else grpc.ssl_channel_credentials(roots),
            timeout=SEND_SECONDS_MAX,
            # A proxy named in the environment must not see traces.
            channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type]  # as gRPC's
        )
        self._give_up_at = float("inf")
        self._failing = False

    def give_up_after(self, seconds: float) -> None:
        """Send nothing any more once so long has passed."""
        self._give_up_at = time.monotonic() + seconds

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, once."""
        if time.monotonic() >= self._give_up_at:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if not failed:
            SPANS_SENT.inc(len(spans))
        if failed and not self._failing:
            log.warning("traces_not_sent", advice="see to the collector, or unset OTLP_ENDPOINT")
        elif self._failing and not failed:
            log.info("traces_sent_again")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


def _header(span: trace.Span) -> str:
    """Write a `traceparent`, as in https://www.w3.org/TR/trace-context/#traceparent-header."""
    at = span.get_span_context()
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"


def _dotted(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    """Give attributes their names: what Python writes `rpc__method` is `rpc.method`."""
    return {name.replace("__", "."): value for name, value in attributes.items()}
