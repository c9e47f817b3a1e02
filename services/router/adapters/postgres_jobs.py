# SPDX-License-Identifier: Apache-2.0
"""
Jobs in the router's own database.

1. A lease is taken in the statement that finds its job, on the database's clock, and has a number.
2. Every write bears its lease's number: one that was taken over meanwhile changes nothing.
3. The wish to cancel is a column of its own, so that it needs no lease and is never overwritten.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from services.router.adapters.job_document import decode_job, encode_job
from services.router.domain.jobs import Cancel, Job, asked_to_cancel
from services.router.errors import TooManyJobsError
from services.router.usecases.job_ports import LeasedJob

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from services.shared.postgres import Connection, Database

ACCOUNTS = "accounts/"

_LEASE = """
    lease_number = lease_number + 1, lease_owner = $1,
    lease_expire_time = clock_timestamp() + $2::interval
"""
_FREE = "(lease_expire_time IS NULL OR lease_expire_time <= clock_timestamp())"
_COLUMNS = "document, cancel, due_time, lease_number"

_ADD = f"""
INSERT INTO jobs (account_id, job_id, provider, provider_job, ended, document, create_time,
    due_time, lease_number, lease_owner, lease_expire_time)
VALUES ($3, $4, $5, $6, false, $7, $8, $9, 1, $1, clock_timestamp() + $2::interval)
ON CONFLICT DO NOTHING
RETURNING {_COLUMNS}
"""  # noqa: S608 - of constants
_COUNT_ACTIVE = "SELECT count(*) FROM jobs WHERE account_id = $1 AND NOT ended"
_GET = f"SELECT {_COLUMNS} FROM jobs WHERE account_id = $1 AND job_id = $2"  # noqa: S608 - of constants
_PAGE = f"""
SELECT {_COLUMNS} FROM jobs
WHERE account_id = $1 AND ($2::timestamptz IS NULL OR (create_time, job_id) < ($2, $3))
ORDER BY create_time DESC, job_id DESC LIMIT $4
"""  # noqa: S608 - of constants
_TAKE_DUE = f"""
WITH due AS MATERIALIZED (
    SELECT account_id, job_id FROM jobs WHERE due_time <= $3 AND {_FREE}
    ORDER BY due_time LIMIT $4 FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET {_LEASE}
WHERE (account_id, job_id) IN (SELECT account_id, job_id FROM due)
RETURNING {_COLUMNS}
"""  # noqa: S608 - of constants
_TAKE = f"""
UPDATE jobs SET {_LEASE} WHERE account_id = $3 AND job_id = $4 AND {_FREE} RETURNING {_COLUMNS}
"""  # noqa: S608 - of constants
_SAVE = """
UPDATE jobs SET provider = $4, provider_job = $5, ended = $6, document = $7,
    -- A wish to cancel that came meanwhile is acted on at once.
    due_time = CASE WHEN cancel IS DISTINCT FROM $9 AND NOT $6 THEN least(due_time, $8) ELSE $8 END,
    lease_expire_time = CASE WHEN $10 THEN lease_expire_time END
WHERE account_id = $1 AND job_id = $2 AND lease_number = $3
RETURNING 1
"""
_REMOVE = "DELETE FROM jobs WHERE account_id = $1 AND job_id = $2 AND lease_number = $3 RETURNING 1"
_ASK_TO_CANCEL = """
UPDATE jobs SET cancel = $3, due_time = least(due_time, $4)
WHERE account_id = $1 AND job_id = $2 AND NOT ended AND cancel IS NULL
"""
_HASTEN = """
UPDATE jobs SET due_time = least(due_time, $3)
WHERE provider = $1 AND provider_job = $2 AND NOT ended RETURNING 1
"""


class PostgresJobs:
    """
    The store.

    Args:
        database: The router's.
        owner: Name of this process in its leases.
    """

    def __init__(self, database: Database, *, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def add(self, job: Job, *, lease_seconds: float, active_max: int) -> LeasedJob | None:
        """
        Keep a new job under a lease; see the port.
        """
        account = _account_id(job.account)

        async def work(connection: Connection) -> asyncpg.Record | None:
            if await connection.fetchval(_COUNT_ACTIVE, account) >= active_max:
                raise TooManyJobsError(job.account, active_max=active_max)
            return await connection.fetchrow(
                _ADD,
                self._owner,
                timedelta(seconds=lease_seconds),
                account,
                job.job_id,
                job.provider,
                job.provider_job,
                encode_job(job),
                job.create_time,
                job.due_time,
            )

        row = await self._database.run(work)
        return None if row is None else _leased(row)

    async def get(self, account: str, job_id: str) -> Job | None:
        """
        Give a job.
        """
        row = await self._database.fetchrow(_GET, _account_id(account), job_id)
        return None if row is None else _job(row)

    async def page(
        self, account: str, *, before: tuple[datetime, str] | None, limit: int
    ) -> list[Job]:
        """
        Give an account's jobs, newest first; see the port.
        """
        time, job_id = before or (None, "")
        rows = await self._database.fetch(_PAGE, _account_id(account), time, job_id, limit)
        return [_job(row) for row in rows]

    async def take_due(self, now: datetime, *, limit: int, lease_seconds: float) -> list[LeasedJob]:
        """
        Lease jobs that are due and that nobody works on.
        """
        rows = await self._database.fetch(
            _TAKE_DUE, self._owner, timedelta(seconds=lease_seconds), now, limit
        )
        return [_leased(row) for row in rows]

    async def take(self, account: str, job_id: str, *, lease_seconds: float) -> LeasedJob | None:
        """
        Lease one job; None where it is gone or somebody works on it.
        """
        row = await self._database.fetchrow(
            _TAKE, self._owner, timedelta(seconds=lease_seconds), _account_id(account), job_id
        )
        return None if row is None else _leased(row)

    async def save(self, leased: LeasedJob, job: Job, *, keep_lease: bool) -> bool:
        """
        Write a leased job; False where the lease was lost meanwhile.
        """
        row = await self._database.fetchrow(
            _SAVE,
            _account_id(job.account),
            job.job_id,
            leased.number,
            job.provider,
            job.provider_job,
            job.state.ended,
            encode_job(job),
            job.due_time,
            job.cancel,
            keep_lease,
        )
        return row is not None

    async def remove(self, leased: LeasedJob) -> bool:
        """
        Forget a leased job; False where the lease was lost meanwhile.
        """
        job = leased.job
        account = _account_id(job.account)
        return (
            await self._database.fetchrow(_REMOVE, account, job.job_id, leased.number) is not None
        )

    async def ask_to_cancel(self, account: str, job_id: str, cause: Cancel, now: datetime) -> None:
        """
        Write down the wish to cancel a job that has not ended, whoever works on it.
        """
        await self._database.execute(_ASK_TO_CANCEL, _account_id(account), job_id, cause, now)

    async def hasten(self, provider: str, provider_job: str, now: datetime) -> bool:
        """
        Make a job due that has not ended; tells whether there is one.
        """
        return await self._database.fetchrow(_HASTEN, provider, provider_job, now) is not None


def _leased(row: asyncpg.Record) -> LeasedJob:
    return LeasedJob(_job(row), row["lease_number"])


def _job(row: asyncpg.Record) -> Job:
    """
    Read a job, with a wish to cancel that its document does not know of yet.
    """
    job = decode_job(row["document"])
    if row["cancel"] is None:
        return job
    return asked_to_cancel(job, Cancel(row["cancel"]), row["due_time"])


def _account_id(account: str) -> str:
    return account.removeprefix(ACCOUNTS)
