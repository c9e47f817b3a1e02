# SPDX-License-Identifier: Apache-2.0
"""
Starts a long job: the same walk as for text, whose last attempt is a start.

1. The job is kept before its start is sent, so that another replica knows of it whatever becomes of
   this process.
2. A start that the provider refused is forgotten, and the walk goes on. One of which nobody knows
   whether it arrived stays, FAILED, and is never sent again.
3. A start that was accepted is not settled: its hold lives on with the job.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from services.router import errors
from services.router.domain import jobs as rules
from services.router.domain.job_work import JobCall, NativeInput, VideoInput
from services.router.domain.jobs import START_UNKNOWN, START_UNKNOWN_MESSAGE, Job, JobState
from services.router.domain.outcomes import Billed
from services.router.domain.plan import Funding
from services.router.domain.text import FinishReason
from services.router.providers.base import ProviderError
from services.router.usecases import replay
from services.router.usecases.attempt import Served
from services.router.usecases.job_calls import failure_of
from services.router.usecases.job_receipt import job_error
from services.router.usecases.job_runner import taken
from services.router.usecases.outbox import Outbox
from services.router.usecases.ports import Recorded, StaleKeyError
from services.router.usecases.request_identity import request_fingerprint
from services.router.usecases.walk import Walk
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.router.domain.attempts import Receipt
    from services.router.domain.keys import ResealedKey
    from services.router.domain.next_step import Failure
    from services.router.domain.plan import Candidate
    from services.router.domain.request import Request
    from services.router.domain.work import Call
    from services.router.providers.jobs import JobReport
    from services.router.usecases.attempt import Delivered, Sink
    from services.router.usecases.engine import Engine, Event
    from services.router.usecases.granted import Service
    from services.router.usecases.job_calls import JobCalls
    from services.router.usecases.job_guard import JobGuard
    from services.router.usecases.job_ports import JobStore, LeasedJob
    from services.router.usecases.job_runner import StepTimes
    from services.shared.secret import Secret

IN_PROGRESS_SECONDS = 1.0
SAVES_MAX = 3
"""Tries to write down that a provider has accepted a start."""

log = get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenJob:
    """
    A job that was started under a request id, and is forgotten: what the ledger still knows.
    """

    name: str
    request_id: str
    receipt: Receipt


@dataclasses.dataclass(frozen=True, slots=True)
class StartedJob:
    """
    What a start came to.
    """

    job: Job | ForgottenJob
    resealed: tuple[ResealedKey, ...] = ()
    """Client-held keys that were sealed anew."""


class StartJob:
    """
    The use case.

    Args:
        engine: What every run works with.
        store: The jobs of all replicas.
        calls: Calls at providers.
        guard: Watches over the keys of jobs that were started here.
        times: How long steps may take.
        active_max: Jobs of one account that have not ended.
        webhook_url: Where a provider may say that a job has ended; "" for nowhere.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        store: JobStore,
        calls: JobCalls,
        guard: JobGuard,
        times: StepTimes,
        active_max: int,
        webhook_url: str,
    ) -> None:
        self._engine = engine
        self._store = store
        self._calls = calls
        self._guard = guard
        self._times = times
        self._active_max = active_max
        self._webhook_url = webhook_url

    async def __call__(self, request: Request, *, deadline: float) -> StartedJob:
        """
        Start a job, or find the one that the request id has started.

        Args:
            request: The checked request.
            deadline: Monotonic seconds.

        Raises:
            ServiceError: It was not started, or nobody can tell.
        """
        request = self._spelt_out(request)
        kept = await self._store.get(request.account, job_id(request.request_id))
        if kept is not None:
            return StartedJob(self._repeat(request, kept))
        # A caller that leaves does not stop a start half-way.
        starting = self._engine.work.start(self._start(request, deadline))
        starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(starting)

    def _spelt_out(self, request: Request) -> Request:
        model = self._engine.catalogue.models.get(request.model)
        work = request.input
        assert isinstance(work, VideoInput | NativeInput), "jobs are videos or native"
        if model is None or model.job is None:
            return request
        return dataclasses.replace(request, input=work.with_traits(model.job))

    def _repeat(self, request: Request, job: Job) -> Job:
        """
        Answer a repeat of a request whose job is kept.

        Raises:
            ServiceError: It is another body, the start is under way, or its fate is unknown.
        """
        if job.fingerprint != request_fingerprint(self._engine.fingerprint_key, request):
            raise errors.RequestIdReusedError(
                "the request id was used with another body; start this job under a new one",
                metadata={"request_id": request.request_id},
            )
        if job.state is JobState.STARTING:
            raise _in_progress(request)
        error = job_error(job)
        if error is not None and job.failure is not None and job.failure.outcome == START_UNKNOWN:
            raise error
        return job

    async def _start(self, request: Request, deadline: float) -> StartedJob:
        outbox: Outbox[Event] = Outbox()
        outbox.leave()
        starter = _Starter(self, request)
        engine = dataclasses.replace(self._engine, caller=starter)
        walk = Walk(engine, request, deadline=deadline, outbox=outbox)
        starter.walk = walk
        try:
            result = await walk()
        except ServiceError as error:
            raise await self._failed(error, starter) from None
        if isinstance(result, Recorded):
            receipt = replay.replayed(result, request.request_id)
            name = f"{request.account}/jobs/{job_id(request.request_id)}"
            job = ForgottenJob(name=name, request_id=request.request_id, receipt=receipt)
            return StartedJob(job)
        return StartedJob(await self._accepted(result, starter), walk.resealed)

    async def _accepted(self, service: Service, starter: _Starter) -> Job:
        """
        Write down what the provider has accepted.
        """
        leased, report = starter.leased, starter.report
        assert leased is not None, "a start is kept before it is sent"
        assert report is not None, "a start that served has a report"
        now = self._engine.clock.now()
        job = dataclasses.replace(
            leased.job, fallback=service.grant.fallback, notes=starter.notes()
        )
        job = rules.accepted(job, report.provider_job, now)
        if not report.phase.ended:
            job = taken(job, report, now)
        for tries in range(SAVES_MAX):
            try:
                saved = await self._store.save(leased, job, keep_lease=False)
            except ServiceError as error:
                if tries + 1 == SAVES_MAX:
                    raise
                log.warning("job_start_not_written", error=type(error).__name__)
            else:
                if not saved:
                    log.error("job_start_taken_over", job=job.name)
                await self._guard.begin(job)
                return job
        raise AssertionError("the last try raises or returns")

    async def _failed(self, error: ServiceError, starter: _Starter) -> ServiceError:
        """
        End the request; a start of which nobody knows stays on record.
        """
        books = starter.walk.books
        leased = starter.leased if starter.unknown else None
        if leased is not None:
            error = errors.JobStartUnknownError(
                START_UNKNOWN_MESSAGE,
                attempts=books.attempts,
                metadata={"job": leased.job.name},
            )
        await books.end_failed(error)
        if leased is not None:
            charged = books.attempts[-1].charged_nano_credits if books.attempts else 0
            now = self._engine.clock.now()
            job = rules.settled(rules.lost_at_start(leased.job, now), charged, now)
            await self._store.save(leased, job, keep_lease=False)
        return error

    # ---- for the starter

    async def keep(self, request: Request, candidate: Candidate, walk: Walk) -> LeasedJob:
        """
        Keep a job whose start is about to be sent.

        Raises:
            RequestInProgressError: Another run has kept one.
            TooManyJobsError: The account has as many as it may.
        """
        now = self._engine.clock.now()
        claim, work = walk.books.claim, request.input
        job = Job(
            account=request.account,
            job_id=job_id(request.request_id),
            request_id=request.request_id,
            claimant=claim.claimant,
            fingerprint=claim.fingerprint,
            fingerprint_version=claim.fingerprint_version,
            source=request.source,
            sequence=walk.books.sequence,
            provider=candidate.offer.provider,
            model=candidate.offer.model,
            provider_model=candidate.offer.provider_model,
            funding=candidate.funding,
            fallback=False,
            key=candidate.key.name,
            key_version=candidate.key.version,
            key_hint=candidate.key.hint,
            brought=request.brings(candidate.key) if candidate.key.client_held else None,
            price=candidate.offer.price,
            asked=work.usage_estimate(0, candidate.call),
            estimate_nano_usd=candidate.worst_case_nano_usd,
            earlier=walk.books.attempts,
            create_time=now,
            renew_time=now + rules.RENEW_AFTER,
            # Should this process die, the next one finds the job once its lease has ended.
            due_time=now,
        )
        leased = await self._store.add(
            job, lease_seconds=self._times.lease_seconds, active_max=self._active_max
        )
        if leased is None:
            raise _in_progress(request)
        return leased

    async def send(
        self, candidate: Candidate, secret: Secret, may_send: Callable[[], bool], deadline: float
    ) -> JobReport:
        """
        Send a start; raises as `JobCalls.start`.
        """
        call = candidate.call
        assert isinstance(call, JobCall), "jobs are started by job calls"
        left = max(0.0, deadline - self._engine.clock.monotonic())
        # Webhooks are signed with the account's own secret, and only the product's is known here.
        on_credits = candidate.funding is Funding.CREDITS
        return await self._calls.start(
            candidate.offer.provider,
            call,
            key=candidate.key.name,
            secret=secret,
            may_send=may_send,
            seconds=min(left, self._times.start_seconds),
            webhook_url=self._webhook_url if on_credits else "",
        )

    async def forget(self, leased: LeasedJob) -> None:
        """
        Forget a job that was not started.
        """
        await self._store.remove(leased)

    def unsupported(self, provider: str, call: Call) -> list[str]:
        """
        Name the fields of a call that a provider does not take.
        """
        assert isinstance(call, JobCall), "jobs are started by job calls"
        return self._calls.unsupported(provider, call)

    def host(self, provider: str) -> str:
        """
        Give the host a provider is called at.
        """
        return self._engine.caller.host(provider)


class _Starter:
    """
    Makes the attempts of one walk: each keeps its job, sends its start, and forgets a refused one.
    """

    walk: Walk

    def __init__(self, start: StartJob, request: Request) -> None:
        self._start = start
        self._request = request
        self.leased: LeasedJob | None = None
        self.report: JobReport | None = None
        self.unknown = False

    def notes(self) -> tuple[str, ...]:
        """
        Give what the plan has to tell the caller.
        """
        return tuple(self.walk.notes)

    def unsupported(self, provider: str, call: Call) -> list[str]:
        """
        Name the fields of a call that a provider does not take.
        """
        return self._start.unsupported(provider, call)

    def host(self, provider: str) -> str:
        """
        Give the host a provider is called at.
        """
        return self._start.host(provider)

    async def call(
        self,
        candidate: Candidate,
        secret: Secret,
        *,
        may_send: Callable[[], bool],
        deadline: float,
        delivered: Delivered,
        sink: Sink,
    ) -> Served | Failure:
        """
        Make one start.
        """
        del sink
        leased = await self._start.keep(self._request, candidate, self.walk)

        def check() -> bool:
            delivered.sent = may_send()
            return delivered.sent

        try:
            self.report = await self._start.send(candidate, secret, check, deadline)
        except StaleKeyError:
            await self._start.forget(leased)
            raise
        except ProviderError as error:
            if error.billed is Billed.MAYBE_BILLED:
                self.leased, self.unknown = leased, True
            else:
                await self._start.forget(leased)
            return failure_of(error)
        self.leased = leased
        return Served(FinishReason.STOP, None)


def job_id(request_id: str) -> str:
    """
    Give the id of the job that a request starts.
    """
    return f"job-{request_id.lower()}"


def _in_progress(request: Request) -> errors.RequestInProgressError:
    return errors.RequestInProgressError(
        "the start of this job is under way; ask again with the same request id",
        metadata={"request_id": request.request_id},
        retry_after_seconds=IN_PROGRESS_SECONDS,
    )
