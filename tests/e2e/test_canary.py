# SPDX-License-Identifier: Apache-2.0
"""
Secrets, prompts and answers go through every path of a suite and are found nowhere afterwards.

Each canary holds a random middle. It is looked for as it is, in hexadecimal and in base64, in
every log, every error, every answer but those made to carry it, every table, every file of the
state folder but the keyring, every span, every metric, and the arguments and environment of every
process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2, probe_pb2, text_pb2

from deploy.local.clients import Clients
from deploy.local.postgres import PostgresServer
from deploy.local.suite import STORED_IN, Suite
from services.shared.identity import call_metadata
from services.shared.ids import new_id
from services.shared.secret import Secret
from tests.e2e.support import clients_of, eventually, fault, new_account, running_suite
from tests.support.collector import Collector, collecting

pytestmark = pytest.mark.timeout(240)

CALL_SECONDS_MAX = 20
MODEL = "openai/gpt-4o-mini"
SIMULATED_ANSWER = b"Simulated answer of"
"""How every plain answer of the simulator begins."""


@dataclass(slots=True)
class Canaries:
    """What was sent, and all that came back."""

    middles: dict[str, str] = field(default_factory=dict)
    """The random middle of each canary, by what it was used for."""
    told: list[tuple[str, str]] = field(default_factory=list)
    """What callers got to read: the step and the text."""

    def middle(self, use: str) -> str:
        """A new random middle."""
        self.middles[use] = f"canary{secrets.token_hex(16)}"
        return self.middles[use]

    def secret(self, use: str, *, fault: str = "", prefix: str = "sk-proj-") -> str:
        """A secret whose last four characters are its hint's, not the canary's."""
        words = f"-{fault}" if fault else ""
        return f"{prefix}{self.middle(use)}{words}-{secrets.token_hex(2)}"

    def text(self, use: str) -> str:
        """A text for a prompt or an answer."""
        return f"the {self.middle(use)} sings"

    async def step(self, name: str, call: Awaitable[Any]) -> Any:
        """Takes a step and keeps everything the caller gets to read; None where it is refused."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as failure:
            trailers = " ".join(f"{key}={value!r}" for key, value in failure.trailing_metadata())
            self.told.append((name, f"{failure!r} {failure.debug_error_string()} {trailers}"))
            return None
        self.told.append((name, repr(answer)))
        return answer


def shapes(middle: str) -> Iterator[bytes]:
    """A middle as it is, in hexadecimal, and in base64 wherever it may stand in a longer text."""
    raw = middle.encode()
    yield raw
    yield raw.hex().encode()
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + raw + bytes(3 - offset))
        # The characters at either end depend on the neighbours.
        yield whole[4:-8]


def found_in(content: bytes, canaries: Canaries) -> list[str]:
    """The uses of the canaries that stand in a content."""
    lowered = content.lower()
    return [
        use
        for use, middle in canaries.middles.items()
        if any(shape in content or shape.lower() in lowered for shape in shapes(middle))
    ]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Suite]:
    """A suite of its own, traced whole: the scenario breaks its databases for a while."""
    traced = {"OTLP_ENDPOINT": collector.endpoint, "TRACE_RATIO": "1"}
    folder = tmp_path_factory.mktemp("canary") / "state"
    environ = dict.fromkeys(STORED_IN, traced)
    with running_suite(folder, metrics=True, environ=environ) as running:
        yield running


def create(account: str, secret: str, **fields: Any) -> kv.CreateKeyRequest:
    known: dict[str, Any] = {"key": key_pb2.Key(provider="openai"), "request_id": new_id()}
    return kv.CreateKeyRequest(parent=account, secret=secret, **{**known, **fields})


def ask(account: str, text: str, **fields: Any) -> dict[str, Any]:
    part = text_pb2.Part(text=text)
    message = text_pb2.Message(role=text_pb2.ROLE_USER, parts=[part])
    text_input = text_pb2.TextInput(
        messages=[message], **{"max_output_tokens": 64, **fields.pop("settings", {})}
    )
    known = {"account": account, "request_id": new_id(), "model": MODEL, "input": text_input}
    return {**known, **fields}


async def drain(stream: Any) -> list[Any]:
    return [message async for message in stream]


class Scenario:
    """
    Every path that a secret, a prompt or an answer takes.

    Args:
        suite: The running suite.
        clients: Stubs to it.
        canaries: What is sent.
    """

    def __init__(self, suite: Suite, clients: Clients, canaries: Canaries) -> None:
        self._suite = suite
        self._clients = clients
        self._canaries = canaries
        self._router = call_metadata(Secret(suite.state.token("router")))
        self._keyvault = call_metadata(Secret(suite.state.token("keyvault")))
        self._account = ""
        self._key = ""

    async def take(self) -> None:
        """Takes all steps in order."""
        self._account = await new_account(
            self._clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST
        )
        await self._store()
        await self._refuse()
        await self._generate()
        await self._fail_at_the_provider()
        await self._probe_and_resolve()
        await self._send_garbage()
        await self._break_inside()
        await self._lose_peers()
        await self._replace_and_delete()

    async def _step(self, name: str, call: Awaitable[Any]) -> Any:
        return await self._canaries.step(name, call)

    async def _store(self) -> None:
        secret = self._canaries.secret("stored")
        pasted = f'  "Bearer {secret}"\n'
        stored = await self._step(
            "store", self._clients.keyvault.CreateKey(create(self._account, pasted))
        )
        assert stored is not None
        self._key = stored.key.name
        for call in (
            self._clients.keyvault.GetKey(kv.GetKeyRequest(name=self._key)),
            self._clients.keyvault.ListKeys(kv.ListKeysRequest(parent=self._account)),
            self._clients.keyvault.TestKey(kv.TestKeyRequest(name=self._key)),
            self._clients.keyvault.ListAuditEvents(kv.ListAuditEventsRequest(parent=self._account)),
        ):
            assert await self._step("read", call) is not None
        # A repeat under the same id, and another secret under it.
        request = create(self._account, self._canaries.secret("repeated"))
        for _ in range(2):
            await self._step("repeat", self._clients.keyvault.CreateKey(request))
        request.secret = self._canaries.secret("another body")
        assert await self._step("other", self._clients.keyvault.CreateKey(request)) is None

    async def _refuse(self) -> None:
        """Secrets that are refused by their look or by the provider."""
        secret = self._canaries.secret
        refused = {
            "revoked": secret("revoked", fault="revoked"),
            "forbidden": secret("forbidden", fault="forbidden"),
            "unreachable": secret("unreachable", fault="down"),
            "inner space": secret("inner space") + " and more",
            "other provider": secret("other provider", prefix="sk-or-v1-"),
            "admin": secret("admin", prefix="sk-admin-"),
            "masked": secret("masked") + "****",
            "cut": secret("cut", prefix="k-proj-"),
            "structured": f'{{"api_key": "{secret("structured")}"}}',
            "too long": secret("too long") * 400,
            "unknown shape": secret("unknown shape", prefix="zz-"),
        }
        for use, text in refused.items():
            answer = await self._step(
                use, self._clients.keyvault.CreateKey(create(self._account, text))
            )
            assert answer is None, f"{use} was stored"
        misplaced = create(self._account, "")
        misplaced.key.label = self._canaries.secret("pasted as a label") + "x" * 100
        await self._step("label", self._clients.keyvault.CreateKey(misplaced))
        for use in ("pasted as a name", "pasted as a provider"):
            text = self._canaries.secret(use)
            await self._step(use, self._clients.keyvault.GetKey(kv.GetKeyRequest(name=text)))
            request = create(self._account, "", key=key_pb2.Key(provider=text))
            await self._step(use, self._clients.keyvault.CreateKey(request))

    async def _generate(self) -> None:
        """Prompts of each kind, and answers in which a canary stands."""
        canaries, router = self._canaries, self._clients.router
        request = ask(self._account, canaries.text("prompt"))
        request["input"].system = canaries.text("system prompt")
        answer = await router.GenerateText(text_pb2.GenerateTextRequest(**request))
        assert answer.receipt.payer == attempt_pb2.FUNDING_OWN_KEY
        assert canaries.middles["stored"] not in repr(answer)
        await self._step("repeat", router.GenerateText(text_pb2.GenerateTextRequest(**request)))
        said = {"type": "object", "properties": {"said": {"enum": [canaries.text("answer")]}}}
        shape = text_pb2.ResponseSchema(name="said", schema_json=json.dumps(said))
        for source in (attempt_pb2.SOURCE_OWN_KEY, attempt_pb2.SOURCE_CREDITS):
            request = ask(
                self._account,
                canaries.text(f"prompt of source {source}"),
                settings={"response_schema": shape},
                source=source,
            )
            whole = await router.GenerateText(text_pb2.GenerateTextRequest(**request))
            assert canaries.middles["answer"] in whole.text
            request["request_id"] = new_id()
            events = await drain(router.StreamText(text_pb2.StreamTextRequest(**request)))
            streamed = "".join(event.text_delta for event in events)
            assert canaries.middles["answer"] in streamed
        call = router.StreamText(
            text_pb2.StreamTextRequest(**ask(self._account, canaries.text("left prompt")))
        )
        await call.read()
        call.cancel()

    async def _fail_at_the_provider(self) -> None:
        """Keys that are stored well and fail when they are used."""
        for words in ("revoked", "forbidden", "nocredit", "ratelimited", "error500", "down"):
            await self._fail_by(words)
        for words in ("cut", "midstream", "empty", "filtered"):
            await self._fail_by(words)

    async def _fail_by(self, words: str) -> None:
        account = await new_account(self._clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        secret = self._canaries.secret(f"fails by {words}")
        stored = await self._step(words, self._clients.keyvault.CreateKey(create(account, secret)))
        text = self._canaries.text(f"prompt that fails by {words}")
        router = self._clients.router
        async with fault(self._clients, secret, words):
            request = text_pb2.GenerateTextRequest(**ask(account, text))
            await self._step(words, router.GenerateText(request, timeout=CALL_SECONDS_MAX))
            streamed = text_pb2.StreamTextRequest(**ask(account, text))
            await self._step(words, drain(router.StreamText(streamed, timeout=CALL_SECONDS_MAX)))
            test = kv.TestKeyRequest(name=stored.key.name)
            await self._step(words, self._clients.keyvault.TestKey(test))

    async def _probe_and_resolve(self) -> None:
        probe = self._clients.router.ProbeKey
        for use, words in (("probed", ""), ("probed in vain", "revoked")):
            request = probe_pb2.ProbeKeyRequest(
                provider="openai", secret=self._canaries.secret(use, fault=words)
            )
            await self._step(use, probe(request, metadata=self._keyvault))
        request = probe_pb2.ProbeKeyRequest(
            provider="openai", secret=self._canaries.secret("denied probe")
        )
        assert await self._step("denied probe", probe(request)) is None
        request = probe_pb2.ProbeKeyRequest(
            provider="nobody", secret=self._canaries.secret("probed at nobody")
        )
        await self._step("probe at nobody", probe(request, metadata=self._keyvault))
        resolve = resolution_pb2.ResolveKeysRequest(accounts=[self._account])
        answer = await self._step("resolve", self._clients.keyvault.ResolveKeys(resolve))
        assert answer is None
        # The one answer that is made to carry secrets; it is not among what callers were told.
        resolved = await self._clients.keyvault.ResolveKeys(resolve, metadata=self._router)
        assert any(
            self._canaries.middles["stored"] in found.secret for found in resolved.accounts[0].keys
        )

    async def _send_garbage(self) -> None:
        """Bytes that are no message, and messages of another RPC, with secrets in them."""
        addresses = self._suite.addresses
        for name, method in (
            ("keyvault", "/ownkey.keyvault.v1.KeyvaultService/CreateKey"),
            ("router", "/ownkey.router.v1.RouterService/GenerateText"),
            ("ledger", "/ownkey.ledger.v1.LedgerService/GrantCredits"),
        ):
            text = self._canaries.secret(f"garbage for {name}").encode()
            async with grpc.aio.insecure_channel(getattr(addresses, name)) as channel:
                for body in (b"\xff\xff\xff" + text, b"\x0a" + bytes([len(text)]) + text):
                    await self._step(name, channel.unary_unary(method)(body, timeout=5))
                metadata = (("authorization", f"Bearer {self._canaries.secret(f'token {name}')}"),)
                await self._step(
                    name, channel.unary_unary(method)(b"", metadata=metadata, timeout=5)
                )

    async def _break_inside(self) -> None:
        """Faults of the services themselves: tables are away while secrets are under way."""
        for service, database in STORED_IN.items():
            tables = tables_of(self._suite.postgres.server, database)
            if not tables:
                continue
            rename(self._suite.postgres.server, database, tables, suffix="_away")
            try:
                secret = self._canaries.secret(f"{service} is broken")
                answer = await self._step(
                    f"broken {service}",
                    self._clients.keyvault.CreateKey(create(self._account, secret)),
                )
                assert service != "keyvault" or answer is None
                replaced = kv.ReplaceKeyRequest(
                    name=self._key,
                    secret=self._canaries.secret(f"replaces while {service} is broken"),
                    request_id=new_id(),
                )
                if service == "keyvault":
                    await self._step("broken", self._clients.keyvault.ReplaceKey(replaced))
                text = self._canaries.text(f"prompt while {service} is broken")
                await self._step(
                    f"broken {service}",
                    self._clients.router.GenerateText(
                        text_pb2.GenerateTextRequest(**ask(self._account, text)),
                        timeout=CALL_SECONDS_MAX,
                    ),
                )
            finally:
                rename(self._suite.postgres.server, database, tables, undo="_away")

    async def _lose_peers(self) -> None:
        """The router is away while a secret is to be tested, the simulator while one is used."""
        for part in ("router", "simulator"):
            self._suite.process(part).kill()
            try:
                secret = self._canaries.secret(f"{part} is away")
                request = create(self._account, secret)
                answer = await self._step(part, self._clients.keyvault.CreateKey(request))
                assert answer is None
                text = self._canaries.text(f"prompt while {part} is away")
                await self._step(
                    part,
                    self._clients.router.GenerateText(
                        text_pb2.GenerateTextRequest(**ask(self._account, text)), timeout=5
                    ),
                )
            finally:
                self._suite.start_part(part)

    async def _replace_and_delete(self) -> None:
        async def replaced() -> bool:
            request = kv.ReplaceKeyRequest(
                name=self._key, secret=self._canaries.secret("replacement"), request_id=new_id()
            )
            answer = self._clients.keyvault.ReplaceKey(request)
            return await self._step("replace", answer) is not None

        # Keyvault's connection to the router, which was away, comes back by itself.
        await eventually(replaced)
        refused = kv.ReplaceKeyRequest(
            name=self._key,
            secret=self._canaries.secret("refused replacement", fault="revoked"),
            request_id=new_id(),
        )
        assert await self._step("refuse", self._clients.keyvault.ReplaceKey(refused)) is None
        request = kv.DeleteKeyRequest(name=self._key, request_id=new_id())
        assert await self._step("delete", self._clients.keyvault.DeleteKey(request)) is not None


def tables_of(server: PostgresServer, database: str) -> list[str]:
    """Every table of a database's own, with its schema."""
    rows = server.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        database=database,
    )
    return rows.splitlines()


def rename(
    server: PostgresServer, database: str, tables: list[str], *, suffix: str = "", undo: str = ""
) -> None:
    """Takes tables away under another name, or back."""
    for table in tables:
        schema, _, name = table.partition(".")
        old, new = f"{name}{undo}", f"{name}{suffix}"
        server.execute(f"ALTER TABLE {schema}.{old} RENAME TO {new}", database=database)


def files_of(folder: Path, *, but: set[Path]) -> Iterator[Path]:
    """Every file below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in but:
            yield path


def processes() -> Iterator[tuple[str, bytes]]:
    """Arguments and environment of every process that may be read."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        for name in ("cmdline", "environ"):
            try:
                yield f"{process.name}/{name}", (process / name).read_bytes()
            except OSError:  # It ended meanwhile, or is nobody's to read.
                continue


@pytest.fixture(scope="module")
def canaries(suite: Suite) -> Canaries:
    """The canaries, once they have gone through everything."""
    sent = Canaries()

    async def take() -> None:
        async with clients_of(suite) as stubs:
            await Scenario(suite, stubs, sent).take()

    asyncio.run(take())
    return sent


@pytest.mark.requirement("K8", "R15")
class TestNowhere:
    def test_what_is_looked_for_would_be_found(self, canaries: Canaries) -> None:
        """The search itself: a canary in any of its shapes is seen."""
        use, middle = next(iter(canaries.middles.items()))
        for wrapped in (b"x" + middle.encode(), b"yz" + middle.encode() + b"q", middle.encode()):
            for content in (wrapped, wrapped.hex().encode(), base64.b64encode(wrapped)):
                assert found_in(b"before " + content + b" after", canaries) == [use]

    def test_in_nothing_a_caller_was_told(self, canaries: Canaries) -> None:
        assert len(canaries.told) > 40
        found = [
            (step, use, text)
            for step, text in canaries.told
            for use in found_in(text.encode(), canaries)
        ]
        assert found == []

    def test_in_no_log(self, suite: Suite, canaries: Canaries) -> None:
        logs = list(files_of(suite.state.logs, but=set()))
        assert {log.name for log in logs} >= {
            "keyvault.log",
            "ledger.log",
            "postgres.log",
            "router.log",
            "simulator.log",
        }
        # What was broken inside was logged, so there was something to leak into.
        assert b"rpc_failed_unexpectedly" in b"".join(log.read_bytes() for log in logs)
        found = {log.name: found_in(log.read_bytes(), canaries) for log in logs}
        assert {name: uses for name, uses in found.items() if uses} == {}
        assert [log.name for log in logs if SIMULATED_ANSWER in log.read_bytes()] == []

    def test_in_no_span(self, collector: Collector, canaries: Canaries) -> None:
        spans = collector.wait(lambda found: len(found) > 100)
        # Failures of every kind were traced, so there was something to leak into.
        assert len([one for one in spans if one.failed]) > 10
        sent = b"".join(collector.bodies)
        assert found_in(sent, canaries) == []
        assert SIMULATED_ANSWER not in sent

    async def test_in_no_metric(self, suite: Suite, canaries: Canaries) -> None:
        async with aiohttp.ClientSession() as session:
            for service in STORED_IN:
                address = f"http://{suite.metrics_address(service)}/metrics"
                async with session.get(address) as answer:
                    text = await answer.read()
                assert b"ownkey_rpc_calls_total" in text
                assert found_in(text, canaries) == [], service

    def test_in_no_table(self, suite: Suite, canaries: Canaries) -> None:
        """Rows are read as text: bytes stand there in hexadecimal."""
        server = suite.postgres.server
        searched = 0
        for database in STORED_IN.values():
            for table in tables_of(server, database):
                rows = server.execute(f"TABLE {table}", database=database)
                searched += len(rows.splitlines())
                assert found_in(rows.encode(), canaries) == [], table
                assert SIMULATED_ANSWER not in rows.encode(), table
                assert SIMULATED_ANSWER.hex() not in rows, table
        assert searched > 100

    def test_in_no_file_but_the_keyring(self, suite: Suite, canaries: Canaries) -> None:
        """PostgreSQL's own files too: pages, write-ahead log and all."""
        suite.postgres.server.execute("CHECKPOINT")
        searched = 0
        for path in files_of(suite.state.path, but={suite.state.keyring}):
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # PostgreSQL's, and gone meanwhile.
                continue
            searched += 1
            assert found_in(content, canaries) == [], path
            assert SIMULATED_ANSWER not in content, path
        assert searched > 100

    def test_in_no_process(self, suite: Suite, canaries: Canaries) -> None:
        suite.check()
        seen = dict(processes())
        assert f"{suite.process('keyvault').pid}/cmdline" in seen
        assert f"{suite.process('keyvault').pid}/environ" in seen
        assert [name for name, text in seen.items() if found_in(text, canaries)] == []
