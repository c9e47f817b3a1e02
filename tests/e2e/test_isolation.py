# SPDX-License-Identifier: Apache-2.0
"""
Two thousand accounts at once on a whole suite with two routers, through failovers, rotations and
deletions, with credentials of every kind.

No credential is ever seen for another account, or at a host that it is not bound to; and every
provider call that cost money is in exactly one account's statement, on the right funding. The
providers' own recording is joined with the statements, line by line.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2
from ownkey.ledger.v1 import authorization_pb2, entry_pb2
from ownkey.router.v1 import router_service_pb2_grpc

from bench import keyvault_seed, ledger_seed
from bench.ledger_load import account_name
from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.keyvault.adapters.local_keyring import LocalKeyring
from services.keyvault.domain.aead import NONCE_BYTES
from services.keyvault.domain.envelope import Binding, seal
from services.shared.ids import new_id
from services.shared.secret import Secret
from simulator.credentials import access_key, service_account
from tests.e2e import support
from tests.support.recorder import Call, Recorder, recording_simulator
from tests.support.simulated_providers import KEYS, PRIVATE_KEY, base_url

ACCOUNTS = 2_000
AT_ONCE = 48
CALL_SECONDS = 60.0
MARK = "canary"
"""Is in every secret, and so must be in no log."""
FAULTS = ("revoked", "ratelimited-ms40", "cut", "error500", "nocredit", "forbidden")
"""What some accounts' first keys do, in turn."""
FAULTY, BACKED_UP = 5, 3
"""One account in so many has a first key that fails; a second key."""
ROTATED, DELETED, REPEATED, ACTS = 7, 8, 9, 20
"""Which of so many accounts changes its key in the middle, deletes it, or asks the same again."""
REGIONS = ("us-east-1", "eu-central-1", "ap-northeast-1")

GPT, CLAUDE, FLASH = (
    "openai/gpt-4o-mini",
    "anthropic/claude-haiku-4-5",
    "google/gemini-2.5-flash-lite",
)


@dataclass(frozen=True, slots=True)
class Credential:
    """
    A credential that nobody else has.

    Args:
        provider: Whose.
        secret: What is stored.
        shown: What of it its provider sees.
        hosts: Where alone it may be seen.
    """

    provider: str
    secret: str = field(repr=False)
    shown: str = field(repr=False)
    hosts: frozenset[str] = frozenset({""})


def plain(provider: str, prefix: str) -> Callable[[str], Credential]:
    """Give keys that are one text."""

    def make(tag: str) -> Credential:
        secret = f"{prefix}{MARK}-{tag}-0123456789abcdef"
        return Credential(provider, secret, secret)

    return make


def azure(tag: str) -> Credential:
    """Give a deployment on a resource of its own."""
    host, key = f"{tag}.openai.azure.com", f"azure-{tag}-{MARK}-0123456789abcdef"
    path = "openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21"
    deployment = {
        "model_slug": GPT,
        "endpoint_url": f"https://{host}/{path}",
        "api_key": key,
        "model_id": "gpt-4o-mini",
    }
    return Credential("azure", json.dumps(deployment), key, frozenset({host}))


def bedrock(tag: str) -> Credential:
    """Give an access key of one of a few Regions."""
    region = REGIONS[len(tag) % len(REGIONS)]
    key_id = f"AKIA_{MARK}_{tag.replace('-', '_')}_01234567"
    return Credential(
        "amazon-bedrock",
        access_key(key_id, region=region),
        key_id,
        frozenset(f"{part}.{region}.amazonaws.com" for part in ("bedrock", "bedrock-runtime")),
    )


def vertex(tag: str) -> Credential:
    """Give a service account of a project of its own."""
    account = service_account(project=f"p-{tag}", region="us-east5", private_key=PRIVATE_KEY)
    hosts = {"us-east5-aiplatform.googleapis.com", "oauth2.googleapis.com"}
    shown = json.loads(account)["client_email"]
    return Credential("google-vertex", account, shown, frozenset(hosts))


OPENAI, OPENROUTER = plain("openai", "sk-proj-"), plain("openrouter", "sk-or-v1-")
KINDS: tuple[tuple[Callable[[str], Credential], str], ...] = (
    (OPENAI, GPT),
    (OPENROUTER, GPT),
    (plain("anthropic", "sk-ant-api03-"), CLAUDE),
    (plain("gemini", "AIza"), FLASH),
    (azure, GPT),
    (bedrock, CLAUDE),
    (vertex, CLAUDE),
)
"""What an account's first key is, by the account's number, and the model it asks for."""


def first_keys(number: int) -> list[Credential]:
    """Give the credentials that an account begins with."""
    make, _ = KINDS[number % len(KINDS)]
    keys = [make(f"a{number}-1")]
    if number % BACKED_UP == 0:
        keys.append((OPENAI if make is OPENROUTER else OPENROUTER)(f"a{number}-2"))
    return keys


@dataclass(frozen=True, slots=True)
class Owned:
    """
    Whose a credential is.

    Args:
        account: The account's id.
        key: `accounts/{account}/keys/{key}`.
        credential: It.
    """

    account: str
    key: str
    credential: Credential


@dataclass
class World:
    """
    All accounts, and what is known of them.

    Args:
        suite: The suite.
        clients: Stubs to it.
        routers: Both routers.
        recorder: What the providers saw.
        owners: Every own credential there ever was, by what its provider sees.
        failures: How often a request failed in which way.
    """

    suite: Suite
    clients: Clients
    routers: tuple[router_service_pb2_grpc.RouterServiceStub, ...]
    recorder: Recorder
    owners: dict[str, Owned] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    async def store(self) -> None:
        """Store all accounts' keys, sealed as keyvault seals them."""
        keyring = LocalKeyring(self.suite.state.keyring)
        bindings, records = [], []
        for number in range(ACCOUNTS):
            for place, credential in enumerate(first_keys(number)):
                account, key_id = account_name(number), f"key-{place}"
                name = f"accounts/{account}/keys/{key_id}"
                self.owners[credential.shown] = Owned(account, name, credential)
                binding = Binding(account, key_id, 1, 1, credential.provider)
                data_key = await keyring.generate_data_key(binding.context())
                nonce = os.urandom(NONCE_BYTES)
                secret = Secret(credential.secret)
                bindings.append(binding)
                records.append(seal(secret, binding, data_key=data_key, nonce=nonce))
        async with database_of(self.suite, "keyvault") as connection:
            await keyvault_seed.copy(connection, bindings, records)

    async def fail(self) -> None:
        """Have accounts' first keys fail as their numbers say."""
        async with aiohttp.ClientSession() as session:
            for number in range(ACCOUNTS):
                if number % FAULTY == 0:
                    fault = FAULTS[number // FAULTY % len(FAULTS)]
                    await self._fail(session, first_keys(number)[0], fault)

    async def _fail(
        self, session: aiohttp.ClientSession, credential: Credential, fault: str
    ) -> None:
        # The simulator reads an access key id with dashes for underscores, as it does in its text.
        shown = credential.shown
        seen = shown.replace("_", "-") if credential.provider == "amazon-bedrock" else shown
        digest = hashlib.sha256(seen.encode()).hexdigest()
        address = f"{self.recorder.address}/control/keys/{digest}"
        async with session.post(address, json={"fault": fault}) as answer:
            answer.raise_for_status()

    async def visit(self, number: int) -> None:
        """Ask; some then change their key and ask again, while others' requests run."""
        request_id = await self._ask(number)
        match number % ACTS:
            case rotated if rotated == ROTATED:
                await self._rotate(number)
                await self._ask(number)
            case deleted if deleted == DELETED:
                await self._delete(number)
                await self._ask(number)
            case repeated if repeated == REPEATED:
                await self._ask(number, request_id, other=True)

    async def _ask(self, number: int, request_id: str = "", *, other: bool = False) -> str:
        """Ask for a text that names its account; a failure is as good as an answer."""
        account, request_id = account_name(number), request_id or new_id()
        _, model = KINDS[number % len(KINDS)]
        settings: dict[str, Any] = {
            "model": model,
            "request_id": request_id,
            "text_input": support.question(
                f"request {request_id} of {account}", max_output_tokens=16
            ),
            "router": self.routers[(number // 2 + other) % len(self.routers)],
            "timeout_seconds": CALL_SECONDS,
        }
        if number // (FAULTY * len(FAULTS)) % 2:
            got = await support.stream(self.clients, f"accounts/{account}", **settings)
            if got.error is not None:
                self.failures[got.error.reason or got.error.code.name] += 1
            return request_id
        try:
            await support.generate(self.clients, f"accounts/{account}", **settings)
        except grpc.aio.AioRpcError as fault:
            self.failures[support.from_rpc_error(fault).reason or fault.code().name] += 1
        return request_id

    async def _rotate(self, number: int) -> None:
        make, _ = KINDS[number % len(KINDS)]
        account, fresh = account_name(number), make(f"a{number}-3")
        name = f"accounts/{account}/keys/key-0"
        self.owners[fresh.shown] = Owned(account, name, fresh)
        request = keyvault_service_pb2.ReplaceKeyRequest(
            name=name, secret=fresh.secret, request_id=new_id()
        )
        await self.clients.keyvault.ReplaceKey(request, timeout=CALL_SECONDS)

    async def _delete(self, number: int) -> None:
        request = keyvault_service_pb2.DeleteKeyRequest(
            name=f"accounts/{account_name(number)}/keys/key-0", request_id=new_id()
        )
        await self.clients.keyvault.DeleteKey(request, timeout=CALL_SECONDS)


async def all_of(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """Work through all accounts, many at once."""
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


@dataclass
class Books:
    """
    What the ledger has of one account.

    Args:
        attempts: Every attempt.
        entries: The statement's lines between opening and closing balance.
    """

    attempts: list[authorization_pb2.Authorization]
    entries: list[dict[str, Any]]


async def books_of(clients: Clients, account: str) -> Books:
    """Read an account's attempts and its exported statement, which must add up."""
    written = bytearray()
    async for answer in clients.ledger.ExportStatement(
        entry_pb2.ExportStatementRequest(
            account=f"accounts/{account}", format=entry_pb2.STATEMENT_FORMAT_JSON_LINES
        ),
        timeout=CALL_SECONDS,
    ):
        written += answer.chunk
    opening, *entries, closing = [json.loads(line) for line in written.splitlines()]
    changes = sum(entry["change_nano_credits"] for entry in entries)
    assert opening["posted_nano_credits"] + changes == closing["posted_nano_credits"]
    return Books(await support.authorizations(clients, f"accounts/{account}"), entries)


CAPTURED = authorization_pb2.AUTHORIZATION_STATE_CAPTURED


def hold_keys_apart(world: World, shared: set[str]) -> None:
    """No credential for another account, none at a host it is not bound to."""
    for call in world.recorder.calls:
        owned = world.owners.get(call.credential)
        if owned is None:
            assert call.credential in shared, f"a credential of nobody at {call.provider}"
            continue
        assert call.provider == owned.credential.provider
        assert call.host in owned.credential.hosts
        assert call.account in {owned.account, ""}


def payer_of(world: World, call: Call) -> str:
    """Who pays for a call, by its credential: an own key, or credits."""
    owned = world.owners.get(call.credential)
    return "credits" if owned is None else owned.key


def hold_books_to_the_calls(account: str, books: Books, paid: dict[str, Counter[str]]) -> None:
    """What may have cost money is captured once, by its payer; what was charged is stated once."""
    captured: dict[str, Counter[str]] = defaultdict(Counter)
    charged: dict[str, tuple[str, int]] = {}
    for attempt in books.attempts:
        assert attempt.state != authorization_pb2.AUTHORIZATION_STATE_OPEN
        if attempt.state != CAPTURED:
            assert attempt.charged_nano_credits == 0
            continue
        own = attempt.funding == authorization_pb2.FUNDING_OWN_KEY
        captured[attempt.request_id][attempt.key if own else "credits"] += 1
        assert attempt.fee_nano_credits == (attempt.charged_nano_credits if own else 0)
        if attempt.charged_nano_credits:
            name = attempt.name.rpartition("/")[2]
            charged[name] = ("FEE" if own else "CHARGE", attempt.charged_nano_credits)
    assert captured == paid, account
    stated: dict[str, tuple[str, int]] = {}
    for entry in books.entries:
        if not entry["authorization"]:
            continue
        kind, amount = stated.get(entry["authorization"], (entry["kind"], 0))
        assert kind == entry["kind"]
        stated[entry["authorization"]] = (kind, amount - entry["change_nano_credits"])
    assert stated == charged, account


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """The providers, recording."""
    with recording_simulator() as recording:
        yield recording


@pytest.fixture
def isolated(tmp_path: Path, recorder: Recorder) -> Iterator[Suite]:
    """A suite whose providers record; its plan has a fee on own keys, so that all is stated."""
    plans = tmp_path / "plans.yaml"
    plans.write_text(ledger_seed.PLANS)
    urls = {name: base_url(recorder.address, name) for name in KEYS}
    environ = {
        "ledger": {"PLANS_FILE": str(plans)},
        "router": {"PROVIDER_BASE_URLS": json.dumps(urls)},
    }
    with support.running_suite(tmp_path / "state", environ=environ) as suite:
        yield suite


@asynccontextmanager
async def database_of(suite: Suite, service: str) -> AsyncIterator[Any]:
    """A connection to a service's database."""
    connection = await asyncpg.connect(suite.state.dsn_file(service).read_text().strip())
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.requirement("R4", "R9", "R12", "R14", "R16", "K7", "L10", "L13")
@pytest.mark.timeout(600)
async def test_no_key_serves_another_account_and_every_cost_is_in_one_statement(
    isolated: Suite, recorder: Recorder
) -> None:
    async with database_of(isolated, "ledger") as connection:
        await ledger_seed.fill(connection, accounts=ACCOUNTS, entries=ACCOUNTS)
    async with (
        support.clients_of(isolated) as clients,
        support.second_router(isolated) as second,
    ):
        world = World(isolated, clients, (clients.router, second), recorder)
        await world.store()
        await world.fail()
        await all_of(world.visit, range(ACCOUNTS))
        await support.eventually(recorder.idle)
        assert not world.failures.keys() & {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"}

        paid: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for call in recorder.calls:
            # What a provider refuses, it does not bill.
            if call.request_id and not 400 <= call.status < 500:
                paid[call.account][call.request_id][payer_of(world, call)] += 1

        async def check(number: int) -> None:
            account = account_name(number)
            books = await books_of(clients, account)
            hold_books_to_the_calls(account, books, paid[account])

        await all_of(check, range(ACCOUNTS))
    shared = {
        support.shared_secret(isolated.addresses.simulator, provider)
        for provider in (*support.MODELS, "stability")
    }
    hold_keys_apart(world, shared)
    await support.assert_books_hold(isolated)
    for log in isolated.state.logs.iterdir():
        assert MARK not in log.read_text(errors="replace"), log.name
    hold_scene(world, paid)


def hold_scene(world: World, paid: dict[str, dict[str, Counter[str]]]) -> None:
    """The scene held what it should: both sides paid, keys failed and were replaced."""
    generations = [call for call in world.recorder.calls if call.request_id]
    # On a machine that cannot keep up, a request may be told to come back: it is not sent again.
    assert len({call.account for call in generations}) > 0.9 * ACCOUNTS
    assert {call.provider for call in generations} >= {
        "openai",
        "openrouter",
        "anthropic",
        "gemini",
        "azure",
        "amazon-bedrock",
        "google-vertex",
    }
    payers = Counter(
        "credits" if payer == "credits" else "own key"
        for requests in paid.values()
        for counts in requests.values()
        for payer in counts.elements()
    )
    assert min(payers["credits"], payers["own key"]) > ACCOUNTS // 10
    assert {401, 403, 429, 500} <= {call.status for call in generations}
    replaced = {shown for shown, owned in world.owners.items() if "-3" in shown}
    assert replaced & {call.credential for call in generations}
