# SPDX-License-Identifier: Apache-2.0
"""The dialects and the provider simulator, joined over real HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from yarl import URL

from services.router.domain.text import (
    Completion,
    Message,
    Role,
    StreamEvent,
    TextCall,
    TextPart,
)
from services.router.providers.base import HTTPRequest, ProbeResult, ProviderError
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import credential
from tests.support.simulated_providers import KEYS, base_url

MODELS = {
    "openai": "gpt-4o-mini",
    "openrouter": "anthropic/claude-haiku-4.5",
    "anthropic": "claude-sonnet-4-6",
    "gemini": "gemini-3.1-flash-lite",
    "azure": "openai/gpt-4o-mini",
    "amazon-bedrock": "us.amazon.nova-micro-v1:0",
    "google-vertex": "gemini-2.5-flash",
    "deepseek": "deepseek-chat",
}
"""A model of each provider, as a call names it."""


class Client:
    """Sends what the dialects build; tests' own small transport."""

    def __init__(self, session: aiohttp.ClientSession, simulator: str) -> None:
        self._session = session
        self.simulator = simulator

    def base_url(self, provider: str) -> str:
        return base_url(self.simulator, provider)

    async def request(self, provider: str, call: TextCall, key: str = "") -> HTTPRequest:
        """Give what is sent for a call, after the exchange that its credential needs."""
        dialect, secret = DIALECTS[provider], credential(key or KEYS[provider])
        built = dialect.build_request(call, secret, base_url=self.base_url(provider))
        return await self.authorized(provider, built, key)

    async def authorized(self, provider: str, built: HTTPRequest, key: str = "") -> HTTPRequest:
        """Give a built request with its token or signature."""
        dialect, secret = DIALECTS[provider], credential(key or KEYS[provider])
        url, now = self.base_url(provider), datetime.now(UTC)
        exchange = dialect.exchange(secret, base_url=url, now=now)
        token = None
        if exchange is not None:
            token = exchange.read(*await self.send(exchange.request), now=now)
        return dialect.authorize(built, secret, base_url=url, now=now, token=token)

    async def send(self, request: HTTPRequest) -> tuple[int, dict[str, str], bytes]:
        async with self._session.request(
            request.method,
            URL(request.url, encoded=True),
            headers=request.headers,
            data=request.body or None,
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, headers, await response.read()

    async def complete(self, provider: str, call: TextCall, key: str = "") -> Completion:
        dialect = DIALECTS[provider]
        request = await self.request(provider, call, key)
        return dialect.parse_response(*await self.send(request), now=datetime.now(UTC))

    async def events(self, provider: str, call: TextCall, key: str = "") -> list[StreamEvent]:
        dialect = DIALECTS[provider]
        request = await self.request(provider, call, key)
        now = datetime.now(UTC)
        async with self._session.post(
            URL(request.url, encoded=True), headers=request.headers, data=request.body
        ) as response:
            if response.status != 200:
                headers = {name.lower(): value for name, value in response.headers.items()}
                raise dialect.parse_error(response.status, headers, await response.read(), now=now)
            decoder = dialect.stream_decoder(now=now)
            events: list[StreamEvent] = []
            try:
                async for data in response.content.iter_any():
                    events += decoder.feed(data)
            except aiohttp.ClientPayloadError:
                pass  # The cut shows in the decoder, as it must.
            return events + decoder.finish()

    async def failure(self, provider: str, key: str, *, stream: bool, **fields: Any) -> Any:
        call = a_call(provider, stream=stream, **fields)
        with pytest.raises(ProviderError) as caught:
            await (self.events if stream else self.complete)(provider, call, key)
        return caught.value

    async def probe(self, provider: str, key: str, *models: str) -> ProbeResult:
        probe = DIALECTS[provider].probe(
            credential(key), base_url=self.base_url(provider), models=models
        )
        while (built := probe.next_request()) is not None:
            try:
                request = await self.authorized(provider, built, key)
            except ProviderError as error:
                probe.fail(error)
            else:
                probe.feed(*await self.send(request), now=datetime.now(UTC))
        return probe.result()

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        async with self._session.request(
            method, f"{self.simulator}/control/{path}", json=body
        ) as response:
            return await response.json() if response.status in (200, 400) else None


def a_call(provider: str, *, stream: bool = False, **fields: Any) -> TextCall:
    plain: dict[str, Any] = {
        "model": MODELS[provider],
        "system": "Be brief.",
        "messages": (Message(Role.USER, (TextPart("Say hello to me"),)),),
        "max_output_tokens": 50,
        "stream": stream,
    }
    return TextCall(**{**plain, **fields})
