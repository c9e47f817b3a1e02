# SPDX-License-Identifier: Apache-2.0
"""
Long jobs over the whole suite: a replica that is stopped or killed under a job, who pays, a key
that is withdrawn, and the statement at the end.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2, live_test_pb2
from ownkey.ledger.v1 import account_pb2, authorization_pb2
from ownkey.router.v1 import job_pb2, router_service_pb2_grpc

from deploy.local.clients import Clients
from deploy.local.processes import Process, free_port, grpc_serving
from deploy.local.suite import Suite
from services.shared.channel import open_channel
from services.shared.ids import new_id
from tests.e2e.support import (
    CALL_SECONDS_MAX,
    CREDIT_VALUE_NANO_USD,
    MARKUP,
    NANO,
    PLATFORM,
    SECRETS,
    StoredKey,
    clients_of,
    create_key,
    disable_key,
    new_account,
    recorded_requests,
)
from tests.e2e.terminal import Person

FLUX = "black-forest-labs/flux-schnell"
FLUX_NANO_USD = 3_000_000
FLUX_NANO_CREDITS = int(FLUX_NANO_USD * MARKUP * NANO / CREDIT_VALUE_NANO_USD)
PROMPT = "a canary that sings in no log"


def replicate_secret(fault: str = "") -> str:
    """A made-up token, which fails as its text says."""
    middle = f"-{fault}" if fault else ""
    secret = f"r8_canary{middle}-{secrets.token_hex(16)}"
    SECRETS.append(secret)
    return secret


async def add_replicate_key(clients: Clients, account: str, *, fault: str = "") -> StoredKey:
    """Store a fresh key at Replicate, tested live."""
    secret = replicate_secret(fault)
    created = await create_key(clients, account, secret, provider="replicate")
    assert created.test.result == live_test_pb2.TEST_RESULT_VALID
    assert created.test.credit_checked
    return StoredKey(created.key.name, secret, created.key.hint)


async def add_shared_key(clients: Clients) -> None:
    """Have the product hold a key at Replicate."""
    request = keyvault_service_pb2.CreateKeyRequest(
        parent=PLATFORM,
        key=key_pb2.Key(provider="replicate", label="shared"),
        secret=replicate_secret(),
        request_id=new_id(),
    )
    await clients.keyvault.CreateKey(request, metadata=clients.operator, timeout=CALL_SECONDS_MAX)


@asynccontextmanager
async def another_router(suite: Suite) -> AsyncIterator[tuple[Process, Any]]:
    """One more router process beside the suite's own, to be stopped or killed."""
    address = f"127.0.0.1:{free_port()}"
    command = suite.process("router").command
    environ = {
        **command.environ,
        "OWNKEY_ROUTER_LISTEN": address,
        "OWNKEY_ROUTER_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
        "OWNKEY_ROUTER_INSTANCE": "router-3",
    }
    process = Process(
        replace(command, name="router-3", environ=environ), log_folder=suite.state.logs
    )
    process.start()
    try:
        process.wait_ready(grpc_serving(address))
        async with open_channel(address) as channel:
            yield process, router_service_pb2_grpc.RouterServiceStub(channel)
    finally:
        process.stop()


async def start(router: Any, account: str) -> job_pb2.Job:
    """Start a job for one image."""
    request = job_pb2.StartJobRequest(
        account=account,
        request_id=new_id(),
        model=FLUX,
        native=job_pb2.NativeInput(input_json=json.dumps({"prompt": PROMPT})),
    )
    return (await router.StartJob(request, timeout=CALL_SECONDS_MAX)).job


async def end_of(router: Any, job: job_pb2.Job) -> job_pb2.Job:
    """Wait for a job's end."""
    request = job_pb2.WaitJobRequest(name=job.name)
    changes = [answer.job async for answer in router.WaitJob(request, timeout=CALL_SECONDS_MAX)]
    return changes[-1]


async def authorizations(clients: Clients, account: str) -> list[Any]:
    """Everything the ledger authorized for an account."""
    request = authorization_pb2.ListAuthorizationsRequest(parent=account)
    answer = await clients.ledger.ListAuthorizations(request, timeout=CALL_SECONDS_MAX)
    return list(answer.authorizations)


@pytest.mark.requirement("R3", "L3", "L13", "R15")
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_job_outlives_the_router_that_started_it_and_is_charged_once(
    suite: Suite, clients: Clients, end: str
) -> None:
    """The other replica goes on with it: one start at the provider, one capture at the ledger."""
    await add_shared_key(clients)
    account = await new_account(clients)
    async with another_router(suite) as (process, router):
        job = await start(router, account)
        getattr(process, end)()
        ended = await end_of(clients.router, job)
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    assert ended.receipt.charged_nano_credits == FLUX_NANO_CREDITS
    (authorization,) = await authorizations(clients, account)
    assert authorization.state == authorization_pb2.AUTHORIZATION_STATE_CAPTURED
    assert authorization.charged_nano_credits == FLUX_NANO_CREDITS
    assert authorization.units.image_count == 1
    request = job_pb2.GetJobOutputRequest(name=job.name)
    sizes = [
        len(answer.chunk.data)
        async for answer in clients.router.GetJobOutput(request, timeout=CALL_SECONDS_MAX)
    ]
    assert sum(sizes) == 600_000
    assert max(sizes) <= 256 * 1024
    for log in suite.state.logs.iterdir():
        assert PROMPT.encode() not in log.read_bytes()


@pytest.mark.requirement("R3", "K15", "L8")
async def test_a_disabled_key_cancels_its_job_and_keeps_the_estimate_on_its_budget(
    clients: Clients,
) -> None:
    account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
    key = await add_replicate_key(clients, account, fault="stall")
    job = await start(clients.router, account)
    request = job_pb2.WaitJobRequest(name=job.name)
    async for answer in clients.router.WaitJob(request, timeout=CALL_SECONDS_MAX):
        if answer.job.state == job_pb2.JOB_STATE_RUNNING:
            await disable_key(clients, key)
        ended = answer.job
    assert ended.state == job_pb2.JOB_STATE_CANCELLED
    assert "disabled" in ended.error.message
    paths = [item["path"] for item in await recorded_requests(clients, key.secret)]
    assert paths[-1].endswith("/cancel")
    (authorization,) = await authorizations(clients, account)
    assert authorization.vendor_cost_nano_usd == FLUX_NANO_USD
    assert authorization.charged_nano_credits == 0


@pytest.mark.requirement("R3", "R12")
async def test_a_job_on_an_own_key_costs_no_credits(clients: Clients) -> None:
    account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
    key = await add_replicate_key(clients, account)
    ended = await end_of(clients.router, await start(clients.router, account))
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (ended.receipt.charged_nano_credits, ended.receipt.key_hint) == (0, key.hint)
    assert ended.receipt.cost_nano_usd == FLUX_NANO_USD


@pytest.mark.requirement("R3", "O4")
class TestCommand:
    @pytest.fixture
    def fault(self) -> str:
        """What the person's key does."""
        return ""

    @pytest.fixture
    def person(self, suite: Suite, tmp_path: Path, fault: str) -> Person:
        """A person whose own key at Replicate goes first."""

        async def account() -> str:
            async with clients_of(suite) as clients:
                mode = account_pb2.BILLING_MODE_OWN_KEY_FIRST
                return await new_account(clients, mode=mode)

        person = Person(suite, asyncio.run(account()), tmp_path)
        line = "keys add --provider replicate --id main --secret-file -"
        person.run(*line.split(), stdin=replicate_secret(fault))
        return person

    def test_a_video_from_its_start_to_its_file(self, person: Person) -> None:
        begun = person.run(
            *("jobs", "start", "google/veo-3.1", PROMPT, "--length", "4", "--json")
        ).document
        job = begun["job"]["name"].rpartition("/")[2]
        waited = person.at_terminal("jobs", "wait", job)
        assert "Working" in waited.out
        assert "succeeded" in waited.out
        assert "$1.60" in waited.out
        assert job in person.run("jobs", "list").out
        saved = person.run("jobs", "output", job, "--out", "made")
        path = person.folder / "made" / f"{job}.mp4"
        assert (saved.out, path.stat().st_size) == (f"made/{job}.mp4\n", 600_000)
        again = person.run("jobs", "output", job, "--out", "made", code=2)
        assert "--force" in again.err
        assert [one.name for one in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("fault", ["stall"])
    def test_an_own_input_is_read_from_a_file_and_a_cancelled_job_ends_with_1(
        self, person: Person
    ) -> None:
        (person.folder / "input.json").write_text(json.dumps({"prompt": PROMPT}))
        person.run("jobs", "start", FLUX, code=2)
        begun = person.run("jobs", "start", FLUX, "--input", "input.json", "--json").document
        job = begun["job"]["name"].rpartition("/")[2]
        person.run("jobs", "cancel", job)
        assert "cancelled" in person.run("jobs", "show", job).out
        person.run("jobs", "wait", job, code=1)
        person.run("jobs", "output", job, code=4)
        person.run("jobs", "show", "job-nowhere", code=3)
