# SPDX-License-Identifier: Apache-2.0
"""
The upgrade drill, under load, by the steps of docs/operate/upgrade.md: the version before this one
serves on its own schema; this version's migrations are run; then each service is replaced by this
version's and drained. At the end the databases go one migration further, as the next one's will.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import router_service_pb2_grpc

from deploy.local.processes import Command, Process, free_port, grpc_serving
from deploy.local.suite import STORED_IN, Ports, Suite
from services.shared.channel import RECONNECT_MILLIS_MAX, open_channel
from services.shared.migrate import migrate
from tests.e2e import support
from tests.support.doc_commands import Runner, lines_for
from tests.support.previous_version import PreviousVersion, unpack

ROOT = Path(__file__).parents[2]
CALLERS = 4
CALLS_BETWEEN = 12
"""Calls that must have succeeded after each step, before the next."""
CONNECT_SECONDS = 1.5 * RECONNECT_MILLIS_MAX / 1000
"""What the page has an operator wait once a replica serves; Kubernetes waits ten seconds."""
FOUND_SECONDS_MAX = 60.0
MIGRATION_SECONDS_MAX = 60
NEXT_MIGRATION = '''"""What the next version adds."""

from alembic import op

from services.shared.migrate import record_version

revision = "{number:04}"
down_revision = "{before:04}"


def upgrade() -> None:
    op.execute("CREATE TABLE next_version (id bigint PRIMARY KEY)")
    record_version({number}, lowest_code={before})
'''


@dataclass
class Load:
    """
    Callers that never pause.

    Args:
        router: All replicas of the router, as one.
        clients: The suite's stubs.
        accounts: One paying with credits, one with an own key.
    """

    router: router_service_pb2_grpc.RouterServiceStub
    clients: support.Clients
    accounts: list[str]
    done: int = 0
    failures: list[str] = field(default_factory=list)

    async def call(self, number: int) -> None:
        """Generate again and again."""
        account = self.accounts[number % len(self.accounts)]
        while True:
            try:
                await support.generate(self.clients, account, router=self.router)
            except grpc.aio.AioRpcError as fault:
                self.failures.append(f"{fault.code().name}: {fault.details()}")
            self.done += 1

    async def await_calls(self) -> None:
        """Wait until the next calls have ended."""
        aim = self.done + CALLS_BETWEEN
        await support.eventually(lambda: self._has_done(aim))

    async def _has_done(self, aim: int) -> bool:
        return self.done >= aim


@asynccontextmanager
async def under_load(suite: Suite, target: str) -> AsyncIterator[Load]:
    """Callers on a suite, through a target that names all replicas of the router."""
    async with support.clients_of(suite) as clients, open_channel(target) as channel:
        own = await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        await support.add_key(clients, own)
        accounts = [await support.new_account(clients), own]
        load = Load(router_service_pb2_grpc.RouterServiceStub(channel), clients, accounts)
        callers = [asyncio.create_task(load.call(number)) for number in range(CALLERS)]
        try:
            yield load
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)


def assert_is_older(suite: PreviousSuite) -> None:
    """A Python that is started as the services were has the unpacked code."""
    command = suite.process("router").command
    found = subprocess.run(
        [*command.arguments[:2], "-c", "import services; print(services.__path__[0])"],
        env={**os.environ, **command.environ},
        capture_output=True,
        text=True,
        timeout=MIGRATION_SECONDS_MAX,
        check=True,
    ).stdout
    assert Path(found.strip()) == suite.previous.root / "services"


def next_version(service: str, folder: Path) -> Path:
    """The service's migrations and one more that adds a table."""
    copied = folder / service
    shutil.copytree(ROOT / "services" / service / "migrations", copied)
    before = max(int(path.name[:4]) for path in (copied / "versions").glob("0*.py"))
    text = NEXT_MIGRATION.format(number=before + 1, before=before)
    (copied / "versions" / f"{before + 1:04}_next.py").write_text(text)
    return copied


class PreviousSuite(Suite):
    """
    A suite whose services are the version before this one.

    Args:
        previous: That version.
        arguments: A suite's.
        settings: The same.
    """

    def __init__(self, previous: PreviousVersion, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.previous = previous

    def _service_command(self, service: str, verb: str) -> Command:
        command = super()._service_command(service, verb)
        python, *rest = command.arguments
        path = f"{self.previous.root}{os.pathsep}{self.previous.stubs}"
        return replace(
            command,
            # -P: the folder that this runs in holds the newer code.
            arguments=[python, "-P", *rest],
            environ={**command.environ, "PYTHONPATH": path},
        )

    def newer_command(self, service: str, verb: str) -> Command:
        """What runs a service of this version in the place of an older one."""
        return super()._service_command(service, verb)


def migrate_as_shown(suite: PreviousSuite) -> None:
    """Run the commands that the page shows, each with its service's settings."""
    shown = lines_for(Runner.UPGRADE)
    assert len(shown) == len(STORED_IN)
    for line in shown:
        python, *arguments = shlex.split(line)
        assert python == "python"
        (service,) = (one for one in STORED_IN if f"services.{one}" in arguments)
        command = suite.newer_command(service, "migrate")
        assert command.arguments[1:] == arguments
        subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **command.environ},
            timeout=MIGRATION_SECONDS_MAX,
            check=True,
        )


def another(suite: PreviousSuite, service: str, port: int) -> Process:
    """A replica of this version, started; from the test's own thread, whose end would end it."""
    command = suite.newer_command(service, "serve")
    prefix = f"OWNKEY_{service.upper()}_"
    environ = {**command.environ, f"{prefix}LISTEN": f"127.0.0.1:{port}"}
    if service == "router":
        environ[f"{prefix}HTTP_LISTEN"] = f"127.0.0.1:{free_port()}"
    process = Process(
        replace(command, name=f"{service}-next", environ=environ), log_folder=suite.state.logs
    )
    process.start()
    return process


def caller_of(suite: PreviousSuite, service: str) -> int:
    """The process that calls a service all the time: the router, and its own callers."""
    return os.getpid() if service == "router" else suite.process("router").pid


async def found(port: int, *, by: int) -> None:
    """Wait until a process is connected to a new replica; how soon is the machine's affair."""

    async def connected() -> bool:
        return any(
            one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
            for one in psutil.Process(by).net_connections("tcp")
        )

    await support.eventually(connected, seconds=FOUND_SECONDS_MAX)


async def upgrade(suite: PreviousSuite, beside: dict[str, int], folder: Path) -> None:
    """Take the suite's databases and then its services on, under load."""
    assert_is_older(suite)
    router = f"{suite.addresses.router},127.0.0.1:{beside['router']}"
    started: list[Process] = []
    try:
        async with under_load(suite, f"ipv4:{router}") as load:
            await load.await_calls()
            await asyncio.to_thread(migrate_as_shown, suite)
            await load.await_calls()
            for service in ("ledger", "keyvault", "router"):
                process = another(suite, service, beside[service])
                started.append(process)
                serving = grpc_serving(f"127.0.0.1:{beside[service]}")
                await asyncio.to_thread(process.wait_ready, serving)
                await found(beside[service], by=caller_of(suite, service))
                await asyncio.sleep(CONNECT_SECONDS)
                await load.await_calls()
                await asyncio.to_thread(suite.process(service).stop)
                await load.await_calls()
            for service in STORED_IN:
                dsn = suite.state.dsn_file(service).read_text().strip()
                await migrate(dsn, next_version(service, folder))
            await load.await_calls()
            assert load.failures == []
    finally:
        for process in reversed(started):
            await asyncio.to_thread(process.stop)


@pytest.mark.requirement("O7", "O8")
@pytest.mark.timeout(300)
def test_an_upgrade_under_load_fails_no_request(tmp_path: Path) -> None:
    beside = {service: free_port() for service in STORED_IN}
    ports = replace(Ports.any_free(), **{service: free_port() for service in STORED_IN})
    targets = {
        service: f"ipv4:127.0.0.1:{getattr(ports, service)},127.0.0.1:{beside[service]}"
        for service in STORED_IN
    }
    environ = {
        "router": {
            "KEYVAULT_ADDRESS": targets["keyvault"],
            "LEDGER_ADDRESS": targets["ledger"],
        },
        "keyvault": {"ROUTER_ADDRESS": targets["router"]},
    }
    kind = functools.partial(PreviousSuite, unpack(tmp_path))
    with support.running_suite(
        tmp_path / "state", kind=kind, ports=ports, environ=environ
    ) as suite:
        asyncio.run(upgrade(suite, beside, tmp_path))
