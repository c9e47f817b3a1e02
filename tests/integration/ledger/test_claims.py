# SPDX-License-Identifier: Apache-2.0
"""The claim of a request: one run at a time, outcomes on record, leases that run out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb

from tests.support.ledger import Run, RunningLedger, captured, refused, running_ledger

READY = pb.OWN_KEY_STATE_READY
SUCCESS = pb.RequestEnd(succeeded=True, outcome=b"what a repeat is told")
FAILURE = pb.RequestEnd(succeeded=False, outcome=b"why it failed")
RELEASE = pb.Settlement(sequence=1, release=pb.ReleaseTerms(outcome="rate_limited"))


@pytest.fixture
async def brief(tmp_path: Path, ledger_dsn: str) -> AsyncIterator[RunningLedger]:
    """A ledger whose leases last a second and whose sweeper looks often."""
    async with running_ledger(tmp_path, ledger_dsn, sweep_seconds="0.1") as running:
        yield running


async def state_of(books: RunningLedger, run: Run) -> pb.RequestRecord:
    """Return what is on record of a request."""
    response = await books.backend.GetAuthorization(
        pb.GetAuthorizationRequest(account=run.account, request_id=run.request_id)
    )
    return response.record


async def lapsed(books: RunningLedger, run: Run) -> pb.RequestRecord:
    """End a run's lease, and wait until the sweeper has settled it."""
    await books.run_out(run)
    async with asyncio.timeout(10):
        while (record := await state_of(books, run)).state == pb.REQUEST_STATE_RUNNING:
            await asyncio.sleep(0.05)
    return record


@pytest.mark.requirement("R14", "L11")
class TestClaims:
    async def test_another_claimant_of_a_running_request_is_told_to_wait(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        status = await refused(run.again().authorize())
        assert status.code is grpc.StatusCode.UNAVAILABLE
        assert status.reason == "REQUEST_IN_PROGRESS"
        assert status.retry_after_seconds is not None
        assert 0 < status.retry_after_seconds <= 2
        assert (await books.balance(account)).reserved_nano_credits == 100

    async def test_after_success_a_repeat_is_told_the_outcome(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.capture(60, end=SUCCESS)
        response = await run.again().authorize()
        assert response.recorded.state == pb.REQUEST_STATE_SUCCEEDED
        assert response.recorded.outcome == SUCCESS.outcome
        assert [a.charged_nano_credits for a in response.recorded.authorizations] == [60]
        assert (await books.balance(account)).reserved_nano_credits == 0

    async def test_after_a_failure_that_charged_the_outcome_stands(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.capture(60, end=FAILURE)
        response = await run.again().authorize()
        assert response.recorded.state == pb.REQUEST_STATE_FAILED_CHARGED
        assert response.recorded.outcome == FAILURE.outcome

    async def test_after_a_failure_that_charged_nothing_it_runs_anew(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.release(end=FAILURE)
        again = run.again()
        first = (await run.authorize()).granted
        assert first.state == pb.AUTHORIZATION_STATE_RELEASED
        granted = (await again.authorize()).granted
        assert granted.name.endswith("-2-1")
        assert (await refused(run.again().authorize())).reason == "REQUEST_IN_PROGRESS"

    async def test_an_own_key_that_may_have_been_billed_is_a_charge(
        self, books: RunningLedger
    ) -> None:
        account = await books.account()
        await books.set_mode(account, "OWN_KEY_FIRST")
        run = books.run(account)
        await run.authorize(own_key_state=READY)
        await run.capture(60, delivered=False, end=FAILURE)
        assert (await run.again().authorize()).recorded.state == pb.REQUEST_STATE_FAILED_CHARGED

    async def test_after_a_refusal_another_claimant_runs_anew(self, books: RunningLedger) -> None:
        account = await books.account(owns=10)
        run = books.run(account)
        await refused(run.authorize())
        assert (await state_of(books, run)).state == pb.REQUEST_STATE_FAILED_UNCHARGED
        await books.grant(account, 1000)
        assert (await run.again().authorize()).granted.held_nano_credits == 100

    async def test_after_a_refusal_the_same_claimant_may_go_on(self, books: RunningLedger) -> None:
        account = await books.account(owns=10)
        run = books.run(account)
        await refused(run.authorize())
        assert (await run.authorize(2, worst_case=10)).granted.sequence == 2

    async def test_a_settlement_stands_though_the_next_attempt_is_refused(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=100)
        run = books.run(account)
        await run.authorize()
        charge = pb.Settlement(sequence=1, capture=captured(60))
        status = await refused(run.authorize(2, settlement=charge))
        assert status.reason == "INSUFFICIENT_CREDITS"
        assert (await books.balance(account)).posted_nano_credits == 40
        record = await state_of(books, run)
        assert record.state == pb.REQUEST_STATE_FAILED_CHARGED
        # The router may still say how it ended, with the settlement that stands.
        await run.capture(60, end=FAILURE)
        assert (await state_of(books, run)).outcome == FAILURE.outcome

    async def test_an_end_is_recorded_once(self, books: RunningLedger) -> None:
        account = await books.account(owns=100)
        run = books.run(account)
        await run.authorize()
        await run.capture(60, end=SUCCESS)
        await run.capture(60, end=SUCCESS)
        assert (await refused(run.capture(60, end=FAILURE))).reason == "ALREADY_SETTLED"


@pytest.mark.requirement("R14", "L13")
class TestOrder:
    async def test_attempts_come_one_by_one(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        status = await refused(run.authorize(2))
        assert status.reason == "SEQUENCE_OUT_OF_ORDER"
        assert status.metadata == {"sequence": "2", "expected": "1"}
        await run.authorize()
        assert (await refused(run.authorize(3))).metadata["expected"] == "2"

    async def test_the_attempt_before_must_be_settled(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        assert (await refused(run.authorize(2))).reason == "SEQUENCE_OUT_OF_ORDER"
        assert (await run.authorize(2, settlement=RELEASE)).granted.sequence == 2

    async def test_the_first_attempt_has_nothing_to_settle(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        status = await refused(books.run(account).authorize(settlement=RELEASE))
        assert status.reason == "SEQUENCE_OUT_OF_ORDER"

    async def test_a_run_that_has_ended_does_not_go_on(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.release(end=FAILURE)
        assert (await refused(run.authorize(2))).reason == "SEQUENCE_OUT_OF_ORDER"

    async def test_a_request_does_not_end_with_a_later_attempt_open(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.authorize(2, settlement=RELEASE)
        status = await refused(run.release(end=FAILURE))
        assert status.reason == "SEQUENCE_OUT_OF_ORDER"


@pytest.mark.requirement("L3", "L13")
class TestLeases:
    async def test_without_a_checkpoint_a_lapsed_hold_is_free(self, brief: RunningLedger) -> None:
        account = await brief.account(owns=1000)
        run = brief.run(account)
        await run.authorize()
        record = await lapsed(brief, run)
        assert record.state == pb.REQUEST_STATE_FAILED_UNCHARGED
        assert record.authorizations[0].state == pb.AUTHORIZATION_STATE_LAPSED
        assert (await brief.balance(account)).available_nano_credits == 1000
        assert (await run.again().authorize()).granted.sequence == 1

    async def test_a_lapsed_hold_is_settled_at_its_last_checkpoint(
        self, brief: RunningLedger
    ) -> None:
        account = await brief.account(owns=1000)
        run = brief.run(account)
        await run.authorize()
        await run.renew(checkpoint=captured(40))
        await run.renew(checkpoint=captured(30))
        record = await lapsed(brief, run)
        assert record.state == pb.REQUEST_STATE_FAILED_CHARGED
        assert record.authorizations[0].charged_nano_credits == 40
        assert (await brief.balance(account)).posted_nano_credits == 960
        assert (await refused(run.renew())).reason == "LEASE_LAPSED"

    async def test_renewing_keeps_a_lease(self, brief: RunningLedger) -> None:
        """The sweeper settles another run of the account and leaves the renewed one alone."""
        account = await brief.account(owns=1000)
        run, other = brief.run(account), brief.run(account)
        first = (await run.authorize()).granted
        await other.authorize()
        renewed = await run.renew()
        assert renewed.lease_expire_time.ToDatetime() > first.lease_expire_time.ToDatetime()
        await lapsed(brief, other)
        assert (await state_of(brief, run)).state == pb.REQUEST_STATE_RUNNING
        assert (await run.capture(10)).charged_nano_credits == 10

    async def test_a_late_capture_corrects_what_the_checkpoint_charged(
        self, brief: RunningLedger
    ) -> None:
        account = await brief.account(owns=1000)
        run = brief.run(account)
        await run.authorize()
        await run.renew(checkpoint=captured(40))
        await lapsed(brief, run)
        settled = await run.capture(70, end=SUCCESS)
        assert settled.state == pb.AUTHORIZATION_STATE_CAPTURED
        assert settled.charged_nano_credits == 70
        assert (await brief.balance(account)).posted_nano_credits == 930
        assert await run.capture(70, end=SUCCESS) == settled
        assert (await state_of(brief, run)).state == pb.REQUEST_STATE_SUCCEEDED

    async def test_a_late_capture_never_costs_more_than_the_hold(
        self, brief: RunningLedger
    ) -> None:
        account = await brief.account(owns=1000)
        run = brief.run(account)
        await run.authorize(worst_case=100)
        await lapsed(brief, run)
        settled = await run.capture(170)
        assert settled.charged_nano_credits == 100
        assert settled.absorbed_nano_credits == 70

    async def test_a_late_release_gives_the_checkpoint_back(self, brief: RunningLedger) -> None:
        account = await brief.account(owns=1000)
        run = brief.run(account)
        await run.authorize()
        await run.renew(checkpoint=captured(40))
        await lapsed(brief, run)
        await run.release()
        assert (await brief.balance(account)).posted_nano_credits == 1000
        assert (await state_of(brief, run)).state == pb.REQUEST_STATE_FAILED_UNCHARGED

    async def test_a_run_that_was_taken_over_costs_the_customer_nothing(
        self, brief: RunningLedger
    ) -> None:
        account = await brief.account(owns=1000)
        run = brief.run(account)
        await run.authorize()
        await lapsed(brief, run)
        again = run.again()
        await again.authorize()
        late = await run.capture(70, end=SUCCESS)
        assert (late.charged_nano_credits, late.absorbed_nano_credits) == (0, 70)
        await again.capture(50, end=SUCCESS)
        assert (await brief.balance(account)).posted_nano_credits == 950

    async def test_a_new_claimant_need_not_wait_for_the_sweeper(
        self, tmp_path: Path, ledger_dsn: str
    ) -> None:
        async with running_ledger(tmp_path, ledger_dsn, sweep_seconds="600") as books:
            account = await books.account(owns=100)
            run = books.run(account)
            await run.authorize()
            await books.run_out(run)
            assert (await run.again().authorize()).granted.held_nano_credits == 100

    async def test_an_own_key_that_lapsed_may_have_been_billed(self, brief: RunningLedger) -> None:
        account = await brief.account()
        await brief.set_mode(account, "OWN_KEY_FIRST")
        run = brief.run(account)
        await run.authorize(own_key_state=READY)
        assert (await lapsed(brief, run)).state == pb.REQUEST_STATE_FAILED_CHARGED
