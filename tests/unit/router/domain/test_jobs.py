# SPDX-License-Identifier: Apache-2.0
"""A job's life, event by event: what it becomes, what it is settled for, what is done next."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from services.router.domain import jobs as rules
from services.router.domain.attempts import UsageBasis
from services.router.domain.jobs import (
    Action,
    Cancel,
    Job,
    JobOutput,
    JobState,
    decide,
)
from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Funding
from services.router.domain.prices import Price, Rates
from services.router.domain.request import Source
from services.router.domain.text import Usage
from tests.support.clock import EPOCH

pytestmark = pytest.mark.requirement("R3")

NOW = EPOCH
IMAGE = Rates(input=0, cached_input=0, cache_write=0, output=0, image=3_000_000)
MACHINE = Rates(input=0, cached_input=0, cache_write=0, output=0, machine_second=975_000)
OUTPUT = (JobOutput("https://replicate.delivery/x/out-0.png"),)


def new_job(**fields: Any) -> Job:
    """A start under way: one FLUX image on an own key, three thousandths of a dollar."""
    job = Job(
        account="accounts/demo",
        job_id="job-1",
        request_id="1",
        claimant="claimant-0123456789",
        fingerprint=b"f" * 32,
        fingerprint_version=1,
        source=Source.AUTO,
        sequence=1,
        provider="replicate",
        model="black-forest-labs/flux-schnell",
        provider_model="black-forest-labs/flux-schnell",
        funding=Funding.OWN_KEY,
        fallback=False,
        key="accounts/demo/keys/main",
        key_version=1,
        key_hint="r8_…0000",
        price=Price("price", IMAGE),
        asked=Usage(input_tokens=0, output_tokens=0, images=1),
        estimate_nano_usd=3_000_000,
        create_time=NOW,
        renew_time=NOW + rules.RENEW_AFTER,
        due_time=NOW,
    )
    return dataclasses.replace(job, **fields)


def running(**fields: Any) -> Job:
    """A job that its provider has."""
    return dataclasses.replace(rules.accepted(new_job(), "p1", NOW), **fields)


def failure(outcome: Outcome, **fields: Any) -> Failure:
    """A call at the provider that failed."""
    settings: dict[str, Any] = {"billed": Billed.REFUSED, "message": "no", **fields}
    return Failure(outcome=outcome, **settings)


class TestStart:
    def test_a_start_found_under_way_by_another_is_given_up_and_never_sent_again(self) -> None:
        """Whoever takes a job over in STARTING cannot know whether its start arrived."""
        job = new_job()
        assert decide(job, NOW) is Action.GIVE_UP_START
        lost = rules.lost_at_start(job, NOW)
        assert (lost.state, lost.failure and lost.failure.outcome) == (
            JobState.FAILED,
            rules.START_UNKNOWN,
        )
        assert decide(lost, NOW) is Action.SETTLE

    @pytest.mark.requirement("L8", "L9")
    def test_a_lost_start_keeps_the_estimate_and_counts_as_not_delivered(self) -> None:
        """An own key's budget keeps what may have been billed; credits pay nothing for it."""
        terms = rules.lost_at_start(new_job(), NOW).settlement
        assert terms is not None
        assert (terms.cost_nano_usd, terms.delivered, terms.basis) == (
            3_000_000,
            False,
            UsageBasis.ESTIMATED,
        )

    def test_an_accepted_start_is_polled_a_second_later(self) -> None:
        job = running()
        assert (job.state, job.due_time) == (JobState.QUEUED, NOW + timedelta(seconds=1))
        assert decide(job, job.due_time) is Action.POLL


class TestPolling:
    def test_pauses_grow_up_to_ten_seconds(self) -> None:
        job, pauses = running(), []
        for _ in range(9):
            job = rules.progressed(job, running=True, progress_percent=None, now=NOW)
            pauses.append((job.due_time - NOW).total_seconds())
        assert pauses[:3] == [1.0, 1.5, 2.25]
        assert pauses[-1] == rules.POLL_SECONDS_MAX

    def test_a_rate_limit_is_waited_out_and_is_no_loss(self) -> None:
        job = running()
        for _ in range(rules.REFUSALS_MAX + 1):
            hint = failure(Outcome.RATE_LIMITED, retry_after_seconds=20.0)
            job = rules.missed(job, hint, NOW)
        assert (job.state, job.due_time) == (JobState.QUEUED, NOW + timedelta(seconds=20))

    def test_a_job_the_provider_refuses_to_tell_of_is_lost_after_five_times(self) -> None:
        job = running()
        for _ in range(rules.REFUSALS_MAX - 1):
            job = rules.missed(job, failure(Outcome.NOT_FOUND), NOW)
        assert not job.state.ended
        job = rules.missed(job, failure(Outcome.NOT_FOUND), NOW)
        assert job.state is JobState.FAILED
        assert job.settlement is not None
        assert job.settlement.cost_nano_usd == job.estimate_nano_usd

    def test_an_answer_ends_the_row_of_refusals(self) -> None:
        job = rules.missed(running(), failure(Outcome.NOT_FOUND), NOW)
        job = rules.progressed(job, running=False, progress_percent=150, now=NOW)
        assert (job.refusals, job.progress_percent, job.state) == (0, 100, JobState.QUEUED)

    def test_a_hold_is_renewed_every_twenty_seconds_until_the_end(self) -> None:
        job = running()
        assert not job.renew_due(NOW + timedelta(seconds=19))
        assert job.renew_due(NOW + timedelta(seconds=20))
        ended = rules.succeeded(job, OUTPUT, None, NOW)
        assert not ended.renew_due(NOW + timedelta(hours=1))


class TestEnd:
    def test_success_is_settled_by_what_came_out(self) -> None:
        job = rules.succeeded(running(), (*OUTPUT, *OUTPUT), 500, NOW)
        assert job.settlement is not None
        assert (job.settlement.usage.images, job.settlement.cost_nano_usd) == (2, 6_000_000)
        assert (job.settlement.delivered, job.settlement.basis) == (True, UsageBasis.EXACT)

    def test_hardware_is_settled_by_the_time_it_worked(self) -> None:
        job = running(price=Price("price", MACHINE), asked=Usage(input_tokens=0, output_tokens=0))
        done = rules.succeeded(job, OUTPUT, 2_500, NOW)
        assert done.settlement is not None
        assert done.settlement.cost_nano_usd == 2_437_500

    def test_success_without_output_is_a_failure_that_delivered_nothing(self) -> None:
        job = rules.succeeded(running(), (), None, NOW)
        assert job.state is JobState.FAILED
        assert job.settlement is not None
        assert not job.settlement.delivered

    def test_a_failure_costs_what_the_machine_worked_and_no_output(self) -> None:
        told = failure(Outcome.CONTENT_FILTERED, billed=Billed.MAYBE_BILLED)
        job = rules.reported_failure(running(price=Price("p", MACHINE)), told, 1_000, NOW)
        assert job.failure is not None
        assert job.failure.outcome == Outcome.CONTENT_FILTERED
        assert job.settlement is not None
        assert (job.settlement.cost_nano_usd, job.settlement.delivered) == (975_000, False)

    def test_an_unpriced_job_is_settled_without_a_cost(self) -> None:
        job = rules.succeeded(running(price=None, estimate_nano_usd=None), OUTPUT, None, NOW)
        assert job.settlement is not None
        assert job.settlement.cost_nano_usd is None

    def test_settling_is_tried_in_growing_pauses_for_the_same_terms(self) -> None:
        job = rules.succeeded(running(), OUTPUT, None, NOW)
        again = rules.settled(rules.settled(job, None, NOW), None, NOW)
        assert again.settlement == job.settlement
        assert again.due_time == NOW + timedelta(seconds=2)
        assert decide(again, NOW) is Action.SETTLE

    @pytest.mark.requirement("R15")
    def test_a_settled_job_is_forgotten_an_hour_after_its_end(self) -> None:
        job = rules.settled(rules.succeeded(running(), OUTPUT, None, NOW), 7, NOW)
        hour = NOW + timedelta(hours=1)
        assert (job.due_time, job.expire_time) == (hour, hour)
        assert decide(job, hour - timedelta(milliseconds=1)) is Action.WAIT
        assert decide(job, hour) is Action.FORGET

    def test_an_unsettled_job_is_kept_for_a_day(self) -> None:
        job = rules.succeeded(running(), OUTPUT, None, NOW)
        day = NOW + timedelta(days=1)
        assert decide(job, day - timedelta(seconds=1)) is Action.SETTLE
        assert decide(job, day) is Action.FORGET


class TestCancel:
    def test_a_wish_is_carried_out_next_and_only_once(self) -> None:
        job = rules.asked_to_cancel(running(), Cancel.CALLER, NOW)
        assert decide(job, NOW) is Action.CANCEL
        sent = rules.cancel_sent(job, NOW)
        assert decide(sent, NOW) is Action.POLL
        assert rules.asked_to_cancel(sent, Cancel.KEY_WITHDRAWN, NOW).cancel is Cancel.CALLER

    def test_the_provider_may_be_faster_than_the_cancel(self) -> None:
        sent = rules.cancel_sent(rules.asked_to_cancel(running(), Cancel.CALLER, NOW), NOW)
        assert rules.succeeded(sent, OUTPUT, None, NOW).state is JobState.SUCCEEDED

    def test_a_confirmed_cancel_costs_what_was_worked(self) -> None:
        sent = rules.cancel_sent(
            rules.asked_to_cancel(running(price=Price("p", MACHINE)), Cancel.CALLER, NOW), NOW
        )
        job = rules.reported_failure(sent, None, 2_000, NOW)
        assert job.state is JobState.CANCELLED
        assert job.settlement is not None
        assert job.settlement.cost_nano_usd == 1_950_000

    def test_an_unconfirmed_cancel_ends_at_the_estimate_after_half_a_minute(self) -> None:
        sent = rules.cancel_sent(rules.asked_to_cancel(running(), Cancel.CALLER, NOW), NOW)
        late = NOW + rules.CANCEL_WAIT_MAX
        for job in (
            rules.progressed(sent, running=True, progress_percent=None, now=late),
            rules.missed(sent, failure(Outcome.NETWORK), late),
        ):
            assert job.state is JobState.CANCELLED
            assert job.settlement is not None
            assert job.settlement.cost_nano_usd == job.estimate_nano_usd

    def test_without_a_way_to_cancel_the_job_ends_here_at_the_estimate(self) -> None:
        wanted = rules.asked_to_cancel(running(), Cancel.CALLER, NOW)
        job = rules.unanswered_cancel(wanted, NOW)
        assert job.state is JobState.CANCELLED
        assert job.settlement is not None
        assert not job.settlement.delivered

    @pytest.mark.requirement("K15")
    def test_a_withdrawn_key_ends_its_job(self) -> None:
        job = rules.withdrawn(running(), NOW)
        assert (job.state, job.cancel) == (JobState.CANCELLED, Cancel.KEY_WITHDRAWN)

    def test_a_job_of_two_hours_is_cancelled(self) -> None:
        job = running()
        assert decide(job, NOW + rules.RUN_MAX) is Action.CANCEL
        assert rules.cancel_sent(job, NOW + rules.RUN_MAX).cancel is Cancel.TOO_LONG

    def test_an_end_stands_whatever_is_wished(self) -> None:
        ended = rules.succeeded(running(), OUTPUT, None, NOW)
        assert rules.asked_to_cancel(ended, Cancel.CALLER, NOW) is ended
