# SPDX-License-Identifier: Apache-2.0
"""
A channel whose calls go on in the caller's trace: a span for each, its `traceparent` sent along.

It stands around the calls, not in gRPC's interceptors: those make a task for every call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import grpc.aio

from services.shared import tracing

if TYPE_CHECKING:
    from services.shared.tracing import Span

_ending: set[asyncio.Task[None]] = set()
"""Spans of calls under way."""


class TracedChannel(grpc.aio.Channel):
    """
    A channel in the trace of whoever calls.

    Args:
        channel: Makes the calls.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def close(self, grace: float | None = None) -> None:
        """Close the channel."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """Return the channel's state."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the channel's state is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the channel is connected."""
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(method, self._channel.unary_unary(method, *args, **options))

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(method, self._channel.unary_stream(method, *args, **options))

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(method, self._channel.stream_unary(method, *args, **options))

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(method, self._channel.stream_stream(method, *args, **options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Method:
    """Makes the calls of one method."""

    __slots__ = ("_call", "_name", "_rpc")

    def __init__(self, method: str, call: Any) -> None:
        self._call = call
        self._name = method.removeprefix("/")
        self._rpc = tracing.rpc_attributes(method)

    def __call__(self, *args: Any, metadata: Any = None, **options: Any) -> Any:
        span = tracing.calling(self._name, **self._rpc)
        if header := span.header or tracing.header():
            metadata = (*(metadata or ()), (tracing.HEADER, header))
        call = self._call(*args, metadata=metadata, **options)
        if span.header:
            task = asyncio.create_task(_end(call, span))
            _ending.add(task)
            task.add_done_callback(_ending.discard)
        return call


async def _end(call: Any, span: Span) -> None:
    """End a call's span when it has its status."""
    with span:
        code: grpc.StatusCode = await call.code()
        span.set(rpc__grpc__status_code=code.value[0])
        if code is not grpc.StatusCode.OK:
            span.fail(code.name)
