# SPDX-License-Identifier: Apache-2.0
"""A run's surroundings at one provider, with keyvault, ledger and provider scripted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from services.router.domain.catalogue import (
    Capability,
    Catalogue,
    CreditDefaults,
    Model,
    Offer,
)
from services.router.domain.request import Request, Source, TextInput
from services.router.domain.text import Message, Role, TextPart
from services.router.usecases.engine import Event
from services.router.usecases.generate import GenerateText
from services.router.usecases.price_book import PriceBook
from tests.support.clock import ManualClock
from tests.support.engine import (
    FakeAnswer,
    FakeKeys,
    FakeLedger,
    FakeLimits,
    FakePriceList,
    FakeTransport,
    engine,
)
from tests.support.routing import account_keys, own_key, price, provider

MODEL = "openai/gpt-4o-mini"
DEADLINE = 60.0
GREETING = TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),))


def chunk(text: str) -> bytes:
    """Give one piece of OpenAI's stream."""
    choice = {"index": 0, "delta": {"content": text}}
    return b"data: " + json.dumps({"model": "m", "choices": [choice]}).encode() + b"\n\n"


END = (
    b'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)
SERVED = FakeAnswer(pieces=(chunk("Hello"), END))
UNKNOWN_KEY = FakeAnswer(status=401, pieces=(b'{"error":{"code":"invalid_api_key"}}',))
DOWN = FakeAnswer(status=503, pieces=(b"{}",))
KEY = own_key("openai", "main")
SHARED = account_keys(own_key("openai", "one", account="platform"), account="platform")


def openai_catalogue(*, bills_after_disconnect: bool = False) -> Catalogue:
    """Give a catalogue of one model at OpenAI."""
    model = Model(
        id=MODEL,
        display_name="m",
        capabilities=frozenset({Capability.TEXT}),
        context_tokens=1000,
        default_max_output_tokens=100,
        image_tokens_max=1000,
        fast=True,
        offers=(Offer("openai", MODEL, "gpt-4o-mini", price()),),
    )
    found = provider("openai", default_model=MODEL, bills_after_disconnect=bills_after_disconnect)
    return Catalogue(
        providers={"openai": found},
        models={MODEL: model},
        credits=CreditDefaults(default=MODEL, quality=MODEL, speed=MODEL),
    )


class Stage:
    """A run's surroundings."""

    def __init__(self, transport: FakeTransport, *own: Any, **catalogue: bool) -> None:
        self.clock = ManualClock()
        self.keys = FakeKeys(account_keys(*(own or (KEY,))), SHARED)
        self.ledger = FakeLedger()
        self.limits = FakeLimits(self.clock)
        self.transport = transport
        self.engine = engine(
            openai_catalogue(**catalogue),
            self.keys,
            self.ledger,
            transport,
            self.clock,
            limits=self.limits,
        )

    def limit_output(self, model: str, tokens: int) -> None:
        """Say how much a model gives at most."""
        known = self.engine.catalogue
        limited = dataclasses.replace(known.models[model], output_tokens_max=tokens)
        priced = dataclasses.replace(known, models={**known.models, model: limited})
        prices = PriceBook(priced, FakePriceList(), clock=self.clock)
        self.engine = dataclasses.replace(self.engine, prices=prices)

    def run(
        self,
        source: Source = Source.AUTO,
        *,
        deadline: float = DEADLINE,
        prompt: TextInput = GREETING,
    ) -> Any:
        """Begin a streamed request."""
        request = Request(
            account="accounts/demo",
            request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
            model=MODEL,
            source=source,
            input=prompt,
            stream=True,
        )
        return GenerateText(self.engine)(request, deadline=deadline)

    async def events(
        self, source: Source = Source.AUTO, *, deadline: float = DEADLINE
    ) -> list[Event]:
        """Run a request to its end."""
        return [event async for event in self.run(source, deadline=deadline)]

    @property
    def bearers(self) -> list[str]:
        """Give the keys that reached the provider."""
        return [request.headers["authorization"] for request in self.transport.sent]

    async def reached(self, found: Callable[[], bool]) -> None:
        """Let everything run until something has come about."""
        async with asyncio.timeout(10):
            while not found():
                await asyncio.sleep(0)
