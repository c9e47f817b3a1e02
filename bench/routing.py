# SPDX-License-Identifier: Apache-2.0
"""
The suite as benchmarks measure it: real parts, customers' keys, credits, and a compiled upstream.

Nothing is switched off: own keys are resolved under their lease, every request is authorized and
captured durably, metrics are counted and every call writes its log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2, grant_pb2
from ownkey.router.v1 import attempt_pb2, text_pb2

from bench import processor
from bench.load import REQUEST_ID, Target, account
from deploy.local.clients import Clients
from deploy.local.suite import Ports, Suite
from services.shared.identity import OPERATOR
from services.shared.ids import new_id

MODEL = "openai/gpt-4o-mini"
PROMPT = "Explain in two sentences why spaced repetition works. {pace}"
OUTPUT_TOKENS_MAX = 200
GRANT_NANO_CREDITS = 10**15
CALLS_AT_ONCE = 16
CALL_SECONDS = 30.0
METHOD = "/ownkey.router.v1.RouterService/GenerateText"
STREAM_METHOD = "/ownkey.router.v1.RouterService/StreamText"
PARTS = ("keyvault", "ledger", "router")


@dataclass(frozen=True, slots=True)
class Pace:
    """
    How the upstream sends a stream.

    Args:
        chunks: How many.
        pause_millis: Between two of them.
    """

    chunks: int = 50
    pause_millis: int = 0

    def prompt(self) -> str:
        """Return the prompt that asks for it."""
        return PROMPT.format(pace=f"chunks={self.chunks} pause={self.pause_millis}ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """
    A suite with accounts.

    Args:
        suite: It.
        folder: Takes the request bodies.
        accounts: How many there are.
    """

    suite: Suite
    folder: Path
    accounts: int

    def target(self, *, on_credits: bool = False, pace: Pace = Pace()) -> Target:
        """Give the router as the load calls it: on own keys, or on credits."""
        source = attempt_pb2.SOURCE_CREDITS if on_credits else attempt_pb2.SOURCE_AUTO
        fields: dict[str, Any] = {
            "account": f"accounts/{account(0)}",
            "request_id": REQUEST_ID,
            "model": MODEL,
            "source": source,
            "input": text_pb2.TextInput(
                messages=[
                    text_pb2.Message(
                        role=text_pb2.ROLE_USER, parts=[text_pb2.Part(text=pace.prompt())]
                    )
                ],
                max_output_tokens=OUTPUT_TOKENS_MAX,
            ),
        }
        name = f"{'credits' if on_credits else 'own'}-{pace.chunks}-{pace.pause_millis}"
        body, stream_body = self.folder / f"{name}.pb", self.folder / f"{name}-stream.pb"
        body.write_bytes(text_pb2.GenerateTextRequest(**fields).SerializeToString())
        stream_body.write_bytes(text_pb2.StreamTextRequest(**fields).SerializeToString())
        return Target(
            protocol="grpc",
            address=self.suite.addresses.router,
            body=body,
            stream_body=stream_body,
            method=METHOD,
            stream_method=STREAM_METHOD,
            accounts=self.accounts,
            files=self.suite.tls_files(OPERATOR),
        )

    def process(self, part: str) -> int:
        """Give a part's process."""
        return self.suite.process(part).pid

    def database_process(self) -> int:
        """Give PostgreSQL's process."""
        # The first line of the file is the server's own process.
        return int((self.suite.state.postgres / "data/postmaster.pid").read_text().split()[0])

    def pin(self, *, router: int, rest: int) -> None:
        """Put the router on one core and all other parts on another, which may be the same."""
        processor.pin(self.process("router"), router)
        for part in ("keyvault", "ledger", "simulator"):
            processor.pin(self.process(part), rest)
        processor.pin(self.database_process(), rest)

    def processor_seconds(self) -> dict[str, float]:
        """Give the processor time of each part so far."""
        spent = {part: processor.seconds(self.process(part)) for part in PARTS}
        return {**spent, "postgresql": processor.seconds(self.database_process())}

    def memory_bytes(self) -> int:
        """Give what the router holds of the machine's memory (proc_pid_status(5))."""
        status = Path(f"/proc/{self.process('router')}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextlib.asynccontextmanager
async def routing(
    folder: Path,
    upstream: str,
    *,
    accounts: int = 100,
    tls: bool = False,
    scheme: str = "http",
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Routing]:
    """
    Yield a suite whose accounts have an own key and credits.

    Args:
        folder: Takes its state.
        upstream: `host:port` of the upstream, OpenAI's in its place.
        accounts: How many accounts.
        tls: Whether the parts speak mutual TLS.
        scheme: `https` where the upstream speaks TLS.
        environ: More settings of the router.
    """
    urls = {"openai": f"{scheme}://{upstream}/v1"}
    settings = {"router": {"PROVIDER_BASE_URLS": json.dumps(urls), **(environ or {})}}
    with Suite(folder / "suite", ports=Ports.any_free(), tls=tls, environ=settings) as suite:
        async with suite.clients() as clients:
            await _add_key(clients, "accounts/platform", "shared")
            limit = asyncio.Semaphore(CALLS_AT_ONCE)

            async def add(number: int) -> None:
                async with limit:
                    await add_account(clients, number)

            async with asyncio.TaskGroup() as group:
                for number in range(accounts):
                    group.create_task(add(number))
        yield Routing(suite=suite, folder=folder, accounts=accounts)


async def add_account(clients: Clients, number: int) -> None:
    """Make an account with credits and an own key, which comes first."""
    name = f"accounts/{account(number)}"
    await clients.ledger.CreateAccount(
        account_pb2.CreateAccountRequest(
            account_id=account(number),
            plan="plans/standard",
            billing_mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST,
            request_id=new_id(),
        ),
        timeout=CALL_SECONDS,
    )
    await clients.ledger.GrantCredits(
        grant_pb2.GrantCreditsRequest(
            request_id=new_id(),
            account=name,
            kind=grant_pb2.GRANT_KIND_PURCHASED,
            amount_nano_credits=GRANT_NANO_CREDITS,
        ),
        timeout=CALL_SECONDS,
    )
    await _add_key(clients, name, f"{number:040d}")


async def _add_key(clients: Clients, owner: str, suffix: str) -> None:
    await clients.keyvault.CreateKey(
        keyvault_service_pb2.CreateKeyRequest(
            parent=owner,
            key=key_pb2.Key(provider="openai", label="bench"),
            secret=f"sk-proj-bench-{suffix:->60}",
            request_id=new_id(),
            store_unverified=True,
        ),
        metadata=clients.operator,
        timeout=CALL_SECONDS,
    )


def direct(
    folder: Path, upstream: str, *, pace: Pace = Pace(), headers: Mapping[str, str]
) -> Target:
    """Give a server that speaks OpenAI's chat completions, at its `/v1/chat/completions`."""
    asked = {
        "model": MODEL.partition("/")[2],
        "messages": [{"role": "user", "content": pace.prompt()}],
        "max_tokens": OUTPUT_TOKENS_MAX,
    }
    body = folder / f"openai-{pace.chunks}-{pace.pause_millis}.json"
    stream_body = body.with_suffix(".stream.json")
    body.write_text(json.dumps(asked, separators=(",", ":")))
    streamed = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    stream_body.write_text(json.dumps(streamed, separators=(",", ":")))
    return Target(
        protocol="http",
        address=f"http://{upstream}/v1/chat/completions",
        body=body,
        stream_body=stream_body,
        headers=headers,
    )
