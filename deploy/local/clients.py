# SPDX-License-Identifier: Apache-2.0
"""Channels and stubs to a running local suite, as a backend would hold them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

import grpc.aio
from ownkey.keyvault.v1 import keyvault_service_pb2_grpc
from ownkey.ledger.v1 import ledger_service_pb2_grpc
from ownkey.router.v1 import router_service_pb2_grpc

from services.shared.certificates import Certificates, TlsFiles
from services.shared.channel import open_channel
from services.shared.clock import SystemClock
from services.shared.identity import call_metadata
from services.shared.secret import Secret

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """
    Where a suite listens, each `host:port`.

    Args:
        keyvault: Keyvault's gRPC.
        router: Router's gRPC.
        ledger: Ledger's gRPC.
        http: Router's HTTP door.
        simulator: Simulator's HTTP.
        web: The settings page, where it was started.
    """

    keyvault: str
    router: str
    ledger: str
    http: str
    simulator: str
    web: str


class Clients:
    """
    Stubs for the three services; an asynchronous context manager.

    Args:
        addresses: Where the suite listens.
        operator_token: Lets `operator` metadata be sent along, for what only operators may do.
        files: The certificate that shows who calls, where the suite speaks TLS; it decides, not the
            token.
    """

    def __init__(
        self, addresses: Addresses, *, operator_token: str, files: TlsFiles | None = None
    ) -> None:
        self.addresses = addresses
        self._certificates = None if files is None else Certificates(files, clock=SystemClock())
        self.operator: Metadata = call_metadata(Secret(operator_token))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.keyvault = keyvault_service_pb2_grpc.KeyvaultServiceStub(
            await self._channel(self.addresses.keyvault)
        )
        self.router = router_service_pb2_grpc.RouterServiceStub(
            await self._channel(self.addresses.router)
        )
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(
            await self._channel(self.addresses.ledger)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _channel(self, address: str) -> grpc.aio.Channel:
        return await self._stack.enter_async_context(open_channel(address, self._certificates))
