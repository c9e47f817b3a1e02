# SPDX-License-Identifier: Apache-2.0
"""Keys that keyvault cannot open now: never read as no key, and never more harm than need be."""

from __future__ import annotations

import dataclasses

import pytest

from services.router import errors
from services.router.domain.keys import HealthMark, HealthState, OwnKey
from services.router.domain.plan import ExclusionReason, OwnKeyState
from services.router.domain.request import Source
from services.router.usecases.engine import Ended
from services.router.usecases.ports import PLATFORM, Ask
from services.shared.errors import PeerUnavailableError, ServiceError
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.routing import account_keys, own_key, planned
from tests.support.stage import DOWN, KEY, SERVED, UNKNOWN_KEY, Stage

OTHER = dataclasses.replace(KEY, name="accounts/demo/keys/other", order=1)


def unopened(key: OwnKey) -> OwnKey:
    """Give a key whose secret cannot be opened now."""
    return dataclasses.replace(key, health=(HealthMark(HealthState.UNOPENED),))


def decides(ask: Ask) -> ServiceError | None:
    """Refuse as the ledger does in mode OWN_KEY_FIRST, consent ANY."""
    if ask.own_key_state is OwnKeyState.UNKNOWN:
        return errors.OwnKeysUnknownError("unknown", retry_after_seconds=1.0)
    if ask.own_key_state is not OwnKeyState.READY and ask.credits is None:
        return errors.CreditsNotPossibleError("nothing serves on credits")
    return None


class TestSharedKeys:
    @pytest.mark.requirement("R9", "K16")
    async def test_an_own_key_serves_although_they_cannot_be_opened(self) -> None:
        stage = Stage(FakeTransport(SERVED))
        stage.keys.away = {PLATFORM}
        events = await stage.events()
        assert isinstance(events[-1], Ended)
        assert stage.bearers == ["Bearer accounts/demo/keys/main@1"]

    @pytest.mark.requirement("R9", "R11", "K16")
    @pytest.mark.parametrize("answer", [UNKNOWN_KEY, DOWN])
    async def test_it_is_unavailable_where_credits_would_have_to_pay(
        self, answer: FakeAnswer
    ) -> None:
        """The attempt on the own key is told along."""
        stage = Stage(FakeTransport(answer))
        stage.keys.away = {PLATFORM}
        stage.ledger.refuse = decides
        stage.engine.experience.retried("accounts/demo", 0.0)
        for _ in range(9):
            stage.engine.experience.retried("accounts/demo", 0.0)
        with pytest.raises(errors.SharedKeysUnavailableError) as caught:
            await stage.events()
        assert caught.value.retry_after_seconds is not None
        assert len(caught.value.attempts) == 1

    @pytest.mark.requirement("R9", "K16")
    async def test_it_is_unavailable_where_credits_are_asked_for(self) -> None:
        stage = Stage(FakeTransport(SERVED))
        stage.keys.away = {PLATFORM}
        stage.ledger.refuse = decides
        with pytest.raises(errors.SharedKeysUnavailableError):
            await stage.events(Source.CREDITS)
        assert stage.transport.sent == []

    @pytest.mark.requirement("R13", "K16")
    def test_the_plan_names_what_cannot_be_opened(self) -> None:
        closed = unopened(own_key("anthropic", account="platform"))
        plan = planned(shared=account_keys(closed, account="platform"))
        assert plan.shared == ()
        assert ExclusionReason.KEY_UNAVAILABLE in {
            e.reason for e in plan.exclusions if e.provider == "anthropic"
        }


class TestOwnKeys:
    @pytest.mark.requirement("R9")
    @pytest.mark.parametrize("source", [Source.AUTO, Source.OWN_KEY])
    async def test_a_single_one_that_cannot_be_opened_is_unavailable(self, source: Source) -> None:
        stage = Stage(FakeTransport(SERVED), unopened(KEY))
        stage.ledger.refuse = decides
        with pytest.raises(errors.OwnKeysUnknownError):
            await stage.events(source)
        assert stage.transport.sent == []
        assert stage.ledger.asks[0].own_key_state is OwnKeyState.UNKNOWN

    @pytest.mark.requirement("R9", "K5")
    async def test_another_key_serves_in_its_place(self) -> None:
        stage = Stage(FakeTransport(SERVED), unopened(KEY), OTHER)
        await stage.events()
        assert stage.bearers == ["Bearer accounts/demo/keys/other@1"]

    @pytest.mark.requirement("R9", "K5")
    @pytest.mark.parametrize("source", [Source.AUTO, Source.OWN_KEY])
    async def test_credits_never_stand_in_for_it_after_another_key_failed(
        self, source: Source
    ) -> None:
        """Whether it would have served is not known, so nobody is asked to pay."""
        stage = Stage(FakeTransport(UNKNOWN_KEY, SERVED), unopened(KEY), OTHER)
        stage.ledger.refuse = decides
        with pytest.raises(errors.OwnKeysUnknownError) as caught:
            await stage.events(source)
        assert stage.bearers == ["Bearer accounts/demo/keys/other@1"]
        assert len(caught.value.attempts) == 1

    @pytest.mark.requirement("R9")
    async def test_credits_that_are_asked_for_do_not_need_it(self) -> None:
        stage = Stage(FakeTransport(SERVED), unopened(KEY))
        await stage.events(Source.CREDITS)
        assert stage.bearers == ["Bearer accounts/platform/keys/one@1"]

    @pytest.mark.requirement("R7", "R9")
    async def test_nor_that_keyvault_can_be_asked_about_it(self) -> None:
        """The shared keys are still held under their lease."""
        stage = Stage(FakeTransport(SERVED))
        stage.keys.away = {"accounts/demo"}
        await stage.events(Source.CREDITS)
        assert stage.bearers == ["Bearer accounts/platform/keys/one@1"]

    @pytest.mark.requirement("R9")
    async def test_keyvault_away_fails_the_request(self) -> None:
        stage = Stage(FakeTransport(SERVED))
        stage.keys.away = {"accounts/demo"}
        with pytest.raises(PeerUnavailableError):
            await stage.events()
        assert stage.ledger.asks == []
