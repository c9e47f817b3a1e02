# SPDX-License-Identifier: Apache-2.0
"""The whole suite under mutual TLS: everything works, nobody gets in who should not."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.keyvault.v1 import resolution_pb2
from ownkey.ledger.v1 import grant_pb2, ledger_service_pb2_grpc, plan_pb2
from rich.console import Console

from client.ownkey_client.authority import make_trial, renew_trial
from deploy.local.certificates import files_in
from deploy.local.clients import Clients
from deploy.local.processes import Process, free_port, grpc_serving
from deploy.local.suite import Suite
from deploy.local.walk import walk
from services.shared.certificates import Certificates, TlsFiles
from services.shared.channel import open_channel
from services.shared.clock import SystemClock
from services.shared.status import from_rpc_error
from tests.e2e import support
from tests.e2e.support import EVENTUALLY_SECONDS, clients_of, generate, new_account, stream
from tests.e2e.terminal import Person

SERVICES = ("keyvault", "ledger", "router")
LOADERS = 4
ROTATIONS = 2
CHAT = {
    "model": "gpt-4o-mini",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "Hello"}],
}

pytestmark = [pytest.mark.requirement("O5"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose parts speak mutual TLS; no log has a private key or a token in it."""
    environ = {service: {"CONNECTION_SECONDS": "1"} for service in SERVICES}
    folder = tmp_path_factory.mktemp("secured") / "state"
    with support.running_suite(folder, tls=True, environ=environ) as running:
        yield running
        support.assert_logs_hold_no_secret(running)
        written = "".join(log.read_text() for log in running.state.logs.iterdir())
        for path in (*running.state.tls.rglob("*.key"), *running.state.tokens.iterdir()):
            lines = [line for line in path.read_text().splitlines() if "-----" not in line]
            assert not any(line in written for line in lines), f"{path.name} stands in a log"


def as_identity(suite: Suite, identity: str) -> Clients:
    """Stubs that show an identity's certificate."""
    token = suite.operator_token
    return Clients(suite.addresses, operator_token=token, files=suite.tls_files(identity))


async def refused(call: Any) -> tuple[str, str]:
    """How a call that must fail did: code and reason."""
    with pytest.raises(grpc.aio.AioRpcError) as fault:
        await call
    status = from_rpc_error(fault.value)
    return status.code.name, status.reason


async def test_the_walk_is_taken(secured: Suite) -> None:
    assert await walk(secured, Console(file=io.StringIO()))


class TestIdentities:
    async def test_a_backend_generates_and_no_more(self, secured: Suite) -> None:
        async with as_identity(secured, "backend") as backend:
            account = await new_account(backend)
            assert (await generate(backend, account)).receipt.attempts
            # An operator's token beside a backend's certificate changes nothing.
            for metadata in (None, backend.operator):
                status = backend.keyvault.GetKekStatus(kv.GetKekStatusRequest(), metadata=metadata)
                assert await refused(status) == ("PERMISSION_DENIED", "ACCESS_DENIED")

    @pytest.mark.parametrize("identity", ["backend", "operator", "keyvault", "ledger"])
    async def test_secrets_are_resolved_for_the_router_alone(
        self, secured: Suite, identity: str
    ) -> None:
        request = resolution_pb2.ResolveKeysRequest(accounts=["accounts/demo"])
        async with as_identity(secured, identity) as clients:
            found = await refused(clients.keyvault.ResolveKeys(request))
        # The packaged policies know no caller named ledger: it calls nobody.
        unknown = ("UNAUTHENTICATED", "UNAUTHENTICATED")
        denied = ("PERMISSION_DENIED", "ACCESS_DENIED")
        assert found == (unknown if identity == "ledger" else denied)


async def test_an_identity_reaches_only_the_accounts_of_its_rule(
    secured: Suite, tmp_path: Path
) -> None:
    """Checked before anybody looks whether the account exists."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "identities:\n"
        "  acme: {certificates: [spiffe://ownkey.internal/backend]}\n"
        "rules:\n"
        "  - identities: [acme]\n"
        "    rpcs: [ownkey.ledger.v1.LedgerService/GetBalance]\n"
        "    accounts: [accounts/acme-*]\n"
    )
    async with clients_of(secured) as clients:
        others = await new_account(clients)
    address = f"127.0.0.1:{free_port()}"
    settings = {"POLICY_FILE": str(policy), "LISTEN": address}
    process = ledger_beside(secured, tmp_path, settings)
    files = secured.tls_files("backend")
    assert files
    try:
        process.start()
        process.wait_ready(grpc_serving(address, files))
        async with open_channel(address, Certificates(files, clock=SystemClock())) as channel:
            stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
            denied = ("PERMISSION_DENIED", "ACCESS_DENIED")
            for account, expected in {
                others: denied,
                "accounts/never-made": denied,
                "": denied,
                "accounts/acme-1": ("NOT_FOUND", "ACCOUNT_NOT_FOUND"),
            }.items():
                request = grant_pb2.GetBalanceRequest(account=account)
                assert await refused(stub.GetBalance(request)) == expected
            assert await refused(stub.ListPlans(plan_pb2.ListPlansRequest())) == denied
        reasons = [
            line["reason"]
            for line in map(json.loads, json_lines(process))
            if line["event"] == "access_denied"
        ]
        assert reasons == 3 * ["account_not_allowed"] + ["rpc_not_allowed"]
    finally:
        process.stop()


async def test_certificates_change_under_load_without_a_failed_request(secured: Suite) -> None:
    async with clients_of(secured) as clients:
        account = await new_account(clients)
        stopped = asyncio.Event()
        failed: list[str] = []
        served = 0

        async def load() -> None:
            nonlocal served
            while not stopped.is_set():
                try:
                    await generate(clients, account)
                    assert (await stream(clients, account)).receipt
                except grpc.aio.AioRpcError as fault:
                    failed.append(f"{fault.code().name}: {fault.details()}")
                served += 1

        loaders = [asyncio.create_task(load()) for _ in range(LOADERS)]
        for rotation in range(1, ROTATIONS + 1):
            renew_trial(secured.state.tls, now=datetime.now(UTC), lifetime=timedelta(days=1))
            before = served
            async with asyncio.timeout(2 * EVENTUALLY_SECONDS):
                while served < before + LOADERS or not taken_by_all(secured, rotation):
                    await asyncio.sleep(0.1)
        stopped.set()
        await asyncio.gather(*loaders)
    assert failed == []
    assert served


def taken_by_all(suite: Suite, count: int) -> bool:
    """Whether every service says that it has taken so many new certificates."""
    logs = [suite.process(service).log.read_text() for service in SERVICES]
    return all(log.count("certificate_taken") >= count for log in logs)


class TestDoor:
    @staticmethod
    def context(files: TlsFiles, *, certificate: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=files.ca)
        if certificate:
            context.load_cert_chain(files.certificate, files.key)
        return context

    @pytest.mark.parametrize(
        ("identity", "token", "status"),
        [
            ("backend", "", 200),
            ("", "operator", 200),
            ("", "", 401),
            ("keyvault", "operator", 403),
        ],
    )
    async def test_a_certificate_or_a_token_is_needed(
        self, secured: Suite, identity: str, token: str, status: int
    ) -> None:
        async with clients_of(secured) as clients:
            account = await new_account(clients)
        files = secured.tls_files(identity or "backend")
        assert files
        context = self.context(files, certificate=bool(identity))
        headers = {"X-Ownkey-Account": account}
        if token:
            headers["Authorization"] = f"Bearer {secured.state.token(token)}"
        url = f"https://{secured.addresses.http}/v1/chat/completions"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=CHAT, headers=headers, ssl=context) as answer,
        ):
            assert answer.status == status, await answer.text()

    async def test_plain_text_gets_nowhere(self, secured: Suite) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{secured.addresses.http}/v1/models")


class TestSettingsPage:
    @pytest.mark.requirement("O10")
    async def test_it_calls_by_its_own_certificate(self, secured: Suite) -> None:
        async with clients_of(secured) as clients:
            account = await new_account(clients)
        secured.start_settings_page(account)
        origin = f"http://{secured.addresses.web}"
        token = secured.settings_link.partition("#token=")[2]
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(headers={"Origin": origin}, cookie_jar=jar) as browser:
            async with browser.post(f"{origin}/session", json={"token": token}) as entered:
                assert entered.status == 200
            body = {"account": account}
            async with browser.post(f"{origin}/api/ledger/GetBalance", json=body) as answer:
                assert (await answer.json())["balance"]["account"] == account


class TestCommand:
    @pytest.fixture
    def person(self, secured: Suite, tmp_path: Path) -> Person:
        return Person(secured, "accounts/nobody", tmp_path)

    def test_it_connects_by_its_certificate(self, person: Person) -> None:
        assert person.run("kek", "status", "--json").document["status"]["available"]

    def test_it_names_what_is_wrong_with_a_certificate(self, person: Person) -> None:
        """In one sentence each, with what to do; what it can see itself, before it calls."""
        ended, other = person.folder / "ended", person.folder / "other"
        old = datetime.now(UTC) - timedelta(days=20)
        make_trial(ended, now=old, lifetime=timedelta(days=1))
        make_trial(other, now=datetime.now(UTC), lifetime=timedelta(days=1))
        cases = {
            (ended / "operator", 2): ("ended at", "issue a new one into the same file"),
            (other / "operator", 6): ("of no authority that --tls-ca names", "--tls-ca"),
            (person.suite.state.tls / "ledger", 5): (
                "no identity of the policy has a name",
                "a certificate that the policy names",
            ),
        }
        for (folder, code), told in cases.items():
            files = files_in(folder)
            found = person.run("kek", "status", *options(files), code=code).err
            for part in told:
                assert part in " ".join(found.split())

    def test_a_certificate_the_services_do_not_trust_is_told_as_far_as_tls_can(
        self, person: Person
    ) -> None:
        other = person.folder / "other"
        make_trial(other, now=datetime.now(UTC), lifetime=timedelta(days=1))
        files = files_in(other / "operator")
        # It trusts the services, they do not trust it.
        both = files.ca.read_bytes() + (person.suite.state.tls / "ca.crt").read_bytes()
        files.ca.write_bytes(both)
        found = person.run("kek", "status", *options(files), code=6).err
        assert "handshake" in found
        log = person.suite.process("keyvault").log
        assert "CERTIFICATE_VERIFY_FAILED" in log.read_text()


class TestStart:
    """A service that cannot serve as it was told ends at once, with a sentence each."""

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"TLS_KEY_FILE": ""}, "cannot be read"),
            ({"LISTEN": "0.0.0.0:0", "TLS_*": None}, "is not on loopback, and without TLS"),
            ({"TLS_CA_FILE": None}, "TLS_CA_FILE is required where the others of TLS are set"),
            ({"TLS_KEYFILE": "x"}, "the nearest one is OWNKEY_LEDGER_TLS_KEY_FILE"),
            ({"POLICY_FILE": "/none"}, "there is no file /none"),
        ],
    )
    def test_it_names_the_setting(
        self, secured: Suite, tmp_path: Path, settings: dict[str, str | None], told: str
    ) -> None:
        assert told in start_fails(secured, tmp_path, settings)

    def test_it_names_a_key_that_others_can_read(self, secured: Suite, tmp_path: Path) -> None:
        files = secured.tls_files("ledger")
        assert files
        key = tmp_path / "tls.key"
        key.write_bytes(files.key.read_bytes())
        key.chmod(0o644)
        found = start_fails(secured, tmp_path, {"TLS_KEY_FILE": str(key)})
        assert f"{key} can be read by others; run chmod 600 on it" in found

    def test_it_names_a_fault_of_the_policy(self, secured: Suite, tmp_path: Path) -> None:
        policy = tmp_path / "policy.yaml"
        policy.write_text(
            "identities: {}\n"
            "rules:\n"
            "  - identities: [anonymous]\n"
            "    rpcs: [ownkey.ledger.v1.LedgerService/GetBalanse]\n"
        )
        found = start_fails(secured, tmp_path, {"POLICY_FILE": str(policy)})
        assert "line 4" in found
        assert "the nearest one is 'ownkey.ledger.v1.LedgerService/GetBalance'" in found

    def test_it_names_a_port_in_use(self, secured: Suite, tmp_path: Path) -> None:
        found = start_fails(secured, tmp_path, {"LISTEN": secured.addresses.router})
        assert f"cannot listen on {secured.addresses.router}" in found


def options(files: TlsFiles) -> list[str]:
    """The command's options for a certificate."""
    named = {"certificate": files.certificate, "key": files.key, "ca": files.ca}
    return [text for name, path in named.items() for text in (f"--tls-{name}", str(path))]


def ledger_beside(suite: Suite, folder: Path, settings: dict[str, str | None]) -> Process:
    """A ledger beside the suite's with other settings; `X*` stands for all that begin so."""
    command = suite.process("ledger").command
    prefix = "OWNKEY_LEDGER_"
    environ = {**command.environ, f"{prefix}LISTEN": "127.0.0.1:0"}
    for name, value in settings.items():
        matching = [one for one in environ if one.startswith(prefix + name.removesuffix("*"))]
        for one in matching if name.endswith("*") else [prefix + name]:
            environ.pop(one, None)
            if value is not None:
                environ[one] = value
    return Process(replace(command, environ=environ), log_folder=folder)


def json_lines(process: Process) -> list[str]:
    """What a process itself logged; what gRPC wrote between is no JSON."""
    return [line for line in process.log.read_text().splitlines() if line.startswith("{")]


def start_fails(suite: Suite, folder: Path, settings: dict[str, str | None]) -> str:
    """Start such a ledger, which must fail; what it wrote."""
    process = ledger_beside(suite, folder, settings)
    process.start()
    process.wait_ready(lambda: not process.running)
    written = process.log.read_text()
    assert "Traceback" not in written
    assert any(line.startswith("error: ") for line in written.splitlines()), written
    process.stop()
    return written
