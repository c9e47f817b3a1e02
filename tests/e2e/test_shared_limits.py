# SPDX-License-Identifier: Apache-2.0
"""One limit of a shared key, held at two routers; what reached the provider is counted there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from ownkey.keyvault.v1 import key_pb2, sharing_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault
from ownkey.router.v1 import attempt_pb2, explain_pb2, router_service_pb2_grpc, text_pb2

from deploy.local.clients import Clients
from services.shared.ids import new_id
from tests.e2e import support

LIMIT = 20
PART = LIMIT // 4
"""What the plan lets one account use."""
SLICES = 2
"""One at each router."""
PROVIDER = "gemini"
CREDITS = attempt_pb2.SOURCE_CREDITS

Router = router_service_pb2_grpc.RouterServiceStub


async def limit(clients: Clients, key: str, requests: int) -> None:
    """Limit a shared key, as an operator."""
    await clients.keyvault.SetSharedLimit(
        sharing_pb2.SetSharedLimitRequest(key=key, requests_per_minute=requests),
        metadata=clients.operator,
    )


async def leased(clients: Clients, key: str) -> int:
    """Tell how much of a limit is in use, as an operator."""
    request = sharing_pb2.GetSharedLimitRequest(key=key)
    answer = await clients.keyvault.GetSharedLimit(request, metadata=clients.operator)
    count: int = answer.leased_request_count
    return count


@asynccontextmanager
async def only_shared_key(clients: Clients, key: key_pb2.Key) -> AsyncIterator[None]:
    """Disable the provider's other shared keys meanwhile."""
    listed = await clients.keyvault.ListKeys(
        keyvault.ListKeysRequest(parent=support.PLATFORM, provider=PROVIDER),
        metadata=clients.operator,
    )
    others = [other.name for other in listed.keys if other.name != key.name]
    for name in others:
        request = keyvault.DisableKeyRequest(name=name, request_id=new_id())
        await clients.keyvault.DisableKey(request, metadata=clients.operator)
    try:
        yield
    finally:
        for name in others:
            back = keyvault.EnableKeyRequest(name=name, request_id=new_id())
            await clients.keyvault.EnableKey(back, metadata=clients.operator)
        gone = keyvault.DeleteKeyRequest(name=key.name, request_id=new_id())
        await clients.keyvault.DeleteKey(gone, metadata=clients.operator)


async def outcomes(
    clients: Clients, account: str, routers: tuple[Router, Router], count: int
) -> list[str]:
    """Send so many requests on credits, by turns at both routers; gives `ok` or the reasons."""

    async def one(router: Router) -> str:
        try:
            await support.generate(
                clients,
                account,
                model=support.MODELS[PROVIDER],
                source=CREDITS,
                route=text_pb2.RoutePreferences(only=[PROVIDER]),
                router=router,
            )
        except grpc.aio.AioRpcError as failure:
            status = support.from_rpc_error(failure)
            assert status.retry_after_seconds is not None
            assert 1 < status.retry_after_seconds <= 65
            return status.reason
        return "ok"

    return await asyncio.gather(*(one(routers[number % 2]) for number in range(count)))


@pytest.mark.requirement("R10", "R11", "K16")
async def test_a_limit_holds_over_all_routers_and_an_account_has_its_part(
    clients: Clients, second: Router
) -> None:
    """A slice of so small a limit is one request: each router loses one at most with its slot."""
    secret = support.new_secret(PROVIDER)
    created = await clients.keyvault.CreateKey(
        keyvault.CreateKeyRequest(
            parent=support.PLATFORM,
            key=key_pb2.Key(provider=PROVIDER),
            secret=secret,
            request_id=new_id(),
        ),
        metadata=clients.operator,
    )
    key = created.key.name
    tested = len(await support.recorded_requests(clients, secret))
    await limit(clients, key, LIMIT)
    capped = await support.new_account(clients, plan="plans/starter")
    account = await support.new_account(clients)
    async with only_shared_key(clients, created.key):
        routers = (clients.router, second)

        async def both_know() -> bool:
            for router in routers:
                asked = explain_pb2.ExplainRequest(
                    text=text_pb2.GenerateTextRequest(
                        account=account,
                        request_id=new_id(),
                        model=support.MODELS[PROVIDER],
                        source=CREDITS,
                        input=support.question(),
                    )
                )
                told = await router.Explain(asked)
                if sum(c.provider == PROVIDER for c in told.candidates) != 1:
                    return False
            return True

        await support.eventually(both_know)
        told = await outcomes(clients, capped, routers, 2 * PART)
        assert set(told) == {"SERVICE_CAPACITY", "ok"}
        assert PART - SLICES <= told.count("ok") <= PART
        told += await outcomes(clients, account, routers, 2 * LIMIT)
        assert LIMIT - 2 * SLICES <= told.count("ok") <= LIMIT
        assert len(await support.recorded_requests(clients, secret)) - tested == told.count("ok")
        assert await leased(clients, key) == LIMIT
        # By more than a slice or two: one that ends on its way to a router is lost with its slot.
        await limit(clients, key, 2 * LIMIT)

        async def raised() -> bool:
            return await outcomes(clients, account, routers, 2) != ["SERVICE_CAPACITY"] * 2

        await support.eventually(raised)
