# SPDX-License-Identifier: Apache-2.0
"""A key that cools is waited for under its hold, or not at all."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from services.ledger.domain.modes import BillingMode
from services.router import errors
from services.router.domain.keys import HealthMark, HealthState
from services.router.domain.plan import Funding, OwnKeyState
from services.router.domain.request import Source
from services.router.usecases.engine import Ended, Started
from services.router.usecases.ports import PLATFORM, Ask, Release
from services.shared.errors import ServiceError
from tests.support.deciding_ledger import DecidingLedger
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.routing import account_keys, own_key
from tests.support.stage import KEY, SERVED, Stage

LIMITED = FakeAnswer(429, (b'{"error":{"code":"rate_limit_exceeded"}}',))
OWN, SHARED = "Bearer accounts/demo/keys/main@1", "Bearer accounts/platform/keys/one@1"


def limited(seconds: float) -> FakeAnswer:
    """Give a 429 with a hint."""
    return dataclasses.replace(LIMITED, headers={"retry-after": str(seconds)})


def refuses_credits(ask: Ask) -> ServiceError | None:
    """Let no account fall back."""
    return None if ask.own else errors.FallbackNotAllowedError("no consent")


def cools(seconds: float) -> tuple[HealthMark, ...]:
    """Give the health of a key that cools."""
    return (HealthMark(HealthState.COOLING, "", seconds),)


class TestOwnKey:
    @pytest.mark.requirement("R10", "R14", "L3")
    async def test_the_attempt_is_authorized_first_and_its_hold_renewed_meanwhile(self) -> None:
        """So a repeat hears that the request runs, however long the wait."""
        stage = Stage(FakeTransport(limited(45.0), SERVED))
        stage.ledger.refuse = refuses_credits
        reading = asyncio.create_task(stage.events())
        await stage.reached(lambda: stage.clock.sleepers == 1)
        assert stage.bearers == [OWN]
        again = stage.ledger.asks[-1]
        assert again.own_key_state is OwnKeyState.READY
        stage.clock.advance(20.0)
        await stage.reached(lambda: len(stage.ledger.checkpoints) == 1)
        assert stage.bearers == [OWN]
        stage.clock.advance(25.0)
        events = await reading
        assert isinstance(events[-1], Ended)
        assert stage.bearers == [OWN, OWN]

    @pytest.mark.requirement("R10", "R12")
    async def test_the_wait_is_no_part_of_the_attempt_s_latency(self) -> None:
        stage = Stage(FakeTransport(limited(1.5), SERVED))
        reading = asyncio.create_task(stage.events(Source.OWN_KEY))
        await stage.reached(lambda: stage.clock.sleepers == 1)
        stage.clock.advance(1.5)
        ended = (await reading)[-1]
        assert isinstance(ended, Ended)
        assert [a.latency_seconds for a in ended.receipt.attempts] == [0.0, 0.0]

    @pytest.mark.requirement("R10", "L9")
    async def test_a_caller_that_leaves_meanwhile_ends_the_wait_and_pays_nothing(self) -> None:
        stage = Stage(FakeTransport(limited(45.0), SERVED))
        stage.ledger.refuse = refuses_credits
        reading = asyncio.create_task(stage.events())
        await stage.reached(lambda: stage.clock.sleepers == 1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await stage.reached(lambda: len(stage.ledger.settled) == 1)
        settlement, end = stage.ledger.settled[0]
        assert isinstance(settlement.terms, Release)
        assert end is not None
        assert not end.succeeded
        assert stage.bearers == [OWN]
        assert stage.clock.monotonic() == 0.0

    @pytest.mark.requirement("R10", "R7")
    async def test_where_credits_pay_anyway_nobody_waits_for_it(self) -> None:
        """The mode is CREDITS: the ledger says so before the wait, not after it."""
        key = dataclasses.replace(KEY, health=cools(1.5))
        stage = Stage(FakeTransport(SERVED), key)
        ledger = DecidingLedger(mode=BillingMode.CREDITS)
        stage.engine = dataclasses.replace(stage.engine, ledger=ledger)
        assert isinstance((await stage.events())[-1], Ended)
        assert stage.bearers == [SHARED]
        assert stage.clock.monotonic() == 0.0


class TestSharedKey:
    def _stage(self, *seconds: float) -> Stage:
        """Give a stage whose own key is refused, and whose shared keys cool."""
        rejected = dataclasses.replace(KEY, health=(HealthMark(HealthState.REJECTED),))
        stage = Stage(FakeTransport(SERVED), rejected)
        shared = [
            own_key("openai", f"k{n}", account="platform", health=cools(wait))
            for n, wait in enumerate(seconds)
        ]
        stage.keys.accounts[PLATFORM] = account_keys(*shared, account="platform")
        return stage

    @pytest.mark.requirement("R10", "R9")
    async def test_a_fallback_waits_for_the_soonest_that_is_ready_soon(self) -> None:
        stage = self._stage(30.0, 1.5)
        reading = asyncio.create_task(stage.events())
        await stage.reached(lambda: stage.clock.sleepers == 1)
        assert stage.bearers == []
        stage.clock.advance(1.5)
        events = await reading
        assert isinstance(events[0], Started)
        assert events[0].payer is Funding.CREDITS
        assert stage.bearers == ["Bearer accounts/platform/keys/k1@1"]

    @pytest.mark.requirement("R10", "R11")
    @pytest.mark.parametrize("source", [Source.AUTO, Source.CREDITS])
    async def test_where_all_cool_for_long_the_soonest_is_told(self, source: Source) -> None:
        """Nothing is sent on any of them; complaint 5.12: the end has a time to come back."""
        stage = self._stage(30.0, 20.0)
        if source is Source.CREDITS:
            with pytest.raises(errors.ServiceCapacityError) as caught:
                await stage.events(source)
            assert caught.value.retry_after_seconds == 20.0
        else:
            with pytest.raises(errors.CreditsNotPossibleError):
                await stage.events(source)
        assert stage.bearers == []
