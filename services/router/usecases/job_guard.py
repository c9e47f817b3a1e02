# SPDX-License-Identifier: Apache-2.0
"""
Cancels jobs at their provider when their key is withdrawn, while the key's last lease still stands.

A key that was disabled or deleted may begin no request a second later, so there is one moment in
which its jobs can still be cancelled: from the notice of the change to the end of the lease that
stood before it. The process that asked the provider last watches for that moment; where it
passes unused, the job ends here and runs out at the provider.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain.jobs import Cancel
from services.router.providers.base import ProviderError
from services.router.usecases.ports import StaleKeyError
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from services.router.domain.jobs import Job
    from services.router.usecases.job_calls import JobCalls
    from services.router.usecases.job_keys import JobKey, JobKeys
    from services.router.usecases.job_ports import JobStore
    from services.shared.clock import Clock

GUARD_SECONDS = 0.1
"""How often leases are looked at; an eighth of what is left when a change is told."""
GUARDED_MAX = 1_000
"""The newest jobs that are watched over."""
CANCEL_SECONDS_MAX = 5.0

log = get_logger()


@dataclass(slots=True)
class _Guarded:
    job: Job
    key: JobKey
    usable_until: float
    """Monotonic seconds: the end of the last lease that was seen to stand."""


class JobGuard:
    """
    The watch.

    Args:
        store: The jobs of all replicas.
        calls: Calls at providers.
        keys: Opens jobs' keys.
        clock: Time.
    """

    def __init__(self, *, store: JobStore, calls: JobCalls, keys: JobKeys, clock: Clock) -> None:
        self._store = store
        self._calls = calls
        self._keys = keys
        self._clock = clock
        self._guarded: OrderedDict[str, _Guarded] = OrderedDict()
        self._running: asyncio.Task[None] | None = None
        self._withdrawing: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """
        Begin to watch.
        """
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """
        Stop watching, once the cancels under way are over.
        """
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await asyncio.gather(*self._withdrawing, return_exceptions=True)

    async def begin(self, job: Job) -> None:
        """
        Watch over a job that was just started.
        """
        with contextlib.suppress(ServiceError, StaleKeyError):
            key = await self._keys.open(job)
            if key is not None:
                self.watch(job, key)

    def watch(self, job: Job, key: JobKey) -> None:
        """
        Watch over a job that its provider was asked about.
        """
        self._guarded[job.name] = _Guarded(job, key, key.held.usable_until())
        self._guarded.move_to_end(job.name)
        if len(self._guarded) > GUARDED_MAX:
            self._guarded.popitem(last=False)

    def drop(self, job: Job) -> None:
        """
        Watch over a job no longer.
        """
        self._guarded.pop(job.name, None)

    async def look(self) -> None:
        """
        Look at every lease once.
        """
        for guarded in tuple(self._guarded.values()):
            if guarded.key.usable():
                guarded.usable_until = guarded.key.held.usable_until()
                continue
            try:
                newer = await self._keys.open(guarded.job)
            except (ServiceError, StaleKeyError):
                continue  # Nobody can tell: the job's next step finds out.
            if newer is not None:
                guarded.key, guarded.usable_until = newer, newer.held.usable_until()
            elif self._guarded.pop(guarded.job.name, None) is not None:
                # One slow provider must not let the moment of the others pass.
                task = asyncio.create_task(self._withdraw(guarded))
                self._withdrawing.add(task)
                task.add_done_callback(self._withdrawing.discard)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(GUARD_SECONDS)
            try:
                await self.look()
            except Exception:
                log.exception("job_guard_broken")

    async def _withdraw(self, guarded: _Guarded) -> None:
        """
        Cancel a job at its provider if there is time, and in any case here.
        """
        job = guarded.job
        try:
            await self._calls.cancel(
                job,
                guarded.key.secret,
                may_send=lambda: self._clock.monotonic() < guarded.usable_until,
                seconds=CANCEL_SECONDS_MAX,
            )
        except (ProviderError, StaleKeyError) as error:
            log.warning("job_not_cancelled_in_time", job=job.name, error=type(error).__name__)
        account, _, job_id = job.name.partition("/jobs/")
        try:
            await self._store.ask_to_cancel(
                account, job_id, Cancel.KEY_WITHDRAWN, self._clock.now()
            )
        except ServiceError as error:
            log.warning("job_not_marked", job=job.name, error=type(error).__name__)
