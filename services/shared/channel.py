# SPDX-License-Identifier: Apache-2.0
"""Channels to other services: keepalive, quick reconnects, own identity, derived deadlines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from services.shared.boundary import current_call
from services.shared.errors import DeadlineTooShortError

if TYPE_CHECKING:
    from collections.abc import Sequence

KEEPALIVE_MILLIS = 20_000
KEEPALIVE_TIMEOUT_MILLIS = 5_000
RECONNECT_MILLIS_MIN = 100
RECONNECT_MILLIS_MAX = 2_000
MESSAGE_BYTES_MAX = 32 * 1024 * 1024

# https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLIS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLIS),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MILLIS_MIN),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MILLIS_MIN),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLIS_MAX),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A channel of its own connections: what another channel to the same address met, a refused
    # connection and its backoff included, is not this one's.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy named in the environment must not see what passes between our services.
    ("grpc.enable_http_proxy", 0),
    # Retries are decided by our own use cases, with their own budgets.
    ("grpc.enable_retries", 0),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """
    Open a channel.

    Args:
        address: gRPC target, for example `127.0.0.1:7103` or `dns:///ledger:7103`.
    """
    return grpc.aio.insecure_channel(address, options=OPTIONS)


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
