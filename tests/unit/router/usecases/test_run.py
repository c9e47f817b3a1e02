# SPDX-License-Identifier: Apache-2.0
"""One run, with keyvault, ledger and provider scripted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from services.router import errors
from services.router.domain.attempts import AttemptBilled, UsageBasis
from services.router.domain.keys import AccountKeys, HealthMark, HealthState
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import OwnKeyState
from services.router.domain.request import Request, Source, TextInput
from services.router.domain.text import Message, Role, TextDelta, TextPart
from services.router.usecases.engine import Ended, Started
from services.router.usecases.generate import GenerateText
from services.router.usecases.ports import Capture, Recorded, RecordedState, Release
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.routing import account_keys, own_key
from tests.support.stage import DEADLINE, DOWN, END, KEY, MODEL, SERVED, UNKNOWN_KEY, Stage, chunk


class TestLease:
    @pytest.mark.requirement("K15")
    async def test_a_lease_that_ran_out_before_sending_is_asked_for_anew(self) -> None:
        """The key is unchanged, so the same attempt goes on; nothing was sent under the old one."""
        stage = Stage(FakeTransport(SERVED))
        stage.keys.stale = 1
        events = await stage.events()
        assert isinstance(events[-1], Ended)
        assert stage.bearers == ["Bearer accounts/demo/keys/main@1"]
        assert len(stage.ledger.asks) == 1

    @pytest.mark.requirement("K15")
    async def test_a_key_disabled_meanwhile_is_never_sent(self) -> None:
        """The attempt is released and the request planned anew: credits serve it."""
        stage = Stage(FakeTransport(SERVED))
        stage.keys.stale = 1
        disabled = dataclasses.replace(KEY, enabled=False, etag="2")
        stage.keys.anew = [account_keys(disabled), account_keys(disabled)]
        events = await stage.events()
        assert isinstance(events[-1], Ended)
        assert stage.bearers == ["Bearer accounts/platform/keys/one@1"]
        settlement = stage.ledger.asks[1].settlement
        assert settlement is not None
        assert isinstance(settlement.terms, Release)
        assert events[-1].receipt.attempts[0].billed is AttemptBilled.NOT_SENT


class TestVersions:
    @pytest.mark.requirement("K7", "K14", "R9")
    async def test_a_401_on_an_old_version_is_tried_once_on_the_newer_one(self) -> None:
        stage = Stage(FakeTransport(UNKNOWN_KEY, SERVED))
        stage.keys.anew = [account_keys(dataclasses.replace(KEY, version=2, etag="2"))]
        events = await stage.events()
        assert stage.bearers == [
            "Bearer accounts/demo/keys/main@1",
            "Bearer accounts/demo/keys/main@2",
        ]
        assert isinstance(events[-1], Ended)
        own = stage.ledger.asks[1].own
        assert own is not None
        assert own.key.version == 2
        assert stage.keys.reports == [(KEY.name, Outcome.INVALID_KEY)]

    @pytest.mark.requirement("K7", "R9")
    async def test_in_an_overlap_a_401_is_tried_once_on_the_version_before(self) -> None:
        """Providers take a while to know a new key everywhere."""
        before = dataclasses.replace(KEY, ends_at=60.0)
        replaced = dataclasses.replace(KEY, version=2, etag="2", previous=before)
        stage = Stage(FakeTransport(UNKNOWN_KEY, SERVED))
        stage.keys.accounts["accounts/demo"] = account_keys(replaced)
        stage.keys.anew = [account_keys(replaced)]
        events = await stage.events()
        assert stage.bearers == [
            "Bearer accounts/demo/keys/main@2",
            "Bearer accounts/demo/keys/main@1",
        ]
        assert isinstance(events[-1], Ended)
        own = stage.ledger.asks[1].own
        assert own is not None
        assert own.key.version == 1
        assert stage.keys.reports == [(KEY.name, Outcome.INVALID_KEY)]

    @pytest.mark.requirement("K7", "K15")
    async def test_the_version_before_goes_on_under_a_fresh_lease_while_the_overlap_lasts(
        self,
    ) -> None:
        """Keyvault is told of the 401 meanwhile, so what was held is asked for anew."""
        before = dataclasses.replace(KEY, etag="2")
        replaced = dataclasses.replace(KEY, version=2, etag="2", previous=before)
        stage = Stage(FakeTransport(UNKNOWN_KEY, SERVED))
        stage.keys.accounts["accounts/demo"] = account_keys(replaced)
        stage.keys.anew = [account_keys(replaced), account_keys(replaced)]
        stage.keys.stale_anew = 1
        events = await stage.events()
        assert isinstance(events[-1], Ended)
        assert len(stage.ledger.asks) == 2
        assert stage.bearers == [
            "Bearer accounts/demo/keys/main@2",
            "Bearer accounts/demo/keys/main@1",
        ]

    @pytest.mark.requirement("K7", "R9", "R11")
    async def test_the_version_before_is_tried_no_more_than_once(self) -> None:
        replaced = dataclasses.replace(KEY, version=2, etag="2", previous=KEY)
        stage = Stage(FakeTransport(UNKNOWN_KEY, UNKNOWN_KEY))
        stage.keys.accounts["accounts/demo"] = account_keys(replaced)
        stage.keys.anew = [account_keys(replaced)]
        with pytest.raises(errors.KeyInvalidError):
            await stage.events(Source.OWN_KEY)
        assert len(stage.bearers) == 2

    @pytest.mark.requirement("R9", "R11")
    async def test_a_401_without_a_newer_version_reads_key_invalid(self) -> None:
        stage = Stage(FakeTransport(UNKNOWN_KEY))
        with pytest.raises(errors.KeyInvalidError) as caught:
            await stage.events(Source.OWN_KEY)
        assert len(stage.bearers) == 1
        assert len(caught.value.attempts) == 1
        settlement, end = stage.ledger.settled[0]
        assert isinstance(settlement.terms, Release)
        assert end is not None
        assert not end.succeeded


class TestLease60:
    @pytest.mark.requirement("L3", "L13")
    async def test_while_it_runs_the_hold_is_renewed_with_the_usage_so_far(self) -> None:
        """Every 20 s; what was delivered is in the checkpoint, marked as estimated."""
        pause = asyncio.Event()
        stage = Stage(FakeTransport(FakeAnswer(pieces=(chunk("Hello you"), pause, END))))
        events = stage.run()
        await anext(events)
        await anext(events)
        stage.clock.advance(20.0)
        async with asyncio.timeout(1):
            while not stage.ledger.checkpoints:
                await asyncio.sleep(0)
        checkpoint = stage.ledger.checkpoints[0]
        assert checkpoint.delivered
        assert checkpoint.basis is UsageBasis.ESTIMATED
        assert checkpoint.usage.output_tokens == 3
        pause.set()
        assert isinstance([event async for event in events][-1], Ended)


class TestCallerLeaves:
    @pytest.mark.requirement("R2", "L9")
    async def test_where_leaving_stops_the_bill_the_call_is_cancelled(self) -> None:
        """What was delivered is captured by the estimate, and the request ends unheard."""
        stage = Stage(FakeTransport(FakeAnswer(pieces=(chunk("Hello you"), asyncio.Event()))))
        events = stage.run(Source.CREDITS)
        await anext(events)
        await anext(events)
        await events.aclose()
        await stage.engine.work.drain(1)
        settlement, end = stage.ledger.settled[0]
        assert isinstance(settlement.terms, Capture)
        assert settlement.terms.delivered
        assert settlement.terms.basis is UsageBasis.ESTIMATED
        assert end is not None
        assert not end.succeeded

    @pytest.mark.requirement("R2", "L9")
    async def test_where_it_does_not_the_answer_is_drained_and_settled_exactly(self) -> None:
        pause = asyncio.Event()
        transport = FakeTransport(FakeAnswer(pieces=(chunk("Hello you"), pause, END)))
        stage = Stage(transport, bills_after_disconnect=True)
        events = stage.run(Source.CREDITS)
        await anext(events)
        await anext(events)
        await events.aclose()
        pause.set()
        await stage.engine.work.drain(1)
        settlement, end = stage.ledger.settled[0]
        assert isinstance(settlement.terms, Capture)
        assert settlement.terms.basis is UsageBasis.EXACT
        assert settlement.terms.usage.output_tokens == 2
        assert end is not None
        assert not end.succeeded


class TestStream:
    @pytest.mark.requirement("R2", "R12")
    async def test_start_content_end(self) -> None:
        events = await Stage(FakeTransport(SERVED)).events()
        assert [type(event) for event in events] == [Started, TextDelta, Ended]

    @pytest.mark.requirement("R2")
    async def test_the_end_marker_ends_it_although_the_connection_stays_open(self) -> None:
        open_forever = FakeAnswer(pieces=(chunk("Hello"), END, asyncio.Event()))
        async with asyncio.timeout(1):
            events = await Stage(FakeTransport(open_forever)).events()
        assert isinstance(events[-1], Ended)

    @pytest.mark.requirement("R2", "L9")
    async def test_a_stream_cut_after_content_is_broken_and_not_tried_again(self) -> None:
        stage = Stage(FakeTransport(FakeAnswer(pieces=(chunk("Hello"),))))
        with pytest.raises(errors.StreamBrokenError):
            await stage.events()
        assert len(stage.transport.sent) == 1
        settlement, _ = stage.ledger.settled[0]
        assert isinstance(settlement.terms, Capture)
        assert not settlement.terms.delivered


class TestReplay:
    @pytest.mark.requirement("R14")
    async def test_a_run_that_lapsed_is_told_from_the_ledgers_record(self) -> None:
        """No outcome was stored: the repeat fails with what was settled."""
        stage = Stage(FakeTransport(SERVED))
        stage.ledger.answer = Recorded(state=RecordedState.FAILED_CHARGED, outcome=b"", attempts=())
        with pytest.raises(errors.RequestAbandonedError):
            await stage.events()
        assert stage.transport.sent == []


def out_of_money(*, until: float) -> Any:
    """Give an own key whose provider said it had no credit."""
    return dataclasses.replace(KEY, health=(HealthMark(HealthState.NO_CREDIT, "", until),))


class TestTrials:
    @pytest.mark.requirement("K14")
    async def test_one_request_finds_out_whether_a_key_has_credit_again(self) -> None:
        """Meanwhile others act as if it had none; its first content tells them and keyvault."""
        pause, end = asyncio.Event(), asyncio.Event()
        answer = FakeAnswer(pieces=(pause, chunk("Hello"), end, END))
        stage = Stage(FakeTransport(answer), out_of_money(until=0.0))
        trial = asyncio.create_task(anext(first := stage.run()))
        async with asyncio.timeout(1):
            while not stage.transport.sent:
                await asyncio.sleep(0)
        other = asyncio.create_task(anext(second := stage.run()))
        async with asyncio.timeout(1):
            while len(stage.transport.sent) < 2:
                await asyncio.sleep(0)
        pause.set()
        await asyncio.gather(trial, other)
        assert stage.bearers == [
            "Bearer accounts/demo/keys/main@1",
            "Bearer accounts/platform/keys/one@1",
        ]
        assert stage.ledger.asks[1].own_key_state is OwnKeyState.NO_CREDIT
        assert stage.keys.reports == [(KEY.name, None)]
        third = stage.run()
        await anext(third)
        assert stage.bearers[2] == "Bearer accounts/demo/keys/main@1"
        end.set()
        for events in (first, second, third):
            await events.aclose()
        await stage.engine.work.drain(1)

    @pytest.mark.requirement("K14", "R9")
    async def test_before_its_time_nobody_tries_it(self) -> None:
        stage = Stage(FakeTransport(SERVED), out_of_money(until=5.0))
        await stage.events()
        assert stage.bearers == ["Bearer accounts/platform/keys/one@1"]


class TestRetryTokens:
    @pytest.mark.requirement("R10", "R11")
    async def test_an_account_whose_calls_all_fail_is_left_with_its_first_tries(self) -> None:
        stage = Stage(FakeTransport(DOWN))
        stage.engine.experience.retried("accounts/demo", 0.0)
        for _ in range(9):
            stage.engine.experience.retried("accounts/demo", 0.0)
        with pytest.raises(errors.ProviderDownError):
            await stage.events(Source.OWN_KEY)
        assert len(stage.transport.sent) == 1


class TestIsolation:
    @pytest.mark.requirement("R16", "K15")
    async def test_a_key_is_never_seen_for_another_account(self) -> None:
        """Many accounts at once, some failing over: each bearer belongs to its account."""
        accounts = [f"a{n}" for n in range(200)]
        stage = Stage(FakeTransport(SERVED))
        for name in accounts:
            keys = AccountKeys(
                account=f"accounts/{name}", keys=(own_key("openai", "main", account=name),)
            )
            stage.keys.accounts[keys.account] = keys

        async def one(name: str) -> None:
            request = Request(
                account=f"accounts/{name}",
                request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
                model=MODEL,
                input=TextInput(messages=(Message(Role.USER, (TextPart(name),)),)),
                stream=True,
            )
            async for _ in GenerateText(stage.engine)(request, deadline=DEADLINE):
                pass

        await asyncio.gather(*(one(name) for name in accounts))
        assert len(stage.transport.sent) == len(accounts)
        for sent in stage.transport.sent:
            name = json.loads(sent.body)["messages"][0]["content"]
            name = name if isinstance(name, str) else name[0]["text"]
            assert sent.headers["authorization"] == f"Bearer accounts/{name}/keys/main@1"
            assert sent.url.startswith("https://api.openai.com/")
