# SPDX-License-Identifier: Apache-2.0
"""
Makes the attempts that the ledger granted to one run, one at a time.

1. A key is used only under a lease that stands when its connection is in hand; a key that changed
   meanwhile means a new plan.
2. A key that cools is waited for under its hold, so a repeat meanwhile hears that the request
   runs; while an attempt waits or runs, its hold is renewed with the usage so far.
3. What an attempt found out goes to keyvault and to this process's experience.
4. A caller that leaves, or whose time is up, does not stop a provider that would bill on: the
   answer is read to its end, with a cap, and settled exactly.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from services.router.domain.keys import HealthState
from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Candidate, Funding
from services.router.domain.text import UsageReport
from services.router.usecases import money
from services.router.usecases.attempt import Delivered, Served
from services.router.usecases.engine import Started
from services.router.usecases.experience import Timing
from services.router.usecases.failures import timeout_error
from services.router.usecases.ports import StaleKeyError
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.router.domain.attempts import AttemptRecord
    from services.router.domain.catalogue import Offer
    from services.router.domain.media import AnswerEvent
    from services.router.domain.request import Request
    from services.router.usecases.books import Books
    from services.router.usecases.engine import Engine, Event
    from services.router.usecases.outbox import Outbox
    from services.router.usecases.planner import Planner
    from services.router.usecases.ports import Grant
    from services.shared.clock import Timer
    from services.shared.secret import Secret

RENEW_SECONDS = 20.0
SENDS_MAX = 3
"""How often one attempt may find its lease run out at the moment of sending."""
DRAIN_SECONDS_MAX = 60.0
"""How long an answer is read on after its caller left, where leaving does not stop the bill."""

ABOUT_THE_KEY = frozenset(
    {
        Outcome.INVALID_KEY,
        Outcome.EXPIRED_CREDENTIALS,
        Outcome.PERMISSION_DENIED,
        Outcome.INSUFFICIENT_CREDIT,
        Outcome.RATE_LIMITED,
    }
)
"""Outcomes that keyvault is told of."""

log = get_logger()


class KeyChangedMeanwhileError(Exception):
    """The key of an attempt changed before anything was sent: plan anew."""


class CallerLeftError(Exception):
    """The caller left before the attempt was over; it is written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """
    The attempt that served the request; not settled yet.
    """

    candidate: Candidate
    """At the price of the model that answered."""
    grant: Grant
    delivered: Delivered
    served: Served
    seconds: float
    notes: tuple[str, ...] = ()


class GrantedAttempts:
    """
    The attempts of one run.

    Args:
        engine: What every run works with.
        request: The checked request.
        planner: Holds its keys.
        books: Its books.
        deadline: Monotonic seconds.
        outbox: Takes the events.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        *,
        planner: Planner,
        books: Books,
        deadline: float,
        outbox: Outbox[Event],
    ) -> None:
        self._engine = engine
        self._request = request
        self._planner = planner
        self._books = books
        self._deadline = deadline
        self._outbox = outbox
        self._waiting: asyncio.Task[None] | None = None
        self._calling: asyncio.Task[Served | Failure] | None = None
        self._serving: Candidate | None = None
        self.left = False
        """Whether the caller is no longer there to hear the end."""
        self.told: ServiceError | None = None
        """What the caller was told when its time was up."""

    def leave(self) -> None:
        """
        Say that the caller has left.
        """
        self.left = True
        if self._waiting is not None:
            self._waiting.cancel()
        calling = self._calling
        if calling is None or self._serving is None:
            return

        def stop() -> None:
            calling.cancel()

        if self._bills_on(self._serving):
            self._engine.clock.call_later(DRAIN_SECONDS_MAX, stop)
        else:
            stop()

    async def make(
        self, candidate: Candidate, grant: Grant, *, wait_seconds: float = 0.0
    ) -> Service | Failure:
        """
        Make a granted attempt.

        Args:
            candidate: Whom to call, and with what.
            grant: What the ledger granted it for.
            wait_seconds: How long its key is not ready yet; no part of the attempt's own time.

        Raises:
            KeyChangedMeanwhileError: Nothing was sent.
            CallerLeftError: The caller left meanwhile.
        """
        engine, delivered = self._engine, Delivered()
        started, moment = engine.clock.monotonic() + wait_seconds, engine.clock.now()
        first_content: list[float] = []

        def begun() -> None:
            first_content.append(engine.clock.monotonic() - started)
            self._recovered(candidate)

        before = self._books.attempts
        sink = _Sink(self._outbox, candidate, grant, before=before, begun=begun)
        renewal = _Renewal(
            self._engine,
            self._books,
            self._request,
            candidate=candidate,
            grant=grant,
            delivered=delivered,
        )
        deadline = self._watch_deadline(candidate)
        try:
            if wait_seconds > 0:
                await self._wait(wait_seconds)
            result = await self._refused(candidate, grant)
            if result is None:
                result = await self._call(candidate, sink, delivered)
        except (KeyChangedMeanwhileError, CallerLeftError, ServiceError):
            seconds = max(0.0, engine.clock.monotonic() - started)
            self._books.abandoned(candidate, grant, delivered, seconds=seconds)
            raise
        finally:
            await renewal.stop()
            if deadline is not None:
                deadline.cancel()
        now = engine.clock.monotonic()
        seconds = now - started
        if isinstance(result, Failure):
            account = self._request.account
            engine.experience.failed(account, candidate, result, seconds=seconds, now=now)
            self._report(candidate, result)
            self._books.failed(candidate, grant, delivered, result, seconds=seconds)
            return result
        await sink.begin()
        timing = Timing(
            seconds=seconds,
            first_content_seconds=first_content[0] if candidate.call.stream else None,
            output_tokens=result.usage.output_tokens if result.usage else 0,
        )
        engine.experience.served(self._request.account, candidate, timing, now)
        offer = engine.prices.of_answer(candidate.offer, result.model, moment=moment)
        agreed = offer is candidate.offer
        return Service(
            candidate=candidate if agreed else dataclasses.replace(candidate, offer=offer),
            grant=grant,
            delivered=delivered,
            served=result,
            seconds=seconds,
            notes=() if agreed else (_priced_by(offer, result.model),),
        )

    async def _wait(self, seconds: float) -> None:
        """
        Wait for a key that is not ready yet.

        Raises:
            CallerLeftError: The caller left meanwhile, or while the attempt was authorized.
        """
        if self.left:
            raise CallerLeftError
        self._waiting = asyncio.create_task(self._engine.clock.sleep(seconds))
        try:
            await self._waiting
        except asyncio.CancelledError:
            if self.left:
                raise CallerLeftError from None
            self._waiting.cancel()
            raise
        finally:
            self._waiting = None

    async def _refused(self, candidate: Candidate, grant: Grant) -> Served | Failure | None:
        """
        Take the request out of a shared key's limit; gives the failure where none is left of it.
        """
        if candidate.funding is Funding.OWN_KEY:
            return None
        wait = await self._engine.allotments.take(
            candidate.key.name, self._request.account, grant.shared_part_per_million
        )
        if wait is None:
            return None
        return Failure(
            outcome=Outcome.RATE_LIMITED,
            billed=Billed.NOT_SENT,
            message="the limit of the service's own key is used up for this minute",
            retry_after_seconds=wait,
        )

    async def _call(
        self, candidate: Candidate, sink: _Sink, delivered: Delivered
    ) -> Served | Failure:
        """
        Call the provider under the key's lease.
        """
        deadline = self._deadline + DRAIN_SECONDS_MAX * self._bills_on(candidate)
        for _ in range(SENDS_MAX):
            secret = await self._secret(candidate)
            if self.left:
                raise CallerLeftError
            held = self._planner.held(candidate)
            self._serving = candidate
            self._calling = asyncio.create_task(
                self._engine.caller.call(
                    candidate,
                    secret,
                    may_send=partial(held.may_use, candidate.key),
                    deadline=deadline,
                    delivered=delivered,
                    sink=sink,
                )
            )
            try:
                return await self._calling
            except StaleKeyError:
                if not await self._planner.held_anew(candidate):
                    raise KeyChangedMeanwhileError from None
            except asyncio.CancelledError:
                if self.left:
                    raise CallerLeftError from None
                self._calling.cancel()
                raise
            finally:
                self._calling = None
        raise KeyChangedMeanwhileError

    async def _secret(self, candidate: Candidate) -> Secret:
        """
        Give the secret, for which a client-held key has to be opened.
        """
        try:
            return await self._planner.secret(candidate)
        except StaleKeyError:
            raise KeyChangedMeanwhileError from None

    def _watch_deadline(self, candidate: Candidate) -> Timer | None:
        """
        Tell the caller when its time is up, where the attempt goes on without it.
        """
        if not self._bills_on(candidate):
            return None

        def passed() -> None:
            if not self.left:
                attempts, catalogue = self._books.attempts, self._engine.catalogue
                self.left, self.told = True, timeout_error(candidate, attempts, catalogue)
                self._outbox.close(self.told)

        clock = self._engine.clock
        return clock.call_later(max(0.0, self._deadline - clock.monotonic()), passed)

    def _bills_on(self, candidate: Candidate) -> bool:
        provider = self._engine.catalogue.providers[candidate.offer.provider]
        drawn_whole = self._request.input.operation.is_drawn_whole
        return provider.bills_after_disconnect or drawn_whole

    def _recovered(self, candidate: Candidate) -> None:
        """
        Take the first content as proof that the key works.
        """
        on_trial = candidate.key.name in candidate.trials
        if on_trial or candidate.health.state is not HealthState.ACTIVE:
            self._engine.keys.report(candidate.key, None, model="")
        self._planner.release()

    def _report(self, candidate: Candidate, failure: Failure) -> None:
        ours = failure.outcome is Outcome.RATE_LIMITED and failure.billed is Billed.NOT_SENT
        if failure.outcome in ABOUT_THE_KEY and not ours:
            rate_limited = failure.outcome is Outcome.RATE_LIMITED
            self._engine.keys.report(
                candidate.key,
                failure.outcome,
                model=candidate.offer.provider_model if rate_limited else "",
                retry_after_seconds=failure.retry_after_seconds,
            )


def _priced_by(offer: Offer, answered: str) -> str:
    return (
        f"{offer.provider} answered with {answered}, which has a price of its own: the cost is by "
        "that price"
    )


class _Renewal:
    """
    Extends a hold's lease while its attempt runs, with the usage so far.

    Most attempts end before the first renewal is due, so its task begins only then.
    """

    def __init__(
        self,
        engine: Engine,
        books: Books,
        request: Request,
        *,
        candidate: Candidate,
        grant: Grant,
        delivered: Delivered,
    ) -> None:
        self._engine = engine
        self._books = books
        self._work = request.input
        self._candidate = candidate
        self._delivered = delivered
        self._interval = min(RENEW_SECONDS, grant.lease_seconds / 3)
        self._task: asyncio.Task[None] | None = None
        self._timer = engine.clock.call_later(self._interval, self._begin)

    async def stop(self) -> None:
        """
        End with the attempt.
        """
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            measured = money.so_far(self._candidate, self._work, self._delivered)
            checkpoint = measured.capture(delivered=self._delivered.content)
            try:
                await self._engine.ledger.renew(
                    self._books.claim,
                    self._books.sequence,
                    checkpoint,
                    timeout_seconds=self._interval,
                )
            except ServiceError as error:
                # The capture at the end is never refused; a lapse costs exactness, not the answer.
                log.warning("renewal_failed", error=type(error).__name__)
            await self._engine.clock.sleep(self._interval)


class _Sink:
    """
    Hands an attempt's events over, the start before the first content.
    """

    def __init__(
        self,
        outbox: Outbox[Event],
        candidate: Candidate,
        grant: Grant,
        *,
        before: tuple[AttemptRecord, ...],
        begun: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._begun = begun
        own = candidate.funding is Funding.OWN_KEY
        self._started: Started | None = Started(
            payer=grant.funding,
            provider=candidate.offer.provider,
            model=candidate.offer.model,
            key_hint=candidate.key.hint if own else "",
            fallback=grant.fallback,
            attempts=before,
        )

    async def begin(self) -> None:
        """
        Hand the start over, once.
        """
        if self._started is not None:
            started, self._started = self._started, None
            self._begun()
            await self._outbox.put(started)

    async def put(self, event: AnswerEvent) -> None:
        """
        Hand an event over; a report of usage is no content.
        """
        if not isinstance(event, UsageReport):
            await self.begin()
            await self._outbox.put(event)
