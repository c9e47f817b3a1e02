# SPDX-License-Identifier: Apache-2.0
"""Runs and jobs on client-held keys, with keyvault, ledger and provider scripted."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from services.router import errors
from services.router.adapters.job_document import decode_job, encode_job
from services.router.domain import jobs
from services.router.domain.jobs import JobOutput
from services.router.domain.keys import BroughtKey, ResealedKey
from services.router.domain.plan import OwnKeyState
from services.router.domain.request import Request, Source, TextInput
from services.router.domain.text import Message, Role, TextPart
from services.router.usecases.engine import Ended, Event
from services.router.usecases.generate import GenerateText
from services.router.usecases.job_keys import OPENED_MAX, StoredJobKeys
from services.router.usecases.ports import Release, StaleKeyError
from services.shared.errors import PeerUnavailableError
from tests.support.engine import FakeKeys, FakeTransport
from tests.support.routing import account_keys
from tests.support.stage import DEADLINE, KEY, MODEL, SERVED, Stage
from tests.unit.router.domain.test_jobs import new_job

HELD = dataclasses.replace(KEY, client_held=True)
BROUGHT = BroughtKey(key=HELD.name, sealed_key=b"sealed", proof=b"proof")
REQUEST_ID = "6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11"


async def events(
    stage: Stage, *brought: BroughtKey, source: Source = Source.OWN_KEY
) -> list[Event]:
    """Run a request that brings keys to its end."""
    request = Request(
        account="accounts/demo",
        request_id=REQUEST_ID,
        model=MODEL,
        source=source,
        input=TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),)),
        stream=True,
        brought=brought,
    )
    return [event async for event in GenerateText(stage.engine)(request, deadline=DEADLINE)]


@pytest.mark.requirement("K10")
class TestRuns:
    async def test_it_is_opened_once_however_often_it_is_sent(self) -> None:
        stage = Stage(FakeTransport(SERVED), HELD)
        stage.keys.stale = 1
        found = await events(stage, BROUGHT)

        assert isinstance(found[-1], Ended)
        assert stage.bearers == [f"Bearer opened {HELD.name}@1"]
        assert stage.keys.openings == [(HELD.name, REQUEST_ID)]

    async def test_what_came_back_sealed_anew_goes_to_the_caller(self) -> None:
        stage = Stage(FakeTransport(SERVED), HELD)
        resealed = ResealedKey(key=HELD.name, sealed_key=b"anew")
        stage.keys.opening = lambda: resealed
        found = await events(stage, BROUGHT)

        assert isinstance(found[-1], Ended)
        assert found[-1].resealed == (resealed,)

    async def test_it_is_not_opened_before_the_ledger_has_granted_the_attempt(self) -> None:
        stage = Stage(FakeTransport(SERVED), HELD)
        stage.ledger.refuse = lambda _: errors.RequestInProgressError("under way")
        with pytest.raises(errors.RequestInProgressError):
            await events(stage, BROUGHT)

        assert not stage.keys.openings

    @pytest.mark.parametrize(
        "refusal",
        [
            errors.ProofRefusedError("used before"),
            errors.SealedKeyRefusedError("another secret"),
            PeerUnavailableError("away", metadata={"peer": "keyvault"}),
        ],
    )
    async def test_a_refusal_ends_the_request_without_falling_back(self, refusal: Any) -> None:
        stage = Stage(FakeTransport(), HELD)
        stage.keys.opening = lambda: refusal
        with pytest.raises(type(refusal)):
            await events(stage, BROUGHT, source=Source.AUTO)
        [(settlement, end)] = stage.ledger.settled

        assert not stage.bearers
        assert isinstance(settlement.terms, Release)
        assert end is not None
        assert not end.succeeded

    async def test_a_key_that_changed_this_moment_means_a_new_plan(self) -> None:
        stage = Stage(FakeTransport(SERVED), HELD)
        faults: list[Exception | None] = [StaleKeyError(), None]
        stage.keys.opening = lambda: faults.pop(0)
        found = await events(stage, BROUGHT)

        assert isinstance(found[-1], Ended)
        assert len(stage.keys.openings) == 2

    async def test_where_it_is_not_brought_credits_need_the_consent_of_a_key_to_be_mended(
        self,
    ) -> None:
        stage = Stage(FakeTransport(SERVED), HELD)
        await events(stage, source=Source.AUTO)
        [ask] = stage.ledger.asks

        assert ask.own_key_state is OwnKeyState.REJECTED
        assert stage.bearers == ["Bearer accounts/platform/keys/one@1"]
        assert not stage.keys.openings

    async def test_where_it_alone_may_pay_the_caller_is_told_to_bring_it(self) -> None:
        stage = Stage(FakeTransport(), HELD)
        stage.ledger.refuse = lambda _: errors.NoUsableOwnKeyError("none")
        with pytest.raises(errors.SealedKeyRefusedError) as caught:
            await events(stage)

        assert caught.value.metadata == {"key": HELD.name, "fault": "MISSING"}


NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = new_job(key=HELD.name, key_version=1, brought=BROUGHT)


@pytest.mark.requirement("K10", "R3")
class TestJobs:
    async def test_its_key_is_opened_once_and_forgotten_with_its_end(self) -> None:
        keys = FakeKeys(account_keys(HELD))
        opener = StoredJobKeys(keys)
        opened = [await opener.open(JOB) for _ in range(2)]
        opener.forget(JOB)
        await opener.open(JOB)

        assert all(key is not None and key.secret.reveal().startswith("opened") for key in opened)
        assert keys.openings == [(HELD.name, JOB.request_id)] * 2

    @pytest.mark.parametrize(
        "refusal", [errors.ProofRefusedError("over"), errors.SealedKeyRefusedError("replaced")]
    )
    async def test_what_keyvault_no_longer_takes_is_a_withdrawn_key(self, refusal: Any) -> None:
        keys = FakeKeys(account_keys(HELD))
        keys.opening = lambda: refusal

        assert await StoredJobKeys(keys).open(JOB) is None

    async def test_a_job_that_does_not_bring_it_opens_nothing(self) -> None:
        keys = FakeKeys(account_keys(HELD))

        assert await StoredJobKeys(keys).open(dataclasses.replace(JOB, brought=None)) is None
        assert not keys.openings

    async def test_so_many_are_kept_open_and_no_more(self) -> None:
        keys = FakeKeys(account_keys(HELD))
        opener = StoredJobKeys(keys)
        for number in range(OPENED_MAX + 1):
            await opener.open(dataclasses.replace(JOB, job_id=f"job-{number}"))
        await opener.open(dataclasses.replace(JOB, job_id="job-0"))
        await opener.open(dataclasses.replace(JOB, job_id=f"job-{OPENED_MAX}"))

        assert len(keys.openings) == OPENED_MAX + 2

    def test_what_it_brings_is_kept_sealed_until_its_end_and_then_erased(self) -> None:
        kept = decode_job(encode_job(JOB))
        running = jobs.accepted(kept, "p1", NOW)
        ended = jobs.succeeded(running, (JobOutput("https://example.com/0"),), None, NOW)

        assert kept.brought == BROUGHT
        assert ended.brought is None
        assert "sealed_key" not in encode_job(ended)
