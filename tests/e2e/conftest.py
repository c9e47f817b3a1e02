# SPDX-License-Identifier: Apache-2.0
"""One running suite for all end-to-end tests; a test that breaks parts starts its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1.router_service_pb2_grpc import RouterServiceStub

from deploy.local.clients import Clients
from deploy.local.processes import grpc_serving
from deploy.local.suite import Suite
from services.shared.channel import open_channel
from services.shared.identity import call_metadata
from services.shared.secret import Secret
from tests.e2e import support
from tests.e2e.bad_input import NANO_CREDITS, Scene


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """
    The running suite; each test makes accounts of its own on it.

    After the last one every account's books must hold, and no log may have a secret in it.
    """
    with support.running_suite(tmp_path_factory.mktemp("suite") / "state") as running:
        yield running
        asyncio.run(support.assert_books_hold(running))
        support.assert_logs_hold_no_secret(running)


@pytest.fixture(scope="session")
def second_address(suite: Suite) -> Iterator[str]:
    """Where the running suite's second router listens; nobody stops it."""
    process, address = support.another_router(suite)
    try:
        process.start()
        process.wait_ready(grpc_serving(address))
        yield address
    finally:
        process.stop()


@pytest_asyncio.fixture
async def second(second_address: str) -> AsyncIterator[RouterServiceStub]:
    """Stub to the running suite's second router."""
    async with open_channel(second_address) as channel:
        yield RouterServiceStub(channel)


@pytest_asyncio.fixture
async def clients(suite: Suite) -> AsyncIterator[Clients]:
    """Stubs to the running suite."""
    async with support.clients_of(suite) as stubs:
        yield stubs


@pytest.fixture(scope="session")
def settings_account(suite: Suite) -> str:
    """The account that the suite's settings page acts for; the page serves from now on."""

    async def make() -> str:
        async with support.clients_of(suite) as stubs:
            return await support.new_account(stubs, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)

    account = asyncio.run(make())
    suite.start_settings_page(account)
    return account


@pytest_asyncio.fixture
async def scene(suite: Suite, clients: Clients) -> Scene:
    """An account with credits, an entry and a key, for bad input to be tried on."""
    account = await support.new_account(
        clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST, nano_credits=NANO_CREDITS
    )
    key = await support.add_key(clients, account)
    router = call_metadata(Secret(suite.state.token("router")))
    return Scene(clients, account, key.name, key.secret, router)
