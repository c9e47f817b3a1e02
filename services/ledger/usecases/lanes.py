# SPDX-License-Identifier: Apache-2.0
"""
Lanes: commands that come in while a batch runs make up the next batch.

Rules:
1. Each bucket belongs to one lane, and a lane runs one batch at a time, in the order of arrival: so
   commands on one account are run in order, and an idle lane starts at once, with what there is.
2. A lane's queue is bounded; what does not fit is refused before anything is done.
3. A command whose caller has gone or whose deadline has passed is dropped before it runs. Once its
   batch has begun it is run to the end, whoever still waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from services.ledger.domain.accounts import bucket_of
from services.ledger.usecases.commands import AttemptCommand
from services.shared import tracing
from services.shared.boundary import Call, current_call
from services.shared.errors import DeadlineTooShortError, OverloadedError, ServiceError

SHED_RETRY_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """
    How lanes run.

    Args:
        count: Lanes, each with one batch under way at most.
        queue_max: Commands that wait in a lane at most.
        batch_max: Commands of a batch at most.
        one_bucket: True to keep a batch within one bucket, as a sharded database needs it.
    """

    count: int = 2
    queue_max: int = 4096
    batch_max: int = 512
    one_bucket: bool = False


class LaneMeter(Protocol):
    """Counts what lanes do."""

    def waiting(self, count: Callable[[], int]) -> None:
        """Show how many commands wait, by asking."""
        ...

    def batch(self, commands: int, seconds: float) -> None:
        """Count a batch that was run."""
        ...

    def shed(self) -> None:
        """Count a command that was refused because too many wait."""
        ...


class Queued(NamedTuple):
    """
    A command in a batch.

    Args:
        command: The command.
        call: The call that brought it; None outside of one.
    """

    command: AttemptCommand
    call: Call | None

    def require_time(self) -> None:
        """
        Drop what is past its deadline before it changes anything.

        Raises:
            DeadlineTooShortError: If the caller's deadline has passed.
        """
        require_time(self.call)


def require_time(call: Call | None) -> None:
    """
    Hold a call to its deadline.

    Raises:
        DeadlineTooShortError: If it has passed.
    """
    if call is not None and call.time_remaining() <= 0:
        message = (
            "the deadline passed while the account was busy; try again with the same request id, "
            "which finds the outcome if there is one"
        )
        raise DeadlineTooShortError(message)


RunBatch = Callable[[Sequence[Queued]], Awaitable[Sequence[T | ServiceError]]]


class Lanes(Generic[T]):
    """
    Runs commands in batches.

    Args:
        run: Runs a batch and returns what came of each command, in order; never raises.
        limits: How.
        meter: Counts; None for nobody.
    """

    def __init__(
        self, run: RunBatch[T], limits: LaneLimits, *, meter: LaneMeter | None = None
    ) -> None:
        self._lanes = [_Lane(run, limits, meter) for _ in range(limits.count)]
        if meter is not None:
            meter.waiting(lambda: sum(lane.waiting for lane in self._lanes))

    async def each(self, commands: Sequence[AttemptCommand]) -> list[T | ServiceError]:
        """Run commands and return what came of each, in order."""
        if not commands:
            return []
        call = current_call()
        reply: _Reply[T] = _Reply(len(commands))
        for index, command in enumerate(commands):
            bucket = bucket_of(command.account_id)
            lane = self._lanes[bucket % len(self._lanes)]
            lane.put(bucket, _Place(Queued(command, call), reply, index))
        return await reply.done


class _Reply(Generic[T]):
    """What came of the commands of one caller, as far as it is known."""

    __slots__ = ("_missing", "_outcomes", "done")

    def __init__(self, count: int) -> None:
        self._outcomes: list[Any] = [None] * count
        self._missing = count
        self.done: asyncio.Future[list[T | ServiceError]] = (
            asyncio.get_running_loop().create_future()
        )

    def set(self, index: int, outcome: T | ServiceError) -> None:
        self._outcomes[index] = outcome
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(self._outcomes)


class _Place(NamedTuple, Generic[T]):
    """A command in the queue, and where its outcome goes."""

    queued: Queued
    reply: _Reply[T]
    number: int


class _Lane(Generic[T]):
    """One lane: a queue for each bucket, taken in turn, or one for all."""

    def __init__(self, run: RunBatch[T], limits: LaneLimits, meter: LaneMeter | None) -> None:
        self._run = run
        self._limits = limits
        self._meter = meter
        self._queues: OrderedDict[int, deque[_Place[T]]] = OrderedDict()
        self.waiting = 0
        self._task: asyncio.Task[None] | None = None

    def put(self, bucket: int, place: _Place[T]) -> None:
        """Queue a command, or refuse it if the queue is full."""
        if self.waiting >= self._limits.queue_max:
            message = (
                f"{self._limits.queue_max} commands wait for these accounts already; try again "
                "shortly with the same request id"
            )
            fault = OverloadedError(message, retry_after_seconds=SHED_RETRY_SECONDS)
            if self._meter is not None:
                self._meter.shed()
            place.reply.set(place.number, fault)
            return
        queue = bucket if self._limits.one_bucket else 0
        self._queues.setdefault(queue, deque()).append(place)
        self.waiting += 1
        if self._task is None:
            # A context of its own: a lane works for many callers.
            work = self._work()
            self._task = asyncio.create_task(work, name="lane", context=contextvars.Context())

    async def _work(self) -> None:
        try:
            while self._queues:
                batch = self._take()
                if batch:
                    outcomes = await self._ran([place.queued for place in batch])
                    for place, outcome in zip(batch, outcomes, strict=True):
                        place.reply.set(place.number, outcome)
        finally:
            self._task = None

    async def _ran(self, batch: Sequence[Queued]) -> Sequence[T | ServiceError]:
        """Run a batch, traced and counted."""
        started = time.perf_counter()
        traces = (one.call.trace for one in batch if one.call is not None)
        with tracing.shared("batch commit", traces, commands=len(batch)):
            outcomes = await self._run(batch)
        if self._meter is not None:
            self._meter.batch(len(batch), time.perf_counter() - started)
        return outcomes

    def _take(self) -> list[_Place[T]]:
        """Take the next batch off the queue, less what need not run any more."""
        key, queue = self._queues.popitem(last=False)
        batch: list[_Place[T]] = []
        while queue and len(batch) < self._limits.batch_max:
            place = queue.popleft()
            self.waiting -= 1
            if place.reply.done.cancelled():
                continue
            try:
                place.queued.require_time()
            except DeadlineTooShortError as fault:
                place.reply.set(place.number, fault)
            else:
                batch.append(place)
        if queue:
            self._queues[key] = queue
        return batch
