# SPDX-License-Identifier: Apache-2.0
"""The simulator as a process, and how strictly it reads requests."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.support.simulated_providers import KEYS, serve_simulator

pytestmark = pytest.mark.requirement("O1")

HEADERS = {
    "openai": {"Authorization": f"Bearer {KEYS['openai']}"},
    "openrouter": {"Authorization": f"Bearer {KEYS['openrouter']}"},
    "anthropic": {"x-api-key": KEYS["anthropic"], "anthropic-version": "2023-06-01"},
    "gemini": {"x-goog-api-key": KEYS["gemini"]},
}
PATHS = {
    "openai": "/openai/v1/chat/completions",
    "openrouter": "/openrouter/api/v1/chat/completions",
    "anthropic": "/anthropic/v1/messages",
    "gemini": "/gemini/v1beta/models/gemini-2.5-flash:generateContent",
}


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulator", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_it_says_where_it_listens_and_stops_when_told(
        self, number: signal.Signals
    ) -> None:
        process = await start("--listen", "127.0.0.1:0")
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        address = line.removeprefix("simulator listening on ").strip()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{address}/control/requests") as response,
        ):
            assert await response.json() == {"requests": []}
        process.send_signal(number)
        await process.communicate()
        assert process.returncode == 0

    @pytest.mark.parametrize("address", ["0.0.0.0:7190", "example.com:80", "127.0.0.1", "::1"])
    async def test_it_listens_on_loopback_alone(self, address: str) -> None:
        process = await start("--listen", address)
        _, error = await process.communicate()
        assert process.returncode == 2
        assert b"no loopback address" in error

    async def test_a_taken_port_is_told(self) -> None:
        async with serve_simulator() as simulator:
            address = simulator.removeprefix("http://")
            process = await start("--listen", address)
            _, error = await process.communicate()
        assert process.returncode == 1
        assert f"cannot listen on {address}".encode() in error


@pytest.fixture
async def simulator() -> AsyncIterator[str]:
    async with serve_simulator() as address:
        yield address


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "gpt-4o-mini", "messages": messages, **fields}


def message(**fields: Any) -> dict[str, Any]:
    return chat(**{"model": "claude-sonnet-4-6", "max_tokens": 2000, **fields})


def contents(**config: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": config}


REFUSED = [
    ("openai", chat(messages=[])),
    ("openai", chat(stop=["a", "b", "c", "d", "e"])),
    ("openai", chat(stream_options={"include_usage": True})),
    ("openai", chat(reasoning_effort="low")),
    ("openai", chat(model="o4-mini", max_tokens=5)),
    ("openai", chat(model="o4-mini", stop="x")),
    ("openai", chat(model="o4-mini", temperature=0)),
    ("openai", chat(temperature="warm")),
    ("openai", "no object"),
    ("openrouter", chat(messages=[])),
    ("openrouter", chat(model=5)),
    ("anthropic", message(max_tokens=0)),
    ("anthropic", message(messages=[])),
    ("anthropic", message(temperature=1.5)),
    ("anthropic", message(temperature=1, top_p=1)),
    ("anthropic", message(thinking={"type": "enabled", "budget_tokens": 5})),
    ("anthropic", message(thinking={"type": "enabled", "budget_tokens": 5000})),
    ("anthropic", message(thinking={"type": "adaptive"}, temperature=0)),
    ("anthropic", message(max_tokens=None)),
    ("gemini", {"contents": []}),
    ("gemini", contents(stopSequences=["a", "b", "c", "d", "e", "f"])),
    ("gemini", contents(thinkingConfig={"thinkingBudget": 5, "thinkingLevel": "low"})),
    ("gemini", contents(thinkingConfig={"thinkingLevel": "low"})),
]


@pytest.mark.parametrize(("provider", "body"), REFUSED)
async def test_what_the_real_one_refuses_is_refused(
    simulator: str, provider: str, body: Any
) -> None:
    async with (
        aiohttp.ClientSession(headers=HEADERS[provider]) as session,
        session.post(simulator + PATHS[provider], json=body) as response,
    ):
        assert response.status == 400
        assert "error" in await response.json()


@pytest.mark.parametrize("provider", sorted(PATHS))
async def test_a_body_that_does_not_say_it_is_json_is_refused(
    simulator: str, provider: str
) -> None:
    async with (
        aiohttp.ClientSession(headers=HEADERS[provider]) as session,
        session.post(simulator + PATHS[provider], data=b"{") as response,
    ):
        assert response.status == 400


async def test_calls_without_the_version_or_the_framing_are_refused(simulator: str) -> None:
    stream = "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    async with aiohttp.ClientSession() as session:
        key = {"x-api-key": KEYS["anthropic"]}
        async with session.get(f"{simulator}/anthropic/v1/models", headers=key) as response:
            assert response.status == 400
        async with session.post(
            simulator + stream, headers=HEADERS["gemini"], json=contents()
        ) as response:
            assert response.status == 400


async def test_openai_streams_no_usage_unless_asked(simulator: str) -> None:
    async with (
        aiohttp.ClientSession(headers=HEADERS["openai"]) as session,
        session.post(simulator + PATHS["openai"], json=chat(stream=True)) as response,
    ):
        text = await response.text()
    assert '"usage"' not in text
    assert text.endswith("data: [DONE]\n\n")


async def test_openrouter_s_models_are_public(simulator: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{simulator}/openrouter/api/v1/models") as response,
    ):
        assert response.status == 200
