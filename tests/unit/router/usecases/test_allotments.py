# SPDX-License-Identifier: Apache-2.0
"""Shared keys' limits: leased in slices, capped by plan, and moved on from when used up."""

from __future__ import annotations

import asyncio

import pytest

from services.router import errors
from services.router.domain.request import Source
from services.router.usecases.allotments import Allotments
from services.router.usecases.engine import Ended
from services.router.usecases.ports import PLATFORM, Release
from services.shared.errors import PeerUnavailableError
from tests.support.clock import ManualClock
from tests.support.engine import FakeLimits, FakeTransport
from tests.support.routing import account_keys, own_key
from tests.support.stage import SERVED, Stage

ONE = "accounts/platform/keys/one"
TWO = "accounts/platform/keys/two"
DEMO = "accounts/demo"
WHOLE = 1_000_000


class Fixture:
    """Slices over a limit of a fake keyvault."""

    def __init__(self, **left: int) -> None:
        self.clock = ManualClock()
        self.limits = FakeLimits(self.clock, {(ONE, whose): n for whose, n in left.items()})
        self.allotments = Allotments(self.limits, clock=self.clock)

    async def take(self, account: str = DEMO, part: int = WHOLE) -> float | None:
        """Take one request."""
        return await self.allotments.take(ONE, account, part)


def limited(requests: int) -> Fixture:
    """Give slices over a limit of so many requests in the first minute."""
    fixture = Fixture()
    fixture.limits.left = {(ONE, ""): requests}
    return fixture


class TestSlices:
    @pytest.mark.requirement("R10", "K16")
    async def test_never_more_begin_than_the_minute_holds(self) -> None:
        fixture = limited(7)
        taken = [await fixture.take() for _ in range(10)]
        assert taken == [None] * 7 + [60.0] * 3

    @pytest.mark.requirement("R10", "K16")
    async def test_many_at_once_take_each_request_once(self) -> None:
        fixture = limited(7)
        taken = await asyncio.gather(*(fixture.take() for _ in range(50)))
        assert taken.count(None) == 7
        assert set(taken) == {None, 60.0}

    @pytest.mark.requirement("R10", "K16")
    async def test_a_slice_is_a_small_part_of_the_limit(self) -> None:
        """What a replica holds and may not use is at most a twentieth of it."""
        fixture = limited(1_000)
        for _ in range(20):
            await fixture.take()
        assert max(wish.requests for wish in fixture.limits.wishes) == 3

    @pytest.mark.requirement("R10", "K16")
    async def test_a_slice_grows_with_what_is_used(self) -> None:
        """A replica with little to do holds little that others could use."""
        fixture = limited(1_000)
        for _ in range(4):
            await fixture.take()
        assert [wish.requests for wish in fixture.limits.wishes] == [1, 2, 3]

    @pytest.mark.requirement("R10", "K16")
    async def test_a_limit_that_was_raised_counts_when_the_answer_lapses(self) -> None:
        """The wait that callers are told may be longer than the answer counts."""
        fixture = limited(0)
        fixture.limits.free_seconds = 65.0
        assert await fixture.take() == 65.0
        fixture.limits.left[ONE, ""] = 1
        assert await fixture.take() == 65.0
        fixture.clock.advance(60.0)
        assert await fixture.take() is None

    @pytest.mark.requirement("R10", "K16")
    async def test_a_slice_ends_in_time(self) -> None:
        fixture = limited(1)
        assert await fixture.take() is None
        fixture.clock.advance(30.0)
        assert await fixture.take() == 30.0
        fixture.clock.advance(30.0)
        fixture.limits.left[ONE, ""] = 1
        assert await fixture.take() is None

    @pytest.mark.requirement("R10", "K16")
    async def test_a_key_without_a_limit_asks_once_a_minute(self) -> None:
        fixture = Fixture()
        assert [await fixture.take() for _ in range(5)] == [None] * 5
        assert len(fixture.limits.wishes) == 1
        fixture.clock.advance(60.0)
        await fixture.take()
        assert len(fixture.limits.wishes) == 2

    @pytest.mark.requirement("R10", "K16")
    async def test_keyvault_away_is_no_key_without_a_limit(self) -> None:
        fixture = Fixture()
        fixture.limits.away = True
        with pytest.raises(PeerUnavailableError):
            await fixture.take()


class TestPart:
    @pytest.mark.requirement("R10")
    async def test_an_account_takes_no_more_than_its_plan_s_part(self) -> None:
        fixture = limited(100)
        fixture.limits.left[ONE, DEMO] = 2
        taken = [await fixture.take(part=20_000) for _ in range(4)]
        assert taken == [None, None, 60.0, 60.0]
        assert await fixture.take("accounts/other") is None

    @pytest.mark.requirement("R10", "K16")
    async def test_also_of_a_key_without_a_limit(self) -> None:
        """The key itself is free, and whoever's plan has no cap is not counted."""
        fixture = Fixture(**{DEMO: 2})
        taken = [await fixture.take(part=20_000) for _ in range(4)]
        assert taken == [None, None, 60.0, 60.0]
        assert [await fixture.take() for _ in range(9)] == [None] * 9

    @pytest.mark.requirement("R10")
    async def test_what_a_capped_account_does_not_get_is_left_to_others(self) -> None:
        fixture = limited(3)
        fixture.limits.left[ONE, DEMO] = 1
        for _ in range(5):
            await fixture.take(part=20_000)
        assert [await fixture.take("accounts/other") for _ in range(3)] == [None, None, 60.0]


class TestRun:
    """A request on credits, with one shared key or two."""

    def _stage(self, *keys: str) -> Stage:
        stage = Stage(FakeTransport(SERVED))
        shared = [own_key("openai", name, account="platform") for name in keys]
        stage.keys.accounts[PLATFORM] = account_keys(*shared, account="platform")
        return stage

    @pytest.mark.requirement("R10", "K16")
    async def test_a_key_whose_limit_is_used_up_is_moved_on_from(self) -> None:
        """Nothing was sent on it, and keyvault is told nothing about its health."""
        stage = self._stage("one", "two")
        stage.limits.left = {(ONE, ""): 0, (TWO, ""): 9}
        for _ in range(3):
            assert isinstance((await stage.events(Source.CREDITS))[-1], Ended)
        assert {request.split("/")[-1] for request in stage.bearers} == {"two@1"}
        assert stage.keys.reports == []

    @pytest.mark.requirement("R10", "R11", "K16")
    async def test_all_used_up_reads_as_the_service_s_lack(self) -> None:
        """It says when the next minute begins; until then no attempt is made."""
        stage = self._stage("one")
        stage.limits.left = {(ONE, ""): 0}
        with pytest.raises(errors.ServiceCapacityError) as caught:
            await stage.events(Source.CREDITS)
        assert caught.value.retry_after_seconds == pytest.approx(60.0)
        assert stage.transport.sent == []
        [(settlement, _)] = stage.ledger.settled
        assert isinstance(settlement.terms, Release)
        stage.clock.advance(20.0)
        with pytest.raises(errors.ServiceCapacityError) as caught:
            await stage.events(Source.CREDITS)
        assert caught.value.attempts == ()

    @pytest.mark.requirement("R9", "K16")
    async def test_own_keys_have_no_part_in_it(self) -> None:
        stage = self._stage("one")
        stage.limits.away = True
        assert isinstance((await stage.events())[-1], Ended)

    @pytest.mark.requirement("R9", "K16")
    async def test_keyvault_away_fails_the_request_and_releases_its_hold(self) -> None:
        stage = self._stage("one")
        stage.limits.away = True
        with pytest.raises(PeerUnavailableError):
            await stage.events(Source.CREDITS)
        [(settlement, _)] = stage.ledger.settled
        assert isinstance(settlement.terms, Release)
