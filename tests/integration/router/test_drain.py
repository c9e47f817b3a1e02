# SPDX-License-Identifier: Apache-2.0
"""What a router does when it is told to stop, and when it cannot begin."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from ownkey.router.v1 import text_pb2

from deploy.local.processes import free_port
from services.shared.config import ConfigError
from tests.support.router_peers import stored_key
from tests.support.router_service import serve_router, text_input
from tests.support.simulated_providers import faulty_key

pytestmark = pytest.mark.requirement("O7")

STALLED = faulty_key("openai", "stall")
REQUEST_ID = "0c6f3c52-5a51-4f0a-8a57-6f3f0b7c9d21"
LEFT_SECONDS_MAX = 10


async def left(address: str) -> None:
    """Return once nobody may connect to the address any more."""
    async with asyncio.timeout(LEFT_SECONDS_MAX):
        while True:
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"{address}/v1/models"),
                ):
                    await asyncio.sleep(0.05)
            except aiohttp.ClientConnectorError:
                return


async def test_both_doors_close_at_once_and_their_running_streams_end_well(tmp_path: Path) -> None:
    async with (
        serve_router(tmp_path, OWNKEY_ROUTER_DRAIN_SECONDS="600") as router,
        aiohttp.ClientSession(headers={"X-Ownkey-Account": "accounts/demo"}) as session,
    ):
        router.keyvault.put("demo", stored_key("demo", "main", "openai", STALLED))
        call = router.stub.StreamText(
            text_pb2.StreamTextRequest(
                account="accounts/demo",
                request_id=REQUEST_ID,
                model="openai/gpt-4o-mini",
                input=text_input(),
            )
        )
        messages = aiter(call)
        assert (await anext(messages)).WhichOneof("event") == "start"
        body = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "Say hello"}],
            "stream": True,
        }
        async with session.post(f"{router.http}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            stopping = asyncio.create_task(router.stop())
            await left(router.http)
            assert not stopping.done()

            await router.release(STALLED)
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        events = [message.WhichOneof("event") async for message in messages]
        assert events[-1] == "finish"
        await stopping


@pytest.mark.requirement("O9")
async def test_a_door_whose_port_is_taken_says_so_and_what_to_do(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    other = await asyncio.start_server(lambda *_: None, host, int(port))
    async with other:
        with pytest.raises(ConfigError) as failure:
            async with serve_router(tmp_path, OWNKEY_ROUTER_HTTP_LISTEN=address):
                pass
    [problem] = failure.value.problems
    assert problem.startswith(f"cannot listen on {address};")
    assert "stop what listens there or choose another address" in problem
