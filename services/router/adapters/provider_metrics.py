# SPDX-License-Identifier: Apache-2.0
"""Counts and traces calls of providers; a model is named where the catalogue knows it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

from services.router.domain.next_step import Failure
from services.router.providers.base import ProviderError
from services.router.usecases.attempt import Served
from services.router.usecases.job_calls import JobCalls
from services.router.usecases.ports import StaleKeyError
from services.shared import tracing
from services.shared.metrics import DURATION_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from services.router.domain.breaker import Phase
    from services.router.domain.job_work import JobCall
    from services.router.domain.jobs import Job
    from services.router.domain.plan import Candidate
    from services.router.domain.work import Call
    from services.router.providers.jobs import JobReport
    from services.router.usecases.attempt import Delivered, Sink
    from services.router.usecases.engine import Calls
    from services.shared.clock import Clock
    from services.shared.secret import Secret

SERVED = "served"
NOT_SENT = "not_sent"
"""The key's lease had run out at the moment of sending."""
ABANDONED = "abandoned"
"""The caller left, or a fault of our own."""
OTHER = "other"
"""A model, or a provider, that the catalogue does not name."""

CALLS = Counter(
    "ownkey_router_provider_calls",
    "Attempts at providers, by what came of them: served, an outcome word, not_sent or abandoned.",
    ["provider", "model", "funding", "outcome"],
)
CALL_SECONDS = Histogram(
    "ownkey_router_provider_call_duration_seconds",
    "How long attempts at providers took, streams to their end.",
    ["provider"],
    buckets=DURATION_BUCKETS,
)
JOB_CALLS = Counter(
    "ownkey_router_job_calls",
    "Calls of providers about long jobs, by what was asked and what came of it.",
    ["provider", "operation", "outcome"],
)
BREAKER_TURNS = Counter(
    "ownkey_router_breaker_turns",
    "Turns of the breakers of a provider's models, by the phase that began.",
    ["provider", "phase"],
)


class ObservedCalls:
    """
    Implements Calls on another one, and counts and traces what it does.

    Args:
        calls: Makes the calls.
        models: The catalogue's models.
        clock: Time.
    """

    def __init__(self, calls: Calls, *, models: Collection[str], clock: Clock) -> None:
        self._calls = calls
        self._models = models
        self._clock = clock

    def unsupported(self, provider: str, call: Call) -> list[str]:
        """
        Name the fields of a call that a provider does not take.
        """
        return self._calls.unsupported(provider, call)

    def host(self, provider: str) -> str:
        """
        Give the host a provider is called at; empty where each key brings its own.
        """
        return self._calls.host(provider)

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
        Make one call; see Calls.
        """
        provider = candidate.offer.provider
        model = candidate.offer.model if candidate.offer.model in self._models else OTHER
        funding, outcome = candidate.funding.name, ABANDONED
        started = self._clock.monotonic()
        with tracing.calling(
            "provider call", provider=provider, model=model, funding=funding
        ) as span:
            try:
                result = await self._calls.call(
                    candidate,
                    secret,
                    may_send=may_send,
                    deadline=deadline,
                    delivered=delivered,
                    sink=sink,
                )
                outcome = result.outcome.value if isinstance(result, Failure) else SERVED
            except StaleKeyError:
                outcome = NOT_SENT
                raise
            finally:
                span.set(outcome=outcome)
                _calls(provider, model, funding, outcome).inc()
                _seconds(provider).observe(self._clock.monotonic() - started)
            if outcome != SERVED:
                span.fail(outcome)
            return result


@cache
def _calls(provider: str, model: str, funding: str, outcome: str) -> Counter:
    # Kept: to look the labels up takes longer than to count. They are bounded, as all labels are.
    return CALLS.labels(provider=provider, model=model, funding=funding, outcome=outcome)


@cache
def _seconds(provider: str) -> Histogram:
    return CALL_SECONDS.labels(provider=provider)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedJobCalls(JobCalls):
    """
    Job calls that are counted and traced.
    """

    async def start(
        self,
        provider: str,
        call: JobCall,
        *,
        key: str,
        secret: Secret,
        may_send: Callable[[], bool],
        seconds: float,
        webhook_url: str,
    ) -> JobReport:
        """
        Start a job; see JobCalls.
        """
        with _job_call(provider, "start"):
            return await JobCalls.start(
                self,
                provider,
                call,
                key=key,
                secret=secret,
                may_send=may_send,
                seconds=seconds,
                webhook_url=webhook_url,
            )

    async def poll(
        self, job: Job, secret: Secret, *, may_send: Callable[[], bool], seconds: float
    ) -> JobReport:
        """
        Ask how a job stands; see JobCalls.
        """
        with _job_call(job.provider, "poll"):
            return await JobCalls.poll(self, job, secret, may_send=may_send, seconds=seconds)

    async def cancel(
        self, job: Job, secret: Secret, *, may_send: Callable[[], bool], seconds: float
    ) -> JobReport | None:
        """
        Ask to cancel a job; see JobCalls.
        """
        with _job_call(job.provider, "cancel"):
            return await JobCalls.cancel(self, job, secret, may_send=may_send, seconds=seconds)


@contextlib.contextmanager
def _job_call(provider: str, operation: str) -> Iterator[None]:
    outcome = ABANDONED
    with tracing.calling("provider job call", provider=provider, operation=operation) as span:
        try:
            yield
            outcome = SERVED
        except ProviderError as error:
            outcome = error.outcome.value
            raise
        except StaleKeyError:
            outcome = NOT_SENT
            raise
        finally:
            span.set(outcome=outcome)
            JOB_CALLS.labels(provider=provider, operation=operation, outcome=outcome).inc()


def breaker_counter(providers: Collection[str]) -> Callable[[str, Phase], None]:
    """
    Give what counts a breaker's turns; other replicas tell of theirs, so names are checked.

    Args:
        providers: The catalogue's providers.
    """

    def turned(provider: str, phase: Phase) -> None:
        name = provider if provider in providers else OTHER
        BREAKER_TURNS.labels(provider=name, phase=phase.value).inc()

    return turned
