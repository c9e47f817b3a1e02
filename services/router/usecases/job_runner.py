# SPDX-License-Identifier: Apache-2.0
"""
Takes jobs through their lives: one step at a time, each under a lease of its own.

1. Whichever replica gets a due job's lease makes its next step and gives the lease back; between
   steps nobody holds anything, so a replica that dies holds up one step at most.
2. A step is shorter than its lease, and what it writes bears the lease's number.
3. An end is written down before it is settled, so that whoever comes next settles the same.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain import jobs as rules
from services.router.domain.attempts import UsageBasis
from services.router.domain.jobs import Action, Job, JobOutput, JobState
from services.router.domain.operation import Operation
from services.router.domain.text import Usage
from services.router.providers.base import ProviderError
from services.router.providers.jobs import JobPhase, OutputAddress
from services.router.usecases import replay
from services.router.usecases.job_calls import failure_of
from services.router.usecases.job_receipt import job_error, job_receipt
from services.router.usecases.ports import (
    Capture,
    Claim,
    RequestEnd,
    Settlement,
    StaleKeyError,
)
from services.shared.errors import PeerUnavailableError, ServiceError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from datetime import datetime

    from services.router.providers.jobs import JobReport
    from services.router.usecases.job_calls import JobCalls
    from services.router.usecases.job_guard import JobGuard
    from services.router.usecases.job_keys import JobKey, JobKeys
    from services.router.usecases.job_ports import JobStore, LeasedJob
    from services.router.usecases.ports import Ledger
    from services.shared.clock import Clock

TICK_SECONDS = 0.5
STEPS_MAX = 32
"""Steps under way in one process."""
CLOSE_SECONDS_MAX = 10.0

log = get_logger()


@dataclass(frozen=True, slots=True)
class StepTimes:
    """
    How long the parts of a step may take, so that all of it fits into its lease.
    """

    lease_seconds: float

    @property
    def start_seconds(self) -> float:
        """Give the time for a start."""
        return self.lease_seconds * 0.75

    @property
    def ask_seconds(self) -> float:
        """Give the time for a poll or a cancel."""
        return self.lease_seconds * 0.45

    @property
    def ledger_seconds(self) -> float:
        """Give the time for a renewal or a settlement."""
        return self.lease_seconds * 0.2


class JobRunner:
    """
    The steps.

    Args:
        store: The jobs of all replicas.
        calls: Calls at providers.
        keys: Opens jobs' keys.
        ledger: Who pays.
        guard: Watches over the keys of the jobs that were asked about here.
        clock: Time.
        times: How long steps may take.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        calls: JobCalls,
        keys: JobKeys,
        ledger: Ledger,
        guard: JobGuard,
        clock: Clock,
        times: StepTimes,
    ) -> None:
        self._store = store
        self._calls = calls
        self._keys = keys
        self._ledger = ledger
        self._guard = guard
        self._clock = clock
        self._times = times
        self._running: asyncio.Task[None] | None = None
        self._steps: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """
        Begin to work on due jobs.
        """
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """
        Take no more jobs, and wait a while for the steps under way.
        """
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._steps:
            await asyncio.wait(tuple(self._steps), timeout=CLOSE_SECONDS_MAX)
        for step in tuple(self._steps):
            step.cancel()
        await asyncio.gather(*self._steps, return_exceptions=True)

    async def tick(self) -> int:
        """
        Begin the step of every job that is due, within the bound; gives how many.
        """
        room = STEPS_MAX - len(self._steps)
        if room <= 0:
            return 0
        found = await self._store.take_due(
            self._clock.now(), limit=room, lease_seconds=self._times.lease_seconds
        )
        self._steps.update(self._begin(leased) for leased in found)
        return len(found)

    async def idle(self) -> None:
        """
        Wait until every step that has begun is over.
        """
        while self._steps:
            await asyncio.wait(tuple(self._steps))

    async def step_now(self, account: str, job_id: str) -> None:
        """
        Make a job's next step at once, unless somebody is at it.
        """
        leased = await self._store.take(account, job_id, lease_seconds=self._times.lease_seconds)
        if leased is not None:
            step = self._begin(leased)
            self._steps.add(step)
            await asyncio.shield(step)

    async def _run(self) -> None:
        while True:
            try:
                await self.tick()
            except ServiceError as error:
                log.warning("jobs_not_taken", error=type(error).__name__)
            except Exception:
                log.exception("job_runner_broken")
            await self._clock.sleep(TICK_SECONDS)

    def _begin(self, leased: LeasedJob) -> asyncio.Task[None]:
        step = asyncio.create_task(self._guarded_step(leased))
        step.add_done_callback(self._steps.discard)
        return step

    async def _guarded_step(self, leased: LeasedJob) -> None:
        """
        Make a step; what goes wrong is tried again when the lease has ended.
        """
        try:
            await self._step(leased)
        except ServiceError as error:
            log.warning("job_step_failed", job=leased.job.name, error=type(error).__name__)
        except Exception:
            log.exception("job_step_broken", job=leased.job.name)

    async def _step(self, leased: LeasedJob) -> None:
        job, now = leased.job, self._clock.now()
        action = rules.decide(job, now)
        if action is Action.FORGET:
            await self._store.remove(leased)
            return
        if action is Action.GIVE_UP_START:
            job = rules.lost_at_start(job, now)
        elif action in (Action.POLL, Action.CANCEL):
            job = await self._renew(job)
            job = await self._ask(job, action)
        elif action is Action.WAIT:
            assert job.expire_time is not None, "only an ended job waits"
            job = dataclasses.replace(job, due_time=job.expire_time)
        if job.state.ended:
            self._guard.drop(job)
            self._keys.forget(job)
            if not job.is_settled:
                if not await self._store.save(leased, job, keep_lease=True):
                    return
                job = await self._settle(job)
        await self._store.save(leased, job, keep_lease=False)

    # ---- at the provider

    async def _ask(self, job: Job, action: Action) -> Job:
        """
        Poll or cancel a job, and take in what came of it.
        """
        try:
            key = await self._keys.open(job)
            if key is None:
                return rules.withdrawn(job, self._clock.now())
            self._guard.watch(job, key)
            if action is Action.CANCEL:
                return await self._cancel(job, key)
            report = await self._calls.poll(
                job,
                key.secret,
                may_send=key.usable,
                seconds=self._times.ask_seconds,
            )
            return taken(job, report, self._clock.now())
        except ProviderError as error:
            return rules.missed(job, failure_of(error), self._clock.now())
        except PeerUnavailableError:
            return rules.postponed(job, self._clock.now())
        except StaleKeyError:
            # The key may have changed this moment: the next step asks keyvault.
            return dataclasses.replace(job, due_time=self._clock.now())

    async def _cancel(self, job: Job, key: JobKey) -> Job:
        report = await self._calls.cancel(
            job, key.secret, may_send=key.usable, seconds=self._times.ask_seconds
        )
        now = self._clock.now()
        if report is None:
            return rules.unanswered_cancel(job, now)
        job = rules.cancel_sent(job, now)
        return taken(job, report, now) if report.phase.ended else job

    # ---- at the ledger

    async def _renew(self, job: Job) -> Job:
        """
        Keep a job's hold; its checkpoint is the estimate, with nothing delivered.
        """
        now = self._clock.now()
        if not job.renew_due(now):
            return job
        checkpoint = Capture(
            vendor_cost_nano_usd=job.estimate_nano_usd,
            usage=Usage(input_tokens=0, output_tokens=0),
            basis=UsageBasis.ESTIMATED,
            delivered=False,
        )
        try:
            await self._ledger.renew(
                _claim(job),
                job.sequence,
                checkpoint,
                timeout_seconds=self._times.ledger_seconds,
            )
        except ServiceError as error:
            # A hold that lapsed is corrected by the capture at the end.
            log.warning("job_renewal_failed", job=job.name, error=type(error).__name__)
        return dataclasses.replace(job, renew_time=now + rules.RENEW_AFTER)

    async def _settle(self, job: Job) -> Job:
        """
        Settle a job that has ended, and end its request.
        """
        terms = job.settlement
        assert terms is not None, "an ended job has its terms"
        capture = Capture(
            vendor_cost_nano_usd=terms.cost_nano_usd,
            usage=terms.usage,
            basis=terms.basis,
            delivered=terms.delivered,
        )
        charged: int | None = None
        try:
            settled = await self._ledger.settle(
                _claim(job),
                Settlement(job.sequence, capture),
                _end(job),
                timeout_seconds=self._times.ledger_seconds,
            )
            charged = settled.charged_nano_credits
        except ServiceError as error:
            log.warning("job_not_settled", job=job.name, error=type(error).__name__)
        return rules.settled(job, charged, self._clock.now())


def taken(job: Job, report: JobReport, now: datetime) -> Job:
    """
    Take in what a provider says of a job.
    """
    if not report.phase.ended:
        running = report.phase is JobPhase.RUNNING
        return rules.progressed(
            job, running=running, progress_percent=report.progress_percent, now=now
        )
    if report.phase is JobPhase.SUCCEEDED:
        outputs = tuple(
            JobOutput(output.url if isinstance(output, OutputAddress) else "")
            for output in report.outputs
        )
        return rules.succeeded(job, outputs, report.busy_milliseconds, now)
    failure = None if report.failure is None else failure_of(report.failure)
    return rules.reported_failure(job, failure, report.busy_milliseconds, now)


def _claim(job: Job) -> Claim:
    return Claim(
        account=job.account,
        request_id=job.request_id,
        claimant=job.claimant,
        fingerprint=job.fingerprint,
        fingerprint_version=job.fingerprint_version,
        source=job.source,
        always_use=False,
        operation=Operation.JOB,
    )


def _end(job: Job) -> RequestEnd:
    if job.state is JobState.SUCCEEDED:
        receipt = job_receipt(job)
        assert receipt is not None, "an ended job has a receipt"
        return RequestEnd(succeeded=True, outcome=replay.encode_receipt(receipt))
    error = job_error(job)
    assert error is not None, "a job that did not succeed has an error"
    return RequestEnd(succeeded=False, outcome=replay.encode_failure(error, error.attempts))
