# SPDX-License-Identifier: Apache-2.0
"""
A long job's life as a state machine without I/O.

Events (`accepted`, `progressed`, `succeeded`, `missed`, `asked_to_cancel`, `settled` and others)
turn one `Job` into the next; `decide` reads it and names the next thing to do. The rules:
1. A start whose fate is unknown is never repeated: the job ends FAILED and says so.
2. An end is written down with what it is settled for; settling is then tried until the ledger has
   it, always for the same amount.
3. What the provider may have billed without telling keeps its estimate, on an own key's budget; on
   credits nothing delivered is free.
4. Who asks to cancel waits for the provider's word; where there is none in time, or no way to ask,
   the job ends CANCELLED at its estimate.
5. Two hours are the most that a job runs. An hour after its end it is forgotten.

A job holds no prompt and no bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from services.router.domain.attempts import AttemptBilled, AttemptRecord, UsageBasis
from services.router.domain.keys import BroughtKey
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import Funding
from services.router.domain.prices import Price, cost_nano_usd
from services.router.domain.request import Source
from services.router.domain.text import Usage

if TYPE_CHECKING:
    from services.router.domain.next_step import Failure

__all__ = [
    "Action",
    "Cancel",
    "Job",
    "JobFailure",
    "JobOutput",
    "JobState",
    "Settle",
    "accepted",
    "asked_to_cancel",
    "cancel_sent",
    "decide",
    "lost_at_start",
    "missed",
    "postponed",
    "progressed",
    "reported_failure",
    "settled",
    "succeeded",
    "unanswered_cancel",
    "withdrawn",
]

FORGET_AFTER = timedelta(hours=1)
"""After its end; Replicate keeps output for as long
(https://replicate.com/docs/topics/predictions/data-retention)."""
RUN_MAX = timedelta(hours=2)
CANCEL_WAIT_MAX = timedelta(seconds=30)
"""How long the provider's word is waited for after a cancel."""
POLL_SECONDS_FIRST = 1.0
POLL_SECONDS_MAX = 10.0
POLL_GROWTH = 1.5
REFUSALS_MAX = 5
"""Polls in a row that the provider refused, after which the job counts as lost."""
RENEW_AFTER = timedelta(seconds=20)
SETTLE_FOR = timedelta(days=1)
"""How long settling is tried; the ledger has settled the lapsed hold itself by then."""
SETTLE_SECONDS_FIRST = 1.0
SETTLE_SECONDS_MAX = 30.0


class JobState(StrEnum):
    """
    Where a job stands.
    """

    STARTING = "starting"
    """Its start is under way: whether the provider has it is not known."""
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """
        Tell whether it changes no more.
        """
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Cancel(StrEnum):
    """
    Why a job is to be cancelled.
    """

    CALLER = "caller"
    KEY_WITHDRAWN = "key_withdrawn"
    TOO_LONG = "too_long"


class Action(StrEnum):
    """
    What to do with a job next.
    """

    GIVE_UP_START = "give_up_start"
    POLL = "poll"
    CANCEL = "cancel"
    SETTLE = "settle"
    FORGET = "forget"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class JobOutput:
    """
    Where one medium of the output is: at the provider's address, or in its answer.
    """

    url: str
    """Empty where the medium stands in the provider's answer to a poll."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """
    Why a job failed or was cancelled.
    """

    outcome: str
    """A word of `Outcome`, `start_unknown`, or a word of `Cancel`."""
    message: str
    """Our own sentence; holds no text of the provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """
    What an ended job is settled for.
    """

    usage: Usage
    basis: UsageBasis
    cost_nano_usd: int | None
    delivered: bool
    billed: AttemptBilled
    charged_nano_credits: int | None = None
    """Set once the ledger has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    One job, as it is kept.
    """

    account: str
    """`accounts/{account}`."""
    job_id: str
    request_id: str
    claimant: str
    fingerprint: bytes
    fingerprint_version: int
    source: Source
    sequence: int
    """Of the attempt that started it, at the ledger."""

    provider: str
    model: str
    provider_model: str
    funding: Funding
    fallback: bool
    key: str
    """`accounts/{owner}/keys/{key}`: an own key, or a shared one."""
    key_version: int
    key_hint: str
    brought: BroughtKey | None = None
    """The client-held key that serves it, sealed, with a proof for this job; until its end."""
    price: Price | None
    asked: Usage
    """What success uses, where the provider does not tell."""
    estimate_nano_usd: int | None
    """What is held for it; None where unpriced."""
    earlier: tuple[AttemptRecord, ...] = ()
    """Attempts before the one that started it."""
    notes: tuple[str, ...] = ()

    state: JobState = JobState.STARTING
    provider_job: str = ""
    progress_percent: int | None = None
    outputs: tuple[JobOutput, ...] = ()
    failure: JobFailure | None = None
    settlement: Settle | None = None
    """Set at the end."""

    cancel: Cancel | None = None
    cancel_sent_time: datetime | None = None
    polls: int = 0
    refusals: int = 0
    settle_tries: int = 0
    create_time: datetime
    renew_time: datetime
    due_time: datetime
    end_time: datetime | None = None

    @property
    def name(self) -> str:
        """
        Give `accounts/{account}/jobs/{job}`.
        """
        return f"{self.account}/jobs/{self.job_id}"

    @property
    def expire_time(self) -> datetime | None:
        """
        Give when it is forgotten; None before its end.
        """
        return None if self.end_time is None else self.end_time + FORGET_AFTER

    @property
    def is_settled(self) -> bool:
        """
        Tell whether the ledger has its end.
        """
        return self.settlement is not None and self.settlement.charged_nano_credits is not None

    def renew_due(self, now: datetime) -> bool:
        """
        Tell whether its hold is to be renewed.
        """
        return not self.state.ended and now >= self.renew_time


def decide(job: Job, now: datetime) -> Action:
    """
    Say what to do with a job that is due, under its lease.
    """
    if job.state is JobState.STARTING:
        return Action.GIVE_UP_START
    if job.state.ended:
        if not job.is_settled:
            given_up = job.end_time is not None and now >= job.end_time + SETTLE_FOR
            return Action.FORGET if given_up else Action.SETTLE
        expired = job.expire_time is not None and now >= job.expire_time
        return Action.FORGET if expired else Action.WAIT
    too_long = now >= job.create_time + RUN_MAX
    if (job.cancel is not None or too_long) and job.cancel_sent_time is None:
        return Action.CANCEL
    return Action.POLL


# ---- events


def accepted(job: Job, provider_job: str, now: datetime) -> Job:
    """
    Take the provider's acceptance of the start.
    """
    return replace(
        job,
        state=JobState.QUEUED,
        provider_job=provider_job,
        due_time=now + timedelta(seconds=POLL_SECONDS_FIRST),
        renew_time=now + RENEW_AFTER,
    )


def progressed(job: Job, *, running: bool, progress_percent: int | None, now: datetime) -> Job:
    """
    Take a poll's answer that the provider still works on it.
    """
    overdue = job.cancel_sent_time and now >= job.cancel_sent_time + CANCEL_WAIT_MAX
    if overdue:
        return _cancelled(job, now, at_estimate=True)
    state = JobState.RUNNING if running else job.state
    if progress_percent is not None:
        progress_percent = min(100, max(0, progress_percent))
    return _later(
        replace(job, state=state, progress_percent=progress_percent, refusals=0), now, None
    )


def succeeded(
    job: Job, outputs: tuple[JobOutput, ...], busy_milliseconds: int | None, now: datetime
) -> Job:
    """
    Take the provider's word that it is done; without any output nothing was delivered.
    """
    if not outputs:
        failure = JobFailure(Outcome.SERVER_ERROR, "the provider ended the job without an output")
        return _failed(job, failure, _spent(job, busy_milliseconds), now)
    usage = job.asked
    if busy_milliseconds is not None:
        usage = replace(usage, machine_milliseconds=busy_milliseconds)
    if usage.images:
        usage = replace(usage, images=len(outputs))
    terms = Settle(
        usage=usage,
        basis=UsageBasis.EXACT,
        cost_nano_usd=_cost(job, usage),
        delivered=True,
        billed=AttemptBilled.YES,
    )
    ended = replace(
        job, state=JobState.SUCCEEDED, outputs=outputs, progress_percent=100, settlement=terms
    )
    return _ended(ended, now)


def reported_failure(
    job: Job, failure: Failure | None, busy_milliseconds: int | None, now: datetime
) -> Job:
    """
    Take the provider's word that it failed, or was cancelled where there is no failure.
    """
    if failure is None:
        return _cancelled(job, now, busy_milliseconds=busy_milliseconds)
    told = JobFailure(failure.outcome, failure.message)
    return _failed(job, told, _spent(job, busy_milliseconds), now)


def missed(job: Job, failure: Failure, now: datetime) -> Job:
    """
    Take a poll that got no answer about the job: asked again later, or lost after many refusals.
    """
    transient = failure.outcome in _TRANSIENT
    refusals = job.refusals if transient else job.refusals + 1
    overdue = job.cancel_sent_time and now >= job.cancel_sent_time + CANCEL_WAIT_MAX
    if overdue:
        return _cancelled(job, now, at_estimate=True)
    if refusals >= REFUSALS_MAX:
        told = JobFailure(
            failure.outcome,
            f"the provider no longer tells how the job stands, so it counts as lost: "
            f"{failure.message}",
        )
        return _failed(job, told, _estimate(job), now)
    return _later(replace(job, refusals=refusals), now, failure.retry_after_seconds)


def postponed(job: Job, now: datetime) -> Job:
    """
    Take it that nobody could be asked: the key's keeper is away.
    """
    return _later(job, now, None)


def asked_to_cancel(job: Job, cause: Cancel, now: datetime) -> Job:
    """
    Take the wish to cancel; an earlier one, or an end, stands.
    """
    if job.state.ended or job.cancel is not None:
        return job
    return replace(job, cancel=cause, due_time=now)


def cancel_sent(job: Job, now: datetime) -> Job:
    """
    Take note that the provider was asked to cancel; its word is polled for.
    """
    cancel = job.cancel or Cancel.TOO_LONG
    due = now + timedelta(seconds=POLL_SECONDS_FIRST)
    return replace(job, cancel=cancel, cancel_sent_time=now, polls=0, due_time=due)


def unanswered_cancel(job: Job, now: datetime) -> Job:
    """
    End a job whose provider has no way to be asked to cancel.
    """
    cancel = job.cancel or Cancel.TOO_LONG
    return _cancelled(replace(job, cancel=cancel), now, at_estimate=True)


def withdrawn(job: Job, now: datetime) -> Job:
    """
    End a job whose key was disabled or deleted: nobody may ask its provider about it any more.
    """
    return _cancelled(replace(job, cancel=Cancel.KEY_WITHDRAWN), now, at_estimate=True)


def lost_at_start(job: Job, now: datetime) -> Job:
    """
    End a job of whose start nobody knows whether it arrived.
    """
    failure = JobFailure(START_UNKNOWN, START_UNKNOWN_MESSAGE)
    return _failed(job, failure, _estimate(job), now)


def settled(job: Job, charged_nano_credits: int | None, now: datetime) -> Job:
    """
    Take the ledger's word; None where it could not be reached.
    """
    assert job.settlement is not None, "an ended job has its terms"
    assert job.expire_time is not None, "an ended job expires"
    if charged_nano_credits is None:
        wait = min(SETTLE_SECONDS_MAX, SETTLE_SECONDS_FIRST * 2**job.settle_tries)
        due = now + timedelta(seconds=wait)
        return replace(job, settle_tries=job.settle_tries + 1, due_time=due)
    terms = replace(job.settlement, charged_nano_credits=charged_nano_credits)
    return replace(job, settlement=terms, due_time=job.expire_time)


START_UNKNOWN = "start_unknown"
START_UNKNOWN_MESSAGE = (
    "whether the provider began the job is not known, so it was not sent again; look at the "
    "provider's own list of jobs, or start another one under a new request id"
)
_AT_ESTIMATE = (
    "; its provider did not confirm that it stopped and may go on and bill it, so it costs what "
    "was estimated"
)
_CANCEL_MESSAGES = {
    Cancel.CALLER: "the caller cancelled the job",
    Cancel.KEY_WITHDRAWN: "the job's key was disabled or deleted, so the job was cancelled",
    Cancel.TOO_LONG: f"the job ran for more than {RUN_MAX.seconds // 3600} hours and was cancelled",
}
_TRANSIENT = frozenset(
    {
        Outcome.OVERLOADED,
        Outcome.SERVER_ERROR,
        Outcome.NETWORK,
        Outcome.TIMEOUT,
        Outcome.RATE_LIMITED,
    }
)


def _later(job: Job, now: datetime, hint_seconds: float | None) -> Job:
    """
    Set the next poll, in growing pauses and no sooner than the provider asks.
    """
    pause = min(POLL_SECONDS_MAX, POLL_SECONDS_FIRST * POLL_GROWTH ** min(job.polls, 16))
    pause = max(pause, min(hint_seconds or 0.0, POLL_SECONDS_MAX * 6))
    return replace(job, polls=job.polls + 1, due_time=now + timedelta(seconds=pause))


def _cost(job: Job, usage: Usage) -> int | None:
    return None if job.price is None else cost_nano_usd(job.price, usage)


def _estimate(job: Job) -> Settle:
    """
    Give the terms of a job whose end at the provider is not known.
    """
    return Settle(
        usage=job.asked,
        basis=UsageBasis.ESTIMATED,
        cost_nano_usd=job.estimate_nano_usd,
        delivered=False,
        billed=AttemptBilled.MAYBE,
    )


def _spent(job: Job, busy_milliseconds: int | None) -> Settle:
    """
    Give the terms of a job that ended without output: what its machine worked, and no output.
    """
    usage = Usage(input_tokens=0, output_tokens=0, machine_milliseconds=busy_milliseconds or 0)
    return Settle(
        usage=usage,
        basis=UsageBasis.EXACT,
        cost_nano_usd=_cost(job, usage),
        delivered=False,
        billed=AttemptBilled.MAYBE,
    )


def _cancelled(
    job: Job,
    now: datetime,
    *,
    busy_milliseconds: int | None = None,
    at_estimate: bool = False,
) -> Job:
    if job.cancel is None:
        message = "the job was cancelled at the provider, not by this service"
        failure = JobFailure(Cancel.CALLER, message)
    else:
        message = _CANCEL_MESSAGES[job.cancel] + (_AT_ESTIMATE if at_estimate else "")
        failure = JobFailure(job.cancel, message)
    terms = _estimate(job) if at_estimate else _spent(job, busy_milliseconds)
    return _ended(replace(job, state=JobState.CANCELLED, failure=failure, settlement=terms), now)


def _failed(job: Job, failure: JobFailure, terms: Settle, now: datetime) -> Job:
    return _ended(replace(job, state=JobState.FAILED, failure=failure, settlement=terms), now)


def _ended(job: Job, now: datetime) -> Job:
    return replace(job, brought=None, end_time=now, due_time=now)
