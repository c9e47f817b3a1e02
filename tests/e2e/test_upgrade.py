# SPDX-License-Identifier: Apache-2.0
"""
The upgrade drill, under load: the databases go one migration ahead, as the next version's expanding
migration takes them; the replicas of this version serve on; then each is replaced by another that
starts on the new schema, and drained. The steps are those of docs/operate/upgrade.md.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc.aio
import pytest
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import router_service_pb2_grpc

from deploy.local.processes import Process, free_port, grpc_serving
from deploy.local.suite import STORED_IN, Ports, Suite
from services.shared.channel import RECONNECT_MILLIS_MAX, open_channel
from services.shared.migrate import migrate
from tests.e2e import support

ROOT = Path(__file__).parents[2]
CALLERS = 4
CALLS_BETWEEN = 12
"""Calls that must have succeeded after each step, before the next."""
CONNECT_SECONDS = 1.5 * RECONNECT_MILLIS_MAX / 1000
"""Within which every caller has found a new replica; Kubernetes' preStop gives ten seconds."""
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


def next_version(service: str, folder: Path) -> Path:
    """The service's migrations and one more that adds a table."""
    copied = folder / service
    shutil.copytree(ROOT / "services" / service / "migrations", copied)
    before = max(int(path.name[:4]) for path in (copied / "versions").glob("0*.py"))
    text = NEXT_MIGRATION.format(number=before + 1, before=before)
    (copied / "versions" / f"{before + 1:04}_next.py").write_text(text)
    return copied


def another(suite: Suite, service: str, port: int) -> Process:
    """A further replica, started; from the test's own thread, whose end would end it."""
    command = suite.process(service).command
    prefix = f"OWNKEY_{service.upper()}_"
    environ = {**command.environ, f"{prefix}LISTEN": f"127.0.0.1:{port}"}
    if service == "router":
        environ[f"{prefix}HTTP_LISTEN"] = f"127.0.0.1:{free_port()}"
    process = Process(
        replace(command, name=f"{service}-next", environ=environ), log_folder=suite.state.logs
    )
    process.start()
    return process


async def upgrade(suite: Suite, beside: dict[str, int], folder: Path) -> None:
    """Take the suite's databases and then its services on, under load."""
    router = f"{suite.addresses.router},127.0.0.1:{beside['router']}"
    started: list[Process] = []
    try:
        async with under_load(suite, f"ipv4:{router}") as load:
            await load.await_calls()
            for service in STORED_IN:
                dsn = suite.state.dsn_file(service).read_text().strip()
                await migrate(dsn, next_version(service, folder))
            await load.await_calls()
            for service in ("ledger", "keyvault", "router"):
                process = another(suite, service, beside[service])
                started.append(process)
                serving = grpc_serving(f"127.0.0.1:{beside[service]}")
                await asyncio.to_thread(process.wait_ready, serving)
                await asyncio.sleep(CONNECT_SECONDS)
                await load.await_calls()
                await asyncio.to_thread(suite.process(service).stop)
                await load.await_calls()
            assert load.failures == []
    finally:
        for process in reversed(started):
            await asyncio.to_thread(process.stop)


@pytest.mark.requirement("O7")
@pytest.mark.timeout(150)
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
    with support.running_suite(tmp_path / "state", ports=ports, environ=environ) as suite:
        asyncio.run(upgrade(suite, beside, tmp_path))
