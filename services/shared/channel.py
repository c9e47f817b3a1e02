# SPDX-License-Identifier: Apache-2.0
"""
Channels to other services: own identity, keepalive, quick reconnects, derived deadlines.

gRPC for Python takes a channel's certificate once. Where a certificate is shown, a channel of ours
therefore stands for one of gRPC's at a time: when the files change, the next call begins on a new
one, and the calls under way end on the old.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

import grpc.aio

from services.shared import tracing
from services.shared.boundary import STREAM_SECONDS_MAX, current_call
from services.shared.errors import DeadlineTooShortError
from services.shared.tls import channel_credentials
from services.shared.traced_channel import TracedChannel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.shared.certificates import Certificates, Material

KEEPALIVE_MILLIS = 20_000
KEEPALIVE_TIMEOUT_MILLIS = 5_000
CONNECT_MILLIS_MAX = 5_000
"""How long a connection may take to stand, TLS included: on a busy machine more than a moment."""
RECONNECT_MILLIS_MIN = 100
RECONNECT_MILLIS_MAX = 2_000
RESOLVE_MILLIS_MIN = 1_000
"""A name is looked up no more often than this; gRPC's own thirty seconds hide new replicas."""
MESSAGE_BYTES_MAX = 32 * 1024 * 1024

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A replica that says it is leaving gets no further calls, before it stops taking them:
    # https://github.com/grpc/proposal/blob/master/A17-client-side-health-checking.md
    "healthCheckConfig": {"serviceName": ""},
}

# https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLIS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLIS),
    # A replica that vanished is noticed before a call is given to it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MILLIS_MIN),
    # Bounds an attempt, whatever its name says; how soon the next one follows, the others do:
    # https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md (MIN_CONNECT_TIMEOUT)
    ("grpc.min_reconnect_backoff_ms", CONNECT_MILLIS_MAX),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLIS_MAX),
    ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_MILLIS_MIN),
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A channel of its own connections: what another channel to the same address met, a refused
    # connection and its backoff included, is not this one's.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy named in the environment must not see what passes between our services.
    ("grpc.enable_http_proxy", 0),
    # With no policy named, this repeats only what a connection that was closing did not take, which
    # no service has seen: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
    # All other retries are decided by our own use cases, with their own budgets.
    ("grpc.enable_retries", 1),
)


def open_channel(address: str, certificates: Certificates | None = None) -> grpc.aio.Channel:
    """
    Open a channel.

    Args:
        address: gRPC target, for example `127.0.0.1:7103` or `dns:///ledger:7103`.
        certificates: Show who calls, and whom to trust; plain text without, for loopback only.
    """
    channel: grpc.aio.Channel = (
        grpc.aio.insecure_channel(address, options=OPTIONS)
        if certificates is None
        else _RenewedChannel(address, certificates)
    )
    return TracedChannel(channel) if tracing.active() else channel


class _RenewedChannel(grpc.aio.Channel):
    """
    A channel that shows the newest certificate.

    Args:
        address: gRPC target.
        certificates: As the files have them.
    """

    def __init__(self, address: str, certificates: Certificates) -> None:
        self._address = address
        self._certificates = certificates
        self._material = certificates.current()
        self._channel = self._connect(self._material)
        self._ending: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    def newest(self) -> grpc.aio.Channel:
        """Return gRPC's channel of the newest certificate; an older one ends with its calls."""
        material = self._certificates.current()
        if material is not self._material:
            old, self._channel = self._channel, self._connect(material)
            self._material = material
            ending = asyncio.create_task(old.close(STREAM_SECONDS_MAX))
            self._ending[old] = ending
            ending.add_done_callback(lambda _: self._ending.pop(old, None))
        return self._channel

    def _connect(self, material: Material) -> grpc.aio.Channel:
        credentials = channel_credentials(material)
        return grpc.aio.secure_channel(self._address, credentials, options=OPTIONS)

    async def close(self, grace: float | None = None) -> None:
        """Close it, and what is left of older ones."""
        older = dict(self._ending)
        for ending in older.values():
            ending.cancel()
        await asyncio.gather(*older.values(), return_exceptions=True)
        await asyncio.gather(*(one.close(grace) for one in (*older, self._channel)))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """Return the newest channel's state."""
        return self.newest().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the channel's state is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the newest channel is connected."""
        await self.newest().channel_ready()

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(self, "unary_unary", args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(self, "unary_stream", args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(self, "stream_unary", args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """Return what makes calls of a method."""
        return _Method(self, "stream_stream", args, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Method:
    """Makes each call of a method on the newest channel."""

    __slots__ = ("_args", "_channel", "_kind", "_made", "_made_on", "_options")

    def __init__(
        self, channel: _RenewedChannel, kind: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._kind, self._args, self._options = kind, args, options
        self._made_on: grpc.aio.Channel | None = None
        self._made: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        newest = self._channel.newest()
        if newest is not self._made_on:
            self._made = getattr(newest, self._kind)(*self._args, **self._options)
            self._made_on = newest
        return self._made(*args, **options)


def outbound_seconds(limit: float, *, floor: float = 0.01) -> float:
    """
    Derive the deadline of an outbound call from the inbound one.

    Args:
        limit: Seconds the outbound call may take at most.
        floor: With less than this left, nothing is tried.

    Raises:
        DeadlineTooShortError: If the inbound call has no time left.
    """
    call = current_call()
    if call is None:
        return limit
    remaining = call.time_remaining()
    if remaining < floor:
        message = "no time is left of the call's deadline; nothing more was tried"
        raise DeadlineTooShortError(message)
    return min(limit, remaining)
