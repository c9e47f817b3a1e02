# SPDX-License-Identifier: Apache-2.0
"""A real router on loopback, with the provider simulator behind it and its peers beside it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
from ownkey.router.v1 import attempt_pb2, router_service_pb2_grpc, text_pb2

from deploy.local.processes import free_port
from services.router.bootstrap import router
from services.router.config import read_config
from services.shared.channel import open_channel
from services.shared.server import Stop, start
from services.shared.status import RichStatus, from_rpc_error
from simulator.control import key_digest
from tests.support.router_peers import FakeKeyvault, FakeLedger, peers, write_tokens
from tests.support.simulated_providers import KEYS, base_url, serve_simulator

PROVIDERS = tuple(KEYS)
CALL_SECONDS = 20.0
TOLD_TRIES_MAX = 10
SLOW_SECONDS = 30.0
"""How long a slow key keeps one waiting, unless `release` lets it go on."""


@dataclass(frozen=True)
class RouterUnderTest:
    """The router, and everything around it that a test looks at or changes."""

    stub: Any
    keyvault: FakeKeyvault
    ledger: FakeLedger
    simulator: str
    tokens: Path
    http: str
    """Base address of the HTTP door."""
    stop: Stop
    """Drains it, as at a SIGTERM."""

    def request(self, **fields: Any) -> text_pb2.GenerateTextRequest:
        """Give a request of the account `demo`."""
        return text_pb2.GenerateTextRequest(**_fields(fields))

    async def generate(
        self, *, timeout: float = CALL_SECONDS, **fields: Any
    ) -> text_pb2.GenerateTextResponse:
        """Generate, and check that the answer says who pays."""
        response: text_pb2.GenerateTextResponse = await self.stub.GenerateText(
            self.request(**fields), timeout=timeout
        )
        return response

    async def refused(self, *, timeout: float = CALL_SECONDS, **fields: Any) -> RichStatus:
        """
        Generate, expecting a failure, and give its status.

        A client may notice its own deadline before the router's word of it arrives.
        """
        for _ in range(TOLD_TRIES_MAX):
            try:
                await self.stub.GenerateText(self.request(**fields), timeout=timeout)
            except grpc.aio.AioRpcError as fault:
                status = from_rpc_error(fault)
                if status.reason or status.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    break
            else:
                raise AssertionError("the request was served")
        return status

    async def stream(
        self, *, timeout: float = CALL_SECONDS, **fields: Any
    ) -> tuple[list[text_pb2.StreamTextResponse], RichStatus | None]:
        """Stream; give the messages and how it failed, None for not."""
        messages: list[text_pb2.StreamTextResponse] = []
        call = self.stub.StreamText(text_pb2.StreamTextRequest(**_fields(fields)), timeout=timeout)
        try:
            async for message in call:
                messages.append(message)  # noqa: PERF401 - kept also when it breaks off
        except grpc.aio.AioRpcError as fault:
            return messages, from_rpc_error(fault)
        return messages, None

    async def release(self, key: str) -> None:
        """Let what waits for a key's slow answer go on."""
        async with (
            aiohttp.ClientSession() as session,
            session.delete(f"{self.simulator}/control/keys/{key_digest(key)}") as answer,
        ):
            answer.raise_for_status()

    async def calls(self) -> list[dict[str, Any]]:
        """Give the generations that reached the simulator."""
        return await self.requests("POST")

    async def requests(self, method: str) -> list[dict[str, Any]]:
        """Give the requests of a method that reached the simulator."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.simulator}/control/requests") as answer,
        ):
            body = await answer.json()
        requests = body["requests"] if isinstance(body, dict) else body
        return [item for item in requests if item["method"] == method]


def attempts_of(status: RichStatus) -> list[attempt_pb2.Attempt]:
    """Give the attempts in a failure's details."""
    found = attempt_pb2.AttemptList()
    for detail in status.status.details:
        if detail.Is(found.DESCRIPTOR):
            detail.Unpack(found)
    return list(found.attempts)


def text_input(text: str = "Say hello", **fields: Any) -> text_pb2.TextInput:
    """Give an input of one user message."""
    message = text_pb2.Message(role=text_pb2.ROLE_USER, parts=[text_pb2.Part(text=text)])
    return text_pb2.TextInput(messages=[message], **fields)


@asynccontextmanager
async def serve_router(tmp_path: Path, **environ: str) -> AsyncIterator[RouterUnderTest]:
    """Serve a router; its peers and providers are ready."""
    write_tokens(tmp_path)
    fingerprint_key = tmp_path / "fingerprint-key"
    fingerprint_key.write_text("a key of keyed hashes for tests")
    fingerprint_key.chmod(0o600)
    http = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(serve_simulator(slow_seconds=SLOW_SECONDS))
        beside = await stack.enter_async_context(peers())
        urls = json.dumps({name: base_url(simulator, name) for name in PROVIDERS})
        config = read_config(
            {
                "OWNKEY_ROUTER_LISTEN": "127.0.0.1:0",
                "OWNKEY_ROUTER_HTTP_LISTEN": http,
                "OWNKEY_ROUTER_KEYVAULT_ADDRESS": beside.keyvault_address,
                "OWNKEY_ROUTER_LEDGER_ADDRESS": beside.ledger_address,
                "OWNKEY_ROUTER_TOKENS_DIR": str(tmp_path),
                "OWNKEY_ROUTER_FINGERPRINT_KEY_FILE": str(fingerprint_key),
                "OWNKEY_ROUTER_PROVIDER_BASE_URLS": urls,
                "OWNKEY_ROUTER_DRAIN_SECONDS": "1",
                **environ,
            }
        )
        spec = await stack.enter_async_context(router(config))
        running = await start(spec)
        stack.push_async_callback(running.stop)
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{running.port}"))
        yield RouterUnderTest(
            stub=router_service_pb2_grpc.RouterServiceStub(channel),
            keyvault=beside.keyvault,
            ledger=beside.ledger,
            simulator=simulator,
            tokens=tmp_path,
            http=f"http://{http}",
            stop=running.stop,
        )


def _fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "account": "accounts/demo",
        "request_id": str(uuid.uuid4()),
        "model": "openai/gpt-4o-mini",
        "input": text_input(),
        **fields,
    }
