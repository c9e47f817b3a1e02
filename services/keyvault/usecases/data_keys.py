# SPDX-License-Identifier: Apache-2.0
"""
Unwrapped data keys, kept for a while.

Rules:
1. No entry lives longer than the maximum age or beyond the maximum count.
2. A burst on one cold key is one unwrap; many cold keys become one batch. Batches take what queued
   while the last ones ran, without waiting.
3. A hit on an entry that is near its end is answered from it and unwraps it anew behind the answer,
   so a key in use is never cold. Such refreshes wait behind nobody's back: none is queued while a
   batch's worth of keys waits, and each entry is tried once an interval.
4. Records are read from the database each time, so a destroyed record ends its key's use whatever
   is cached here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.keyvault.domain.envelope import WrappedKey
from services.keyvault.errors import KekCause, KekUnavailableError
from services.keyvault.usecases.background import start_detached
from services.keyvault.usecases.ports import KeyEncryption
from services.shared import tracing
from services.shared.clock import Clock
from services.shared.errors import OverloadedError
from services.shared.fingerprint import canonical
from services.shared.secret import Secret

if TYPE_CHECKING:
    from services.shared.tracing import Trace

BATCH_MAX = 256
BATCHES_IN_FLIGHT_MAX = 4
QUEUE_MAX = 20_000
OVERLOADED_RETRY_SECONDS = 0.5
REFRESH_INTERVAL_SECONDS = 1.0

Unwrapped = Secret | KekUnavailableError | None
_Flight = asyncio.Future["Secret | None"]


@dataclass(slots=True)
class _Warm:
    secret: Secret
    expiry: float
    refresh_at: float


@dataclass(slots=True)
class _Cold:
    cache_id: bytes
    wrapped: WrappedKey
    context: bytes
    result: _Flight
    trace: Trace | None
    """Who asked first."""


class CacheMeter(Protocol):
    """Counts what the cache does."""

    def begin(self, entries: Callable[[], int], *, age_seconds_max: float) -> None:
        """Show how many entries there are, by asking, and how old one may get."""
        ...

    def hit(self) -> None:
        """Count a data key that was warm."""
        ...

    def miss(self) -> None:
        """Count a data key that has to be unwrapped."""
        ...

    def refresh(self) -> None:
        """Count a warm data key that is unwrapped anew."""
        ...

    def unwrapped(self) -> None:
        """Note that the key-encryption key was used."""
        ...

    def failed(self, cause: KekCause) -> None:
        """Count a batch that it could not be used for."""
        ...


class NoMeter:
    """A CacheMeter that counts nothing."""

    def begin(self, entries: Callable[[], int], *, age_seconds_max: float) -> None:
        """Show nothing."""

    def hit(self) -> None:
        """Count nothing."""

    def miss(self) -> None:
        """Count nothing."""

    def refresh(self) -> None:
        """Count nothing."""

    def unwrapped(self) -> None:
        """Note nothing."""

    def failed(self, cause: KekCause) -> None:
        """Count nothing."""


class DataKeys:
    """
    Unwraps data keys through a cache.

    Args:
        kek: The key-encryption key.
        clock: Time.
        age_seconds_max: How long an entry lives at most.
        grace_seconds: How long before its end an entry that is in use is unwrapped anew; less than
            that age.
        count_max: How many there are at most.
        meter: Counts.
    """

    def __init__(
        self,
        kek: KeyEncryption,
        *,
        clock: Clock,
        age_seconds_max: float,
        grace_seconds: float,
        count_max: int,
        meter: CacheMeter = NoMeter(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._kek = kek
        self._clock = clock
        self._age_seconds_max = age_seconds_max
        self._grace_seconds = grace_seconds
        self._count_max = count_max
        self._warm: OrderedDict[bytes, _Warm] = OrderedDict()
        self._flying: dict[bytes, _Flight] = {}
        self._queue: deque[_Cold] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._meter = meter
        meter.begin(lambda: len(self._warm), age_seconds_max=age_seconds_max)

    async def unwrap_each(self, items: Sequence[tuple[WrappedKey, bytes]]) -> list[Unwrapped]:
        """
        Unwrap data keys, each with its context; what keeps one shut keeps no other.

        Returns:
            In order; None where a key is not authentic under its context, and the failure where the
            key-encryption key cannot be used now and the key is not warm.

        Raises:
            OverloadedError: If too many wait already.
        """
        started = [self._start(wrapped, context) for wrapped, context in items]
        flights = {one for one in started if isinstance(one, asyncio.Future)}
        if flights:
            # A caller that goes away leaves the shared unwraps running for the others.
            await asyncio.wait(flights)
        return [_landed(one) if isinstance(one, asyncio.Future) else one for one in started]

    async def close(self) -> None:
        """Forget everything; unwraps under way end first."""
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._warm.clear()

    def _start(self, wrapped: WrappedKey, context: bytes) -> Secret | _Flight:
        cache_id = _cache_id(wrapped, context)
        warm = self._warm.get(cache_id)
        if warm is not None:
            now = self._clock.monotonic()
            if now < warm.expiry:
                self._meter.hit()
                self._warm.move_to_end(cache_id)
                if now >= warm.refresh_at:
                    warm.refresh_at = now + REFRESH_INTERVAL_SECONDS
                    if cache_id not in self._flying and len(self._queue) < BATCH_MAX:
                        self._meter.refresh()
                        _ = self._enqueue(cache_id, wrapped, context)
                return warm.secret
            del self._warm[cache_id]
        self._meter.miss()
        flying = self._flying.get(cache_id)
        if flying is not None:
            return flying
        if len(self._queue) >= QUEUE_MAX:
            message = f"{QUEUE_MAX} keys wait to be unwrapped already; try again shortly"
            raise OverloadedError(message, retry_after_seconds=OVERLOADED_RETRY_SECONDS)
        return self._enqueue(cache_id, wrapped, context)

    def _enqueue(self, cache_id: bytes, wrapped: WrappedKey, context: bytes) -> _Flight:
        result: _Flight = asyncio.get_running_loop().create_future()
        self._flying[cache_id] = result
        self._queue.append(_Cold(cache_id, wrapped, context, result, tracing.current()))
        if len(self._workers) < BATCHES_IN_FLIGHT_MAX:
            self._workers.add(start_detached(self._work()))
        return result

    async def _work(self) -> None:
        try:
            await self._drain()
        finally:
            # In the same step as the last look at the queue: a worker that has ended but still
            # counted would keep what queues next from getting one.
            worker = asyncio.current_task()
            assert worker is not None, "workers are tasks"
            self._workers.discard(worker)

    async def _drain(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
            started = self._clock.monotonic()
            try:
                with tracing.shared("unwrap", (cold.trace for cold in batch), keys=len(batch)):
                    secrets = await self._kek.unwrap_many(
                        [(cold.wrapped, cold.context) for cold in batch]
                    )
            except Exception as fault:  # noqa: BLE001 - a task's root: those who wait raise it
                if isinstance(fault, KekUnavailableError):
                    self._meter.failed(fault.cause)
                for cold in batch:
                    del self._flying[cold.cache_id]
                    cold.result.set_exception(fault)
                    # Read once here, so that a waiter that went away leaves no complaint.
                    cold.result.exception()
                continue
            self._meter.unwrapped()
            for cold, secret in zip(batch, secrets, strict=True):
                del self._flying[cold.cache_id]
                if secret is None:
                    self._warm.pop(cold.cache_id, None)
                else:
                    self._keep(cold.cache_id, secret, started)
                cold.result.set_result(secret)

    def _keep(self, cache_id: bytes, secret: Secret, started: float) -> None:
        expiry = started + self._age_seconds_max
        self._warm[cache_id] = _Warm(secret, expiry, expiry - self._grace_seconds)
        while len(self._warm) > self._count_max:
            self._warm.popitem(last=False)


def _landed(flight: _Flight) -> Unwrapped:
    try:
        return flight.result()
    except KekUnavailableError as fault:
        return fault


def _cache_id(wrapped: WrappedKey, context: bytes) -> bytes:
    parts = [
        wrapped.kek_name.encode(),
        str(wrapped.kek_version).encode(),
        wrapped.wrapped,
        context,
    ]
    return hashlib.sha256(canonical(parts)).digest()
