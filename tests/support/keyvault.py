# SPDX-License-Identifier: Apache-2.0
"""A whole keyvault for tests: real gRPC, real PostgreSQL, and a router that only tests keys."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from ownkey.keyvault.v1 import (
    key_pb2,
    keyvault_service_pb2,
    keyvault_service_pb2_grpc,
    resolution_pb2,
)
from ownkey.router.v1 import probe_pb2, router_service_pb2_grpc

from services.keyvault.bootstrap import MIGRATIONS, keyvault
from services.keyvault.config import read_config
from services.shared.channel import open_channel
from services.shared.clock import Clock
from services.shared.identity import IDENTITIES, KEYVAULT, OPERATOR, ROUTER, call_metadata
from services.shared.migrate import migrate
from services.shared.secret import Secret
from services.shared.server import start
from services.shared.status import RichStatus, from_rpc_error

TOKENS = {identity: f"token-of-{identity}-0123456789" for identity in IDENTITIES}
CURATED = ("openai/gpt-4o-mini", "anthropic/claude-sonnet-4-6")
OPENAI_KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789WXYZ"
OPENROUTER_KEY = "sk-or-v1-" + "0123456789abcdef" * 4


class FakeRouter(router_service_pb2_grpc.RouterServiceServicer):
    """
    Speaks ProbeKey: answers what it was told to, VALID by default, and remembers what it was asked.
    """

    def __init__(self) -> None:
        self.asked: list[probe_pb2.ProbeKeyRequest] = []
        self.tokens: list[str] = []
        self.answer = probe_pb2.ProbeKeyResponse(
            result=probe_pb2.PROBE_RESULT_VALID, credit_checked=True
        )

    def finds(self, result: str, **fields: Any) -> None:
        """Answer from now on what a live test is to find."""
        value = probe_pb2.ProbeResult.Value(f"PROBE_RESULT_{result}")
        self.answer = probe_pb2.ProbeKeyResponse(result=value, **fields)

    async def ProbeKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Test a key."""
        self.asked.append(request)
        self.tokens.append(dict(context.invocation_metadata())["authorization"])
        if request.provider == "nowhere":
            await _refuse(context, "INVALID_ARGUMENT", field="provider")
        if request.default_model and request.default_model not in CURATED:
            await _refuse(context, "MODEL_NOT_CURATED", field="default_model")
        return self.answer


class SlowRouter(FakeRouter):
    """Answers when it is told to; `reached` is set when it is first asked."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def ProbeKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Test a key, later."""
        self.reached.set()
        await self.go.wait()
        return await super().ProbeKey(request, context)


async def _refuse(context: Any, reason: str, **metadata: str) -> None:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="router.ownkey", metadata=metadata))
    status = status_pb2.Status(
        code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="not known", details=[info]
    )
    await context.abort_with_status(rpc_status.to_status(status))


@dataclass
class RunningKeyvault:
    """
    A keyvault that serves.

    Args:
        stub: To call it, anonymously unless metadata says otherwise.
        router: Its router.
        dsn: Its database.
        environ: Its configuration.
        address: Where it is served; "" where it is called without a server.
    """

    stub: Any
    router: FakeRouter
    dsn: str
    environ: Mapping[str, str]
    address: str = ""
    as_router: Any = field(default_factory=lambda: call_metadata(Secret(TOKENS[ROUTER])))
    as_operator: Any = field(default_factory=lambda: call_metadata(Secret(TOKENS[OPERATOR])))
    as_keyvault: Any = field(default_factory=lambda: call_metadata(Secret(TOKENS[KEYVAULT])))

    async def create(
        self,
        secret: str = OPENAI_KEY,
        *,
        account: str = "demo",
        provider: str = "openai",
        metadata: Any = None,
        request_id: str = "",
        **fields: Any,
    ) -> keyvault_service_pb2.CreateKeyResponse:
        """Store a key."""
        key_fields = {
            name: fields.pop(name)
            for name in tuple(fields)
            if name in key_pb2.Key.DESCRIPTOR.fields_by_name
        }
        request = keyvault_service_pb2.CreateKeyRequest(
            parent=f"accounts/{account}",
            key=key_pb2.Key(provider=provider, **key_fields),
            secret=secret,
            request_id=request_id or new_request_id(),
            **fields,
        )
        return await self.stub.CreateKey(request, metadata=metadata)

    async def resolve(self, *accounts: str) -> Any:
        """Resolve accounts as the router."""
        request = resolution_pb2.ResolveKeysRequest(
            accounts=[f"accounts/{account}" for account in accounts or ("demo",)]
        )
        return await self.stub.ResolveKeys(request, metadata=self.as_router)


def new_request_id() -> str:
    """Make a request id."""
    return str(uuid.uuid4())


async def refusal(call: Any) -> RichStatus:
    """Await a call that must fail and return its status."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as fault:
        return from_rpc_error(fault)
    message = f"the call succeeded: {type(answer).__name__}"
    raise AssertionError(message)


def write_environ(folder: Path, dsn: str, *, router_port: int, **settings: str) -> dict[str, str]:
    """Write a keyvault's secret files to a folder and return its configuration."""
    tokens = folder / "tokens"
    tokens.mkdir(exist_ok=True)
    for identity, token in TOKENS.items():
        _write_private(tokens / identity, token)
    _write_private(folder / "dsn", dsn)
    _write_private(folder / "fingerprint-key", "f" * 64)
    environ = {
        "LISTEN": "127.0.0.1:0",
        "DATABASE_DSN_FILE": str(folder / "dsn"),
        "TOKENS_DIR": str(tokens),
        "FINGERPRINT_KEY_FILE": str(folder / "fingerprint-key"),
        "ROUTER_ADDRESS": f"127.0.0.1:{router_port}",
        "KEYRING_FILE": str(folder / "keyring"),
        "DRAIN_SECONDS": "0",
        **settings,
    }
    return {f"OWNKEY_KEYVAULT_{name}": value for name, value in environ.items()}


@asynccontextmanager
async def running_keyvault(
    folder: Path,
    dsn: str,
    *,
    router: FakeRouter | None = None,
    clock: Clock | None = None,
    **settings: str,
) -> AsyncIterator[RunningKeyvault]:
    """
    A keyvault with its router.

    Args:
        folder: Gets its secret files.
        dsn: Its database, migrated.
        router: Another router's double than a new one.
        clock: Another clock than the machine's.
        settings: Further configuration, without the prefix.
    """
    router = router or FakeRouter()
    peer = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    router_service_pb2_grpc.add_RouterServiceServicer_to_server(router, peer)
    router_port = peer.add_insecure_port("127.0.0.1:0")
    await peer.start()
    environ = write_environ(folder, dsn, router_port=router_port, **settings)
    try:
        async with keyvault(read_config(environ), clock=clock) as spec:
            server = await start(spec)
            try:
                address = f"127.0.0.1:{server.port}"
                async with open_channel(address) as channel:
                    stub = keyvault_service_pb2_grpc.KeyvaultServiceStub(channel)
                    yield RunningKeyvault(stub, router, dsn, environ, address)
            finally:
                await server.stop()
    finally:
        await peer.stop(None)


async def migrated(dsn: str) -> str:
    """Bring a database up to date."""
    await migrate(dsn, MIGRATIONS)
    return dsn


@asynccontextmanager
async def database(dsn: str) -> AsyncIterator[Any]:
    """A connection of one's own to a database."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
