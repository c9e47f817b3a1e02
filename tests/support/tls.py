# SPDX-License-Identifier: Apache-2.0
"""Certificates as a test needs them, good and bad, and a small service that is reached by them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from google.protobuf.wrappers_pb2 import StringValue

from client.ownkey_client.authority import Authority, loopback_names
from deploy.local.certificates import files_in
from services.shared.access import Access
from services.shared.boundary import Boundary, current_call
from services.shared.certificates import Certificates, TlsFiles
from services.shared.clock import Clock, SystemClock
from services.shared.identity import ANONYMOUS, OPERATOR, ROUTER
from services.shared.policy import Policy
from services.shared.server import RunningServer, ServerSpec, start
from services.shared.status import StatusTable

SERVICE = "ownkey.sample.v1.SampleService"
ECHO, HIDDEN, WAIT = (f"/{SERVICE}/{name}" for name in ("Echo", "Hidden", "Wait"))
REPLICAS_NAME = "replicas.test"
DAY = timedelta(days=1)

POLICY = Policy(
    identity_of_name={
        "spiffe://ownkey.internal/router": ROUTER,
        "spiffe://ownkey.internal/operator": OPERATOR,
    },
    grants={
        **{(who, rpc): None for who in (ROUTER, OPERATOR, ANONYMOUS) for rpc in (ECHO, WAIT)},
        (ROUTER, HIDDEN): None,
    },
)


class Issuer:
    """
    An authority of a test.

    Args:
        name: Tells it from others.
    """

    def __init__(self, name: str = "one") -> None:
        self.now = datetime.now(UTC)
        self.authority = Authority.new(name, now=self.now - 30 * DAY, lifetime=60 * DAY)

    def issue(
        self,
        folder: Path,
        identity: str,
        *,
        begins: timedelta = timedelta(0),
        lifetime: timedelta = 10 * DAY,
        trusted: bytes = b"",
    ) -> TlsFiles:
        """
        Issue an identity's certificate into a folder, over what is there.

        Args:
            folder: Gets the three files.
            identity: Who it shows.
            begins: From now.
            lifetime: From then.
            trusted: Authorities that its owner trusts; this one if empty.
        """
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(f"spiffe://ownkey.internal/{identity}"),
            x509.DNSName(REPLICAS_NAME),
            *loopback_names(),
        ]
        self.authority.issue(
            folder, names, common_name=identity, now=self.now + begins, lifetime=lifetime
        )
        if trusted:
            (folder / "ca.crt").write_bytes(trusted)
        return files_in(folder)


def read(files: TlsFiles) -> Certificates:
    """Read files as a process does."""
    return Certificates(files, clock=SystemClock())


@asynccontextmanager
async def sample_service(
    certificates: Certificates | None,
    *,
    listen: str = "127.0.0.1:0",
    name: str = "",
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[RunningServer]:
    """
    Serve: Echo and Hidden say who called, or the replica's name; Wait waits as long as it is told.
    """

    async def echo(_request: StringValue, _context: Any) -> StringValue:
        call = current_call()
        assert call
        return StringValue(value=name or call.identity)

    async def wait(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value="begun")
        await SystemClock().sleep(float(request.value))
        yield StringValue(value="ended")

    def register(server: grpc.aio.Server) -> None:
        codec: dict[str, Any] = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": StringValue.SerializeToString,
        }
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(echo, **codec),
            "Hidden": grpc.unary_unary_rpc_method_handler(echo, **codec),
            "Wait": grpc.unary_stream_rpc_method_handler(wait, **codec),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])

    boundary = Boundary(
        table=StatusTable("sample.ownkey", {}),
        access=Access(POLICY, tokens_dir=None, clock=clock or SystemClock()),
        clock=SystemClock(),
    )
    spec = ServerSpec(
        listen, [SERVICE], register, boundary, certificates, drain_seconds=5, **settings
    )
    running = await start(spec)
    try:
        yield running
    finally:
        await running.stop()


def method(channel: grpc.aio.Channel, rpc: str = ECHO) -> Any:
    """Give what calls a unary method of the service."""
    return channel.unary_unary(rpc, StringValue.SerializeToString, StringValue.FromString)
