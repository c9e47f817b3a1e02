# SPDX-License-Identifier: Apache-2.0
"""
Traces: what a request did, and how long each part took, across the services.

Off unless a process was told of a collector; then every function here does nothing. A span holds
names and numbers of ours: no prompt, no answer, no key, no account, no text of a failure.

1. A request's trace goes on in all that is begun for it, tasks that outlive it included.
2. Work done for many requests at once stands in the trace of the first that is sampled, and is
   linked to the others.
3. To providers nothing of a trace is sent.

https://opentelemetry.io/docs/specs/otel/trace/api/ ; https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from opentelemetry.trace import SpanContext

    from services.shared.serving_config import ServingConfig

    Trace: TypeAlias = SpanContext
    """A place in a trace, carried by work that others do."""

Attribute: TypeAlias = str | int | float | bool
HEADER = "traceparent"


class Span(Protocol):
    """A part of a trace; a context manager that ends it, as failed where something is raised."""

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits; empty where nothing is traced."""
        ...

    @property
    def header(self) -> str:
        """The `traceparent` header of what is called in it; empty where nothing is traced."""
        ...

    def set(self, **attributes: Attribute) -> None:
        """Add attributes; a name's `__` stands for a dot."""
        ...

    def fail(self, kind: str) -> None:
        """Mark it as failed, by a word of ours."""
        ...

    def __enter__(self) -> Self:
        """Begin: what is done now is part of it."""
        ...

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        """End it."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def current(self) -> Trace | None:
        """Return the place in a trace where this task is."""
        ...

    def header(self) -> str:
        """Return the `traceparent` header of what is called from here; empty outside of traces."""
        ...

    def serving(self, name: str, header: str, attributes: dict[str, Attribute]) -> Span:
        """Begin to serve a call, whose caller may have sent a `traceparent` header."""
        ...

    def span(self, name: str, attributes: dict[str, Attribute], *, outbound: bool) -> Span:
        """Begin a part of what this task serves."""
        ...

    def shared(
        self, name: str, traces: Iterable[Trace | None], attributes: dict[str, Attribute]
    ) -> Span:
        """Begin work for many."""
        ...


class _NoSpan:
    """Stands where nothing is traced."""

    __slots__ = ()
    trace_id = ""
    header = ""

    def set(self, **attributes: Attribute) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


NO_SPAN: Span = _NoSpan()
_tracer: Tracer | None = None


@contextlib.contextmanager
def traced(config: ServingConfig, *, service: str) -> Iterator[None]:
    """
    Trace what this process does meanwhile, if it was told of a collector.

    Args:
        config: Says where to, and how much.
        service: Its name.
    """
    if config.otlp_endpoint is None:
        yield
        return
    # Imported here so that a process without traces does not load what makes them.
    from services.shared.otlp import OtlpTracer  # noqa: PLC0415

    tracer = OtlpTracer(
        config.otlp_endpoint,
        service=service,
        ratio=config.trace_ratio,
        ca_file=config.otlp_ca_file,
    )
    with use(tracer), contextlib.closing(tracer):
        yield


@contextlib.contextmanager
def use(tracer: Tracer) -> Iterator[None]:
    """Have a tracer make this process's spans meanwhile."""
    global _tracer  # noqa: PLW0603 - one process, one tracer, as with logs
    _tracer = tracer
    try:
        yield
    finally:
        _tracer = None


def active() -> bool:
    """Tell whether this process traces."""
    return _tracer is not None


def current() -> Trace | None:
    """Return the place in a trace where this task is, for work that others do."""
    return None if _tracer is None else _tracer.current()


def header() -> str:
    """Return the `traceparent` header of what is called from here; empty outside of traces."""
    return "" if _tracer is None else _tracer.header()


def serving(name: str, header: str, **attributes: Attribute) -> Span:
    """Begin to serve a call; all that this task does from here on belongs to its trace."""
    return NO_SPAN if _tracer is None else _tracer.serving(name, header, attributes)


def span(name: str, **attributes: Attribute) -> Span:
    """Begin a part of what this task serves; nothing outside of a sampled trace."""
    return NO_SPAN if _tracer is None else _tracer.span(name, attributes, outbound=False)


def calling(name: str, **attributes: Attribute) -> Span:
    """Begin a call of another process; nothing outside of a sampled trace."""
    return NO_SPAN if _tracer is None else _tracer.span(name, attributes, outbound=True)


def shared(name: str, traces: Iterable[Trace | None], **attributes: Attribute) -> Span:
    """Begin work that is done for many at once; looks at their traces only where one is kept."""
    return NO_SPAN if _tracer is None else _tracer.shared(name, traces, attributes)


def header_in(metadata: Sequence[tuple[str, str | bytes]] | None) -> str:
    """Return the `traceparent` header among a call's metadata; empty without one."""
    for name, value in metadata or ():
        if name == HEADER and isinstance(value, str):
            return value
    return ""


@cache
def rpc_attributes(method: str) -> dict[str, Attribute]:
    """
    Return what the span of a call carries, on either side.

    Args:
        method: `/package.Service/Method`.

    See https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
    """
    service, _, name = method.removeprefix("/").partition("/")
    return {"rpc__system": "grpc", "rpc__service": service, "rpc__method": name}
