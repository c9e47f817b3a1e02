# SPDX-License-Identifier: Apache-2.0
"""
Reads jobs, waits for them, and cancels them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.jobs import Cancel
from services.router.errors import JobNotFoundError, JobWaitEndedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from services.router.domain.jobs import Job
    from services.router.usecases.job_ports import JobStore
    from services.router.usecases.job_runner import JobRunner
    from services.shared.clock import Clock

WAIT_SECONDS = 0.5
"""How often a waiting call looks."""
WAIT_SECONDS_MAX = 600.0


class ReadJobs:
    """
    The use cases.

    Args:
        store: The jobs of all replicas.
        runner: Makes their steps.
        clock: Time.
    """

    def __init__(self, store: JobStore, runner: JobRunner, *, clock: Clock) -> None:
        self._store = store
        self._runner = runner
        self._clock = clock

    async def get(self, account: str, job_id: str) -> Job:
        """
        Give a job.

        Raises:
            JobNotFoundError: There is none, or it is forgotten.
        """
        return await self._kept(account, job_id)

    async def page(
        self, account: str, *, before: tuple[datetime, str] | None, limit: int
    ) -> list[Job]:
        """
        Give an account's jobs, newest first.
        """
        return await self._store.page(account, before=before, limit=limit)

    async def wait(
        self, account: str, job_id: str, *, deadline: float
    ) -> AsyncGenerator[Job, None]:
        """
        Give a job at once and at each change, until its end.

        Args:
            account: `accounts/{account}`.
            job_id: Its id.
            deadline: Monotonic seconds.

        Raises:
            JobNotFoundError: There is none, or it was forgotten meanwhile.
            JobWaitEndedError: It goes on for longer than a wait may.
        """
        until = min(deadline, self._clock.monotonic() + WAIT_SECONDS_MAX)
        told: tuple[object, ...] = ()
        while True:
            job = await self._kept(account, job_id)
            if _seen(job) != told:
                told = _seen(job)
                yield job
            if job.state.ended and job.is_settled:
                return
            if self._clock.monotonic() + WAIT_SECONDS >= until:
                raise JobWaitEndedError(job.name)
            await self._clock.sleep(WAIT_SECONDS)

    async def cancel(self, account: str, job_id: str) -> Job:
        """
        Cancel a job at its provider; gives it as it stands then.

        Raises:
            JobNotFoundError: There is none, or it is forgotten.
        """
        job = await self._kept(account, job_id)
        if job.state.ended:
            return job
        await self._store.ask_to_cancel(account, job_id, Cancel.CALLER, self._clock.now())
        await self._runner.step_now(account, job_id)
        return await self._kept(account, job_id)

    async def _kept(self, account: str, job_id: str) -> Job:
        job = await self._store.get(account, job_id)
        if job is None or _is_expired(job, self._clock.now()):
            raise JobNotFoundError(f"{account}/jobs/{job_id}")
        return job


def _seen(job: Job) -> tuple[object, ...]:
    """
    Give what a caller sees of a job that may change.
    """
    return (job.state, job.progress_percent, job.settlement)


def _is_expired(job: Job, now: datetime) -> bool:
    return job.expire_time is not None and now >= job.expire_time
