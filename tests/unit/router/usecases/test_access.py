# SPDX-License-Identifier: Apache-2.0
"""Access tokens: one exchange at a time, renewed ahead, never shared."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import StreamEvent
from services.router.providers.base import ProviderError
from services.router.providers.openai import OPENAI
from services.router.providers.vertex import VERTEX
from services.router.usecases.access import (
    REFRESH_AHEAD_SECONDS,
    SPARE_SECONDS,
    AccessTokens,
)
from services.router.usecases.attempt import Caller, Delivered, Served
from services.router.usecases.byte_budget import ByteBudget
from services.router.usecases.media_answer import MediaReader
from services.router.usecases.ports import StaleKeyError
from tests.support.clock import ManualClock
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.provider_streams import credential
from tests.support.routing import account_keys, own_key, planned
from tests.support.simulated_providers import KEYS

pytestmark = pytest.mark.requirement("K11", "R4")

SECONDS = 3599
OWNER = "accounts/demo/keys/main"


def granted(token: str) -> FakeAnswer:
    return FakeAnswer(pieces=(json.dumps({"access_token": token, "expires_in": SECONDS}).encode(),))


class Stage:
    """Tokens and what surrounds them."""

    def __init__(self, *answers: FakeAnswer) -> None:
        self.clock = ManualClock()
        self.transport = FakeTransport(*answers)
        self.tokens = AccessTokens(transport=self.transport, clock=self.clock)
        self.media = MediaReader(transport=self.transport, budget=ByteBudget(1), clock=self.clock)
        self.credential = credential(KEYS["google-vertex"])

    async def token(self, owner: str = OWNER, **change: Any) -> str:
        fields: dict[str, Any] = {
            "base_url": "https://{host}",
            "may_send": lambda: True,
            "deadline": self.clock.monotonic() + 5,
        }
        found = await self.tokens.token(owner, VERTEX, self.credential, **{**fields, **change})
        assert found is not None
        return found.secret.reveal()


async def test_a_token_is_kept_and_used_again() -> None:
    stage = Stage(granted("one"), granted("two"))
    assert [await stage.token(), await stage.token()] == ["one", "one"]
    assert len(stage.transport.sent) == 1


async def test_owners_never_share_one() -> None:
    stage = Stage(granted("one"), granted("two"))
    assert await stage.token() == "one"
    assert await stage.token("accounts/other/keys/main") == "two"


async def test_callers_wait_for_one_exchange() -> None:
    pause = asyncio.Event()
    stage = Stage(FakeAnswer(pieces=(pause, *granted("one").pieces)))
    waiting = [asyncio.create_task(stage.token()) for _ in range(5)]
    await asyncio.sleep(0)
    pause.set()
    assert await asyncio.gather(*waiting) == ["one"] * 5
    assert len(stage.transport.sent) == 1


async def test_near_its_end_a_token_serves_while_the_next_is_fetched() -> None:
    stage = Stage(granted("one"), granted("two"))
    await stage.token()
    stage.clock.advance(SECONDS - REFRESH_AHEAD_SECONDS)
    assert await stage.token() == "one"
    while len(stage.transport.sent) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await stage.token() == "two"


async def test_a_token_at_its_end_serves_no_more() -> None:
    stage = Stage(granted("one"), granted("two"))
    await stage.token()
    stage.clock.advance(SECONDS - SPARE_SECONDS)
    assert await stage.token() == "two"


async def test_a_token_that_was_refused_is_dropped() -> None:
    stage = Stage(granted("one"), granted("two"))
    found = await stage.tokens.token(
        OWNER, VERTEX, stage.credential, base_url="https://{host}",
        may_send=lambda: True, deadline=stage.clock.monotonic() + 5,
    )  # fmt: skip
    assert found is not None
    for _ in range(2):
        stage.tokens.forget(OWNER, VERTEX.provider, stage.credential, found)
        assert await stage.token() == "two"


async def test_a_refused_exchange_costs_nothing_and_is_not_kept() -> None:
    stage = Stage(FakeAnswer(status=400, pieces=(b'{"error":"invalid_grant"}',)), granted("two"))
    with pytest.raises(ProviderError) as failed:
        await stage.token()
    assert (failed.value.outcome, failed.value.billed) == (Outcome.INVALID_KEY, Billed.NOT_SENT)
    assert await stage.token() == "two"


@pytest.mark.requirement("K15")
async def test_a_credential_without_a_lease_is_not_traded() -> None:
    stage = Stage(granted("one"))
    with pytest.raises(StaleKeyError):
        await stage.token(may_send=lambda: False)
    assert stage.transport.sent == []


async def test_each_caller_waits_within_its_own_time() -> None:
    stage = Stage(FakeAnswer(pieces=(asyncio.Event(),)))
    with pytest.raises(ProviderError) as failed:
        await stage.token(deadline=stage.clock.monotonic())
    assert failed.value.outcome is Outcome.TIMEOUT
    await stage.tokens.close()


class Quiet:
    """Takes events and drops them."""

    async def put(self, event: StreamEvent) -> None:
        """Take one."""


UNAUTHENTICATED = FakeAnswer(
    status=401, pieces=(b'{"error":{"code":401,"status":"UNAUTHENTICATED"}}',)
)
SERVED = FakeAnswer(
    pieces=(
        (
            b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}],'
            b'"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":1}}'
        ),
    )
)


@pytest.mark.parametrize(
    ("answers", "sent", "served"),
    [
        ((granted("one"), UNAUTHENTICATED, granted("two"), SERVED), 4, True),
        ((granted("one"), UNAUTHENTICATED, granted("two"), UNAUTHENTICATED), 4, False),
    ],
)
async def test_after_a_401_another_token_is_fetched_once(
    answers: tuple[FakeAnswer, ...], sent: int, *, served: bool
) -> None:
    stage = Stage(*answers)
    caller = Caller(
        dialects={VERTEX.provider: VERTEX},
        base_urls={},
        transport=stage.transport,
        tokens=stage.tokens,
        media=stage.media,
        clock=stage.clock,
    )
    keys = account_keys(own_key(VERTEX.provider))
    laid_out = planned(keys=keys)
    [candidate] = laid_out.own
    call = dataclasses.replace(candidate.call, model="gemini-2.5-flash", stream=False)
    result = await caller.call(
        dataclasses.replace(candidate, call=call),
        stage.credential.secret,
        may_send=lambda: True,
        deadline=stage.clock.monotonic() + 5,
        delivered=Delivered(),
        sink=Quiet(),
    )
    assert isinstance(result, Served) is served
    assert len(stage.transport.sent) == sent
    tokens = [request.headers.get("authorization") for request in stage.transport.sent]
    assert tokens == [None, "Bearer one", None, "Bearer two"]


async def test_a_credential_that_cannot_be_read_fails_before_anything_is_sent() -> None:
    stage = Stage(granted("one"))
    caller = Caller(
        dialects={VERTEX.provider: VERTEX},
        base_urls={},
        transport=stage.transport,
        tokens=stage.tokens,
        media=stage.media,
        clock=stage.clock,
    )
    [candidate] = planned(keys=account_keys(own_key(VERTEX.provider))).own
    result = await caller.call(
        candidate,
        credential("not json").secret,
        may_send=lambda: True,
        deadline=stage.clock.monotonic() + 5,
        delivered=Delivered(),
        sink=Quiet(),
    )
    assert isinstance(result, Failure)
    assert (result.outcome, result.billed) == (Outcome.INVALID_KEY, Billed.NOT_SENT)
    assert stage.transport.sent == []


async def test_a_plain_key_needs_no_token() -> None:
    stage = Stage(granted("one"))
    found = await stage.tokens.token(
        OWNER, OPENAI, stage.credential, base_url="x", may_send=lambda: True, deadline=5
    )
    assert found is None
