# SPDX-License-Identifier: Apache-2.0
"""What users of other gateways complain about, as one run here has it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from services.router import errors
from services.router.domain.keys import OwnKey
from services.router.domain.outcomes import Outcome
from services.router.domain.request import Request, Source, TextInput
from services.router.domain.text import Message, Role, TextPart
from services.router.domain.turns import KEYS_MAX
from services.router.usecases.engine import Ended, Started
from services.router.usecases.explain import Explain
from services.router.usecases.ports import PLATFORM, Ask
from services.shared.errors import ServiceError
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.routing import account_keys, own_key
from tests.support.stage import DEADLINE, DOWN, END, KEY, MODEL, SERVED, UNKNOWN_KEY, Stage, chunk

OUT_OF_MONEY = FakeAnswer(status=429, pieces=(b'{"error":{"code":"insufficient_quota"}}',))
LIMITED = FakeAnswer(status=429, pieces=(b'{"error":{"code":"rate_limit_exceeded"}}',))
REQUEST = Request(
    account="accounts/demo",
    request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
    model=MODEL,
    input=TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),)),
    stream=True,
)


def keys(count: int, account: str = "demo") -> tuple[OwnKey, ...]:
    """Give so many keys, in order."""
    return tuple(own_key("openai", f"k{n}", account=account, order=n) for n in range(count))


def refuses_credits(ask: Ask) -> ServiceError | None:
    """Let no account fall back."""
    if ask.own is None:
        return errors.FallbackNotAllowedError("no consent")
    return None


class TestKeysWalked:
    @pytest.mark.requirement("R10", "K5")
    async def test_healthy_keys_are_not_left_unused_for_want_of_retries(self) -> None:
        """Complaint 5.11: walking keys has a budget of its own; the last of sixteen serves."""
        bad = [OUT_OF_MONEY] * (KEYS_MAX - 1)
        stage = Stage(FakeTransport(*bad, SERVED), *keys(KEYS_MAX))
        events = await stage.events(Source.OWN_KEY)
        assert isinstance(events[-1], Ended)
        assert len(set(stage.bearers)) == len(stage.bearers) == KEYS_MAX

    @pytest.mark.requirement("R10", "K14")
    @pytest.mark.parametrize("answer", [OUT_OF_MONEY, UNKNOWN_KEY])
    async def test_a_bad_key_is_not_picked_again(self, answer: FakeAnswer) -> None:
        stage = Stage(FakeTransport(answer, answer, SERVED), *keys(3))
        await stage.events(Source.OWN_KEY)
        assert stage.bearers == [f"Bearer accounts/demo/keys/k{n}@1" for n in range(3)]

    @pytest.mark.requirement("R10")
    async def test_attempts_do_not_multiply(self) -> None:
        """Transient retries are counted over all keys, not for each."""
        stage = Stage(FakeTransport(DOWN), *keys(3))
        stage.ledger.refuse = refuses_credits
        stage.engine.experience.retried("accounts/demo", 0.0)
        for _ in range(9):
            stage.engine.experience.retried("accounts/demo", 0.0)
        with pytest.raises(errors.ProviderDownError):
            await stage.events()
        assert len(stage.transport.sent) <= 3


class TestRateLimits:
    @pytest.mark.requirement("R10")
    async def test_without_any_hint_the_next_key_serves_at_once(self) -> None:
        """A provider that names no time must not stop the walk, nor bench its key for hours."""
        stage = Stage(FakeTransport(LIMITED, SERVED), *keys(2))
        assert isinstance((await stage.events(Source.OWN_KEY))[-1], Ended)
        assert stage.clock.monotonic() == 0.0
        assert stage.keys.reports == [("accounts/demo/keys/k0", Outcome.RATE_LIMITED)]

    @pytest.mark.requirement("R10", "R11")
    async def test_all_cooling_says_when_to_come_back(self) -> None:
        """The soonest of the shared keys, as a duration."""
        slow = dataclasses.replace(LIMITED, headers={"retry-after": "90"})
        soon = dataclasses.replace(LIMITED, headers={"retry-after": "75"})
        stage = Stage(FakeTransport(slow, soon))
        stage.keys.accounts[PLATFORM] = account_keys(
            *keys(2, account="platform"), account="platform"
        )
        with pytest.raises(errors.ServiceCapacityError) as caught:
            await stage.events(Source.CREDITS)
        assert caught.value.retry_after_seconds == 75.0
        assert len(caught.value.attempts) == 2


class TestStreams:
    @pytest.mark.requirement("R2", "R9")
    async def test_after_content_no_other_key_repeats_the_text(self) -> None:
        cut = FakeAnswer(pieces=(chunk("Hello"),))
        stage = Stage(FakeTransport(cut, SERVED), *keys(2))
        with pytest.raises(errors.StreamBrokenError):
            await stage.events()
        assert len(stage.transport.sent) == 1

    @pytest.mark.requirement("R2", "R12")
    async def test_before_content_another_key_serves_and_is_the_one_that_is_named(self) -> None:
        late = {"error": {"code": "server_error", "message": "x"}}
        failing = FakeAnswer(pieces=(b"data: " + json.dumps(late).encode() + b"\n\n",))
        first, second = keys(2)
        stage = Stage(
            FakeTransport(failing, SERVED), first, dataclasses.replace(second, hint="sk-…2222")
        )
        for _ in range(10):
            stage.engine.experience.retried("accounts/demo", 0.0)
        events = await stage.events(Source.OWN_KEY)
        [started] = [event for event in events if isinstance(event, Started)]
        assert started.key_hint == "sk-…2222"

    @pytest.mark.requirement("R2")
    async def test_an_end_without_the_provider_s_own_end_is_an_error(self) -> None:
        """A connection that closes after whole events is no success."""
        unfinished = FakeAnswer(pieces=(chunk("Hello"), END.split(b"\n\n")[1] + b"\n\n"))
        stage = Stage(FakeTransport(unfinished))
        with pytest.raises(errors.StreamBrokenError):
            await stage.events()


class TestExplain:
    @pytest.mark.requirement("R13")
    async def test_a_request_walks_the_plan_that_was_explained(self) -> None:
        """Every candidate, in its order, own keys before shared ones."""
        stage = Stage(FakeTransport(OUT_OF_MONEY), *keys(3))
        stage.keys.accounts[PLATFORM] = account_keys(
            *keys(2, account="platform"), account="platform"
        )
        told = await Explain(stage.engine)(REQUEST, deadline=DEADLINE)
        with pytest.raises(errors.ServiceCapacityError):
            await stage.events()
        explained = [f"Bearer {c.key.name}@1" for c in (*told.plan.own, *told.plan.shared)]
        assert stage.bearers == explained
        assert told.grant is not None

    @pytest.mark.requirement("R13", "R9")
    async def test_the_ledger_s_refusal_is_part_of_it(self) -> None:
        stage = Stage(FakeTransport(SERVED), dataclasses.replace(KEY, enabled=False))
        stage.ledger.refuse = refuses_credits
        told = await Explain(stage.engine)(REQUEST, deadline=DEADLINE)
        assert isinstance(told.refusal, errors.FallbackNotAllowedError)
        assert stage.ledger.asks[0].dry_run
        assert stage.transport.sent == []
