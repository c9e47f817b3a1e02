# SPDX-License-Identifier: Apache-2.0
"""
What long jobs need of the outside: a place that outlives the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from services.router.domain.jobs import Cancel, Job


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """
    A job under this process's lease: nobody else works on it until the lease ends.
    """

    job: Job
    number: int
    """Of the lease; a write under an older one changes nothing."""


class JobStore(Protocol):
    """
    The jobs of all replicas. Leases are on the store's own clock.

    Every method raises StoreUnavailableError where the store is away.
    """

    async def add(self, job: Job, *, lease_seconds: float, active_max: int) -> LeasedJob | None:
        """
        Keep a new job under a lease; None where its id is taken.

        Raises:
            TooManyJobsError: So many of the account's jobs have not ended.
        """
        ...

    async def get(self, account: str, job_id: str) -> Job | None:
        """
        Give a job.
        """
        ...

    async def page(
        self, account: str, *, before: tuple[datetime, str] | None, limit: int
    ) -> list[Job]:
        """
        Give an account's jobs, newest first.

        Args:
            account: `accounts/{account}`.
            before: Creation time and id of the last one of the previous page.
            limit: At most so many.
        """
        ...

    async def take_due(self, now: datetime, *, limit: int, lease_seconds: float) -> list[LeasedJob]:
        """
        Lease jobs that are due and that nobody works on.
        """
        ...

    async def take(self, account: str, job_id: str, *, lease_seconds: float) -> LeasedJob | None:
        """
        Lease one job; None where it is gone or somebody works on it.
        """
        ...

    async def save(self, leased: LeasedJob, job: Job, *, keep_lease: bool) -> bool:
        """
        Write a leased job; False where the lease was lost meanwhile.
        """
        ...

    async def remove(self, leased: LeasedJob) -> bool:
        """
        Forget a leased job; False where the lease was lost meanwhile.
        """
        ...

    async def ask_to_cancel(self, account: str, job_id: str, cause: Cancel, now: datetime) -> None:
        """
        Write down the wish to cancel a job that has not ended, whoever works on it.
        """
        ...

    async def hasten(self, provider: str, provider_job: str, now: datetime) -> bool:
        """
        Make a job due that has not ended; tells whether there is one.
        """
        ...
