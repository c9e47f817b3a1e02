# SPDX-License-Identifier: Apache-2.0
"""
The boundary: the one place where calls come in and failures go out.

For each call, in this order: identity, policy, deadline, in-flight budget, the servicer's method,
then one canonical log line. A servicer returns messages and raises ServiceError; only this module
aborts a call. An unknown exception becomes INTERNAL with a fixed sentence and is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from services.shared import tracing
from services.shared.errors import (
    DeadlineTooShortError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    ServiceError,
)
from services.shared.identity import grpc_caller
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from services.shared.access import Access
    from services.shared.clock import Clock
    from services.shared.status import StatusTable
    from services.shared.tracing import Span, Trace

UNARY_SECONDS_DEFAULT = 60.0
STREAM_SECONDS_MAX = 600.0
DEADLINE_SECONDS_MIN = 0.02
REQUEST_BYTES_MAX_DEFAULT = 4 * 1024 * 1024
IN_FLIGHT_MAX_DEFAULT = 2048
OVERLOAD_RETRY_SECONDS = 0.5

_SERVER_FAULTS = frozenset(
    {"DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"}
)
"""Codes that mark a served call's span as failed; the others are the caller's doing.
https://opentelemetry.io/docs/specs/semconv/rpc/grpc/"""

_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection."

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

log = get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """
    The call being served.

    Args:
        rpc: Full method name, `/package.Service/Method`.
        identity: Who calls.
        deadline: When it must have ended, on the clock's monotonic scale.
        clock: The clock it is served on.
        trace: Its place in its trace; None where nothing is traced.
    """

    rpc: str
    identity: str
    deadline: float
    clock: Clock
    trace: Trace | None = None

    def time_remaining(self) -> float:
        """Return the seconds left, zero or more."""
        return max(0.0, self.deadline - self.clock.monotonic())


@dataclass(frozen=True, slots=True)
class CallRecord:
    """
    What is known of a call when it has ended.

    Args:
        rpc: Full method name.
        identity: Who called; empty if that was refused.
        code: gRPC code by name.
        reason: ErrorInfo reason, empty on success.
        seconds: How long it took.
    """

    rpc: str
    identity: str
    code: str
    reason: str
    seconds: float


_current: contextvars.ContextVar[Call] = contextvars.ContextVar("ownkey_call")


def current_call() -> Call | None:
    """Return the call being served by this task; None outside of one."""
    return _current.get(None)


class _Ended:
    """How a call ended, filled in while it runs."""

    __slots__ = ("code", "identity", "reason")

    def __init__(self) -> None:
        self.code, self.reason, self.identity = grpc.StatusCode.OK.name, "", ""


class Boundary(grpc.aio.ServerInterceptor):
    """
    The interceptor that stands before every servicer.

    Args:
        table: The service's failures.
        access: Knows who calls, and what they may.
        clock: Time.
        in_flight_max: Calls served at once; more are refused with OVERLOADED.
        request_bytes_max: Largest request message taken.
        observe: Told of every call that has ended: the hook for metrics.
    """

    def __init__(
        self,
        *,
        table: StatusTable,
        access: Access,
        clock: Clock,
        in_flight_max: int = IN_FLIGHT_MAX_DEFAULT,
        request_bytes_max: int = REQUEST_BYTES_MAX_DEFAULT,
        observe: Callable[[CallRecord], None] = lambda _record: None,
    ) -> None:
        self.request_bytes_max = request_bytes_max
        self._table = table
        self._access = access
        self._clock = clock
        self._in_flight_max = in_flight_max
        self._in_flight = 0
        self._observe = observe
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap a method's handler, once for each method."""
        method = handler_call_details.method
        if method.startswith((_HEALTH, _REFLECTION)):
            return await continuation(handler_call_details)
        known = self._handlers.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        wrapped = self._wrap(method, handler)
        self._handlers[method] = wrapped
        return wrapped

    def _wrap(self, rpc: str, handler: Any) -> Handler:
        read = _reader(handler.request_deserializer, bytes_max=self.request_bytes_max)
        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream
            check: Callable[[Any], Any] = (
                _readable_stream if handler.request_streaming else _readable
            )

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                with self._serving(rpc, context) as ended:
                    try:
                        allowed = self._enter(
                            rpc, request, context, ended, default_seconds=STREAM_SECONDS_MAX
                        )
                        async with asyncio.timeout(allowed):
                            async for message in inner(check(request), context):
                                yield message
                    except BaseException as fault:  # noqa: BLE001 - the one task root
                        await self._fail(fault, context, ended)

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(stream, read, handler.response_serializer)

        async def unary(request: Any, context: Any) -> Any:
            with self._serving(rpc, context) as ended:
                try:
                    allowed = self._enter(
                        rpc, request, context, ended, default_seconds=UNARY_SECONDS_DEFAULT
                    )
                    async with asyncio.timeout(allowed):
                        return await handler.unary_unary(_readable(request), context)
                except BaseException as fault:  # noqa: BLE001 - the one task root
                    await self._fail(fault, context, ended)

        return grpc.unary_unary_rpc_method_handler(unary, read, handler.response_serializer)

    @contextlib.contextmanager
    def _serving(self, rpc: str, context: Any) -> Iterator[_Ended]:
        """Count a call in and out, trace it and write its one line."""
        structlog.contextvars.clear_contextvars()
        ended = _Ended()
        started = self._clock.monotonic()
        self._in_flight += 1
        with _span(rpc, context) as span:
            try:
                yield ended
            finally:
                self._in_flight -= 1
                seconds = self._clock.monotonic() - started
                self._observe(CallRecord(rpc, ended.identity, ended.code, ended.reason, seconds))
                _tell(span, ended)
                log.info(
                    "rpc",
                    rpc=rpc,
                    identity=ended.identity,
                    code=ended.code,
                    reason=ended.reason,
                    duration_ms=round(seconds * 1000, 3),
                )

    def _enter(
        self, rpc: str, request: Any, context: Any, ended: _Ended, *, default_seconds: float
    ) -> float:
        """Check the call and return the seconds it may take."""
        ended.identity = identity = self._access.identify(grpc_caller(context), rpc)
        self._access.check(identity, rpc, self._access.accounts_in(rpc, request))
        asked: float | None = context.time_remaining()
        remaining = default_seconds if asked is None else asked
        remaining = min(remaining, STREAM_SECONDS_MAX)
        if remaining < DEADLINE_SECONDS_MIN:
            message = (
                f"the deadline left {max(0.0, remaining) * 1000:.0f} ms; nothing was tried. Allow "
                "at least a second"
            )
            raise DeadlineTooShortError(message)
        if self._in_flight > self._in_flight_max:
            message = f"{self._in_flight_max} calls are being served already; try again shortly"
            raise OverloadedError(message, retry_after_seconds=OVERLOAD_RETRY_SECONDS)
        deadline = self._clock.monotonic() + remaining
        _current.set(
            Call(
                rpc=rpc,
                identity=identity,
                deadline=deadline,
                clock=self._clock,
                trace=tracing.current(),
            )
        )
        structlog.contextvars.bind_contextvars(**_named(request))
        return remaining

    async def _fail(self, fault: BaseException, context: Any, ended: _Ended) -> None:
        """End the call with the status of a failure; never returns."""
        if isinstance(fault, (asyncio.CancelledError, GeneratorExit)):
            ended.code = grpc.StatusCode.CANCELLED.name
            raise fault
        if isinstance(fault, TimeoutError):
            failure: ServiceError = DeadlineTooShortError(
                "the call's deadline passed before it ended; read the outcome by its request id, "
                "or try again with the same one and more time"
            )
        elif isinstance(fault, ServiceError):
            failure = fault
        elif isinstance(fault, Exception):
            log.error("rpc_failed_unexpectedly", exc_info=fault)
            failure = InternalError(
                "something went wrong inside the service; it is logged under this request id"
            )
        else:
            raise fault
        code, reason = self._table.row(failure)
        ended.code, ended.reason = code.name, reason
        await context.abort_with_status(rpc_status.to_status(self._table.to_status(failure)))


def _span(rpc: str, context: Any) -> Span:
    """Begin the span of a call that is served; its trace is named in every line of the log."""
    if not tracing.active():
        return tracing.NO_SPAN
    header = tracing.header_in(context.invocation_metadata())
    span = tracing.serving(rpc.removeprefix("/"), header, **tracing.rpc_attributes(rpc))
    structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
    return span


def _tell(span: Span, ended: _Ended) -> None:
    """Tell a span how its call ended."""
    if span is tracing.NO_SPAN:
        return
    status: int = grpc.StatusCode[ended.code].value[0]
    span.set(rpc__grpc__status_code=status, identity=ended.identity, reason=ended.reason)
    if ended.code in _SERVER_FAULTS:
        span.fail(ended.reason or ended.code)


class _Unreadable:
    """
    Stands for a request that is no message, until the call may fail with its own status.

    What a deserializer raises would reach the caller as UNKNOWN, with the library's text.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice


def _reader(deserialize: Callable[[bytes], Any], *, bytes_max: int) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        if len(data) > bytes_max:
            return _Unreadable(
                f"the request is {len(data)} bytes, {bytes_max} is the most; send less at once"
            )
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable(
                "the request's bytes are no message of this RPC; send it with stubs made from the "
                "service's own protos"
            )

    return read


def _readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise InvalidArgumentError(request.advice)
    return request


async def _readable_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


_NAMING_FIELDS = ("request_id", "account", "parent", "name")


def _named(request: Any) -> dict[str, str]:
    """Return the identifiers in a request that its log line carries."""
    found = {}
    for name in _NAMING_FIELDS:
        value = getattr(request, name, "")
        if isinstance(value, str) and value:
            found[name] = value
    return found
