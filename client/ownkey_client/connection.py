# SPDX-License-Identifier: Apache-2.0
"""Channels and stubs to the three services, for one caller that waits for each answer."""

from __future__ import annotations

import ipaddress
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import grpc
from ownkey.keyvault.v1 import keyvault_service_pb2_grpc
from ownkey.ledger.v1 import ledger_service_pb2_grpc
from ownkey.router.v1 import router_service_pb2_grpc

from services.shared.certificates import Material
from services.shared.tls import channel_credentials

MESSAGE_BYTES_MAX = 32 * 1024 * 1024
CONNECT_MILLIS_MAX = 5_000
RECONNECT_MILLIS_MIN = 100
RECONNECT_MILLIS_MAX = 2_000
KEEPALIVE_MILLIS = 20_000
KEEPALIVE_TIMEOUT_MILLIS = 5_000

# https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MILLIS_MIN),
    # Bounds an attempt, whatever its name says: how soon the next one follows, the others do.
    ("grpc.min_reconnect_backoff_ms", CONNECT_MILLIS_MAX),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLIS_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.lb_policy_name", "round_robin"),
    # With no policy named, this repeats only what a connection that was closing did not take; all
    # other calls are repeated by `calls`, which keeps their request ids.
    ("grpc.enable_retries", 1),
    # A proxy named in the environment must not see what is meant for this machine.
    ("grpc.enable_http_proxy", 0),
    # A run over everything that is stored may be silent for long on its way.
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLIS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLIS),
)


class AddressError(ValueError):
    """
    An address that cannot be used.

    Args:
        service: Whose address.
        address: As it was given.
        fault: What is wrong with it and what to do.
    """

    def __init__(self, service: str, address: str, fault: str) -> None:
        super().__init__(f"The address of {service}, '{address}', {fault}.")
        self.service = service


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """
    Where the services listen, each `host:port`.

    Args:
        keyvault: Keyvault's gRPC.
        router: Router's gRPC.
        ledger: Ledger's gRPC.
        encrypted: Whether they are reached over TLS.

    Raises:
        AddressError: One is malformed, or not on loopback and reached in plain text.
    """

    keyvault: str
    router: str
    ledger: str
    encrypted: bool = False

    def __post_init__(self) -> None:
        for service in ("keyvault", "router", "ledger"):
            _check(service, getattr(self, service), encrypted=self.encrypted)


class Connection:
    """
    Stubs for the three services; a context manager. Nothing is sent before the first call.

    Args:
        addresses: Where the services listen.
        material: Certificate, key and trusted authorities; plain text without them.
    """

    def __init__(self, addresses: Addresses, material: Material | None = None) -> None:
        self._stack = ExitStack()
        self._credentials = None if material is None else channel_credentials(material)
        self.keyvault = keyvault_service_pb2_grpc.KeyvaultServiceStub(
            self._channel(addresses.keyvault)
        )
        self.router = router_service_pb2_grpc.RouterServiceStub(self._channel(addresses.router))
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(self._channel(addresses.ledger))

    def _channel(self, address: str) -> grpc.Channel:
        if self._credentials is None:
            channel = grpc.insecure_channel(address, options=OPTIONS)
        else:
            channel = grpc.secure_channel(address, self._credentials, options=OPTIONS)
        return self._stack.enter_context(channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _check(service: str, address: str, *, encrypted: bool) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:  # noqa: PLR2004 - a port
        raise AddressError(service, address, "must be host:port, for example 127.0.0.1:7101")
    if not encrypted and not _is_loopback(host):
        fault = (
            "is not on this machine: keys and prompts would travel in plain text, which is allowed "
            "on loopback only; connect by TLS (--tls-certificate, --tls-key, --tls-ca), or forward "
            "a port (ssh -L, kubectl port-forward) and name that"
        )
        raise AddressError(service, address, fault)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
