# SPDX-License-Identifier: Apache-2.0
"""
One run of one request, from its plan to its settlement.

1. Every attempt is authorized before a byte is sent, and settled exactly once: inside the next
   Authorize, or by a settlement task with the request's end.
2. What the ledger grants decides who pays, never what this process believes.
3. A key is used only under a lease that stands when its connection is in hand; a key that changed
   meanwhile means a new plan.
4. Once content was handed over, only the end or an error may follow.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from services.router import errors
from services.router.domain import next_step
from services.router.domain.keys import HealthState, OwnKey
from services.router.domain.next_step import End, Failure, Progress, Refresh, Try
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import (
    Candidate,
    ExclusionReason,
    Funding,
    OwnKeyState,
    Plan,
    check_preferences,
)
from services.router.domain.plan import plan as make_plan
from services.router.domain.request import Source, TextRequest
from services.router.domain.text import StreamEvent, UsageReport
from services.router.usecases import money, replay
from services.router.usecases.attempt import Delivered, Served
from services.router.usecases.books import Books
from services.router.usecases.engine import Ended, Engine, Event, Started
from services.router.usecases.experience import Timing
from services.router.usecases.failures import failure_error, no_candidate
from services.router.usecases.outbox import Outbox
from services.router.usecases.ports import (
    PLATFORM,
    Claim,
    Grant,
    HeldKeys,
    Recorded,
    StaleKeyError,
)
from services.router.usecases.request_identity import FINGERPRINT_VERSION, request_fingerprint
from services.shared.errors import DeadlineTooShortError, ServiceError
from services.shared.logging import get_logger

RENEW_SECONDS = 20.0
SETTLE_GRACE_SECONDS = 0.15
"""How long past its deadline an answer waits for its settlement; less than the boundary allows."""
AUTHORIZE_SECONDS_MAX = 10.0
SETTLE_FIRST_SECONDS = 2.0
"""Before a longer pause the last attempt is settled on its own, not with the next."""
REPLANS_MAX = 2
SENDS_MAX = 3
"""How often one attempt may find its lease run out at the moment of sending."""
DRAIN_SECONDS_MAX = 60.0
"""How long an answer is read on after its caller left, where leaving does not stop the bill."""

CONSENT_REFUSALS = (
    errors.FallbackNotAllowedError,
    errors.FallbackCapReachedError,
    errors.NoUsableOwnKeyError,
    errors.SourceNotAllowedError,
    errors.InsufficientCreditsError,
    errors.CreditsNotPossibleError,
)
"""Refusals after which an own key may still serve, if waiting helps."""

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


class _KeyChangedError(Exception):
    """The key of an attempt changed before anything was sent: plan anew."""


class Run:
    """
    One run.

    Args:
        engine: What every run works with.
        request: The checked request.
        deadline: Monotonic seconds.
        outbox: Takes the events.
    """

    def __init__(
        self, engine: Engine, request: TextRequest, *, deadline: float, outbox: Outbox[Event]
    ) -> None:
        self._engine = engine
        self._request = request
        self._deadline = deadline
        self._outbox = outbox
        claim = Claim(
            account=request.account,
            request_id=request.request_id,
            claimant=engine.new_claimant(),
            fingerprint=request_fingerprint(engine.fingerprint_key, request),
            fingerprint_version=FINGERPRINT_VERSION,
            source=request.source,
            always_use=False,
        )
        self._books = Books(
            claim,
            request.input,
            settler=engine.settler,
            wait_seconds=lambda: self._left_seconds() + SETTLE_GRACE_SECONDS,
        )
        self._trials = object()
        """Holds what this run is the trial of."""
        self._refusal: errors.LedgerRefusalError | None = None
        self._held: dict[str, HeldKeys] = {}
        self._left = False
        self._attempt: asyncio.Task[Served | Failure] | None = None
        self._serving: Candidate | None = None

    async def execute(self) -> None:
        """
        Run to the end; the outbox is closed whatever happens.
        """
        try:
            await self._walk()
        except ServiceError as error:
            await self._books.end_failed(error)
            self._outbox.close(error)
        except BaseException as fault:
            self._outbox.close(fault)
            if not isinstance(fault, Exception):
                raise
        else:
            self._outbox.close()
        finally:
            self._engine.experience.release(self._trials)

    def leave(self) -> None:
        """
        Say that the caller has left.
        """
        self._left = True
        if self._attempt is None or self._serving is None:
            return
        provider = self._engine.catalogue.providers[self._serving.offer.provider]
        if provider.bills_after_disconnect:
            loop = asyncio.get_running_loop()
            loop.call_later(DRAIN_SECONDS_MAX, self._attempt.cancel)
        else:
            self._attempt.cancel()

    # ---- the walk

    async def _walk(self) -> None:
        plan = await self._plan()
        progress = self._begin(plan)
        replans = 0
        while True:
            if self._has_left():
                raise self._abandoned()
            step = next_step.decide(progress, now=self._engine.clock.monotonic())
            match step:
                case End():
                    raise self._failure(step)
                case Refresh():
                    newer = await self._newer(step.candidate)
                    progress = next_step.refreshed(progress, step.candidate, newer)
                    continue
            try:
                going_on = await self._take(step, plan, progress)
            except _KeyChangedError:
                replans += 1
                if replans > REPLANS_MAX:
                    raise _changed() from None
                plan = await self._plan(anew=True)
                progress = dataclasses.replace(self._begin(plan), attempts=replans)
                continue
            if going_on is None:
                return
            progress = going_on

    async def _take(self, step: Try, plan: Plan, progress: Progress) -> Progress | None:
        """
        Ask the ledger and make the attempt; None once the request was answered.
        """
        try:
            grant = await self._authorize(step, plan)
        except CONSENT_REFUSALS as refusal:
            self._books.refused()
            if step.own_key_state is OwnKeyState.READY or not plan.own:
                raise self._refused(refusal, plan) from None
            self._refusal = refusal
            return next_step.credits_refused(progress)
        if isinstance(grant, Recorded):
            await self._replay(grant)
            return None
        progress = next_step.granted(progress, step, grant.funding)
        candidate = step.own if grant.funding is Funding.OWN_KEY else step.shared
        assert candidate is not None, "the ledger grants only what terms were sent for"
        failure = await self._try(candidate, grant, list(plan.notes))
        if failure is None:
            return None
        return self._after(progress, candidate, failure)

    def _after(self, progress: Progress, candidate: Candidate, failure: Failure) -> Progress:
        """
        Take a failure in; a retry on the same key is paid by the account's tokens.
        """
        engine, account = self._engine, self._request.account
        now = engine.clock.monotonic()
        going_on = next_step.failed(
            progress,
            candidate,
            failure,
            now=now,
            chance=engine.chance(),
            may_retry=engine.experience.may_retry(account, now),
        )
        if going_on.transient_retries > progress.transient_retries:
            engine.experience.retried(account, now)
        return going_on

    async def _plan(self, *, anew: bool = False) -> Plan:
        """
        Hold the keys and lay out who may serve the request.
        """
        engine, request = self._engine, self._request
        check_preferences(request.preferences, engine.catalogue)
        take = engine.keys.asked_anew if anew else engine.keys.held
        own, shared = await asyncio.gather(take(request.account), take(PLATFORM))
        self._held = {request.account: own, PLATFORM: shared}
        now = engine.clock.monotonic()
        engine.experience.release(self._trials)
        plan = make_plan(
            request,
            keys=own.keys,
            shared=shared.keys,
            catalogue=engine.catalogue,
            unsupported=engine.caller.unsupported,
            conditions=engine.experience.at(now, chance=engine.chance()),
            now=now,
            spread=int(engine.chance() * 1_000_000),
        )
        # Nothing else runs between reading the conditions and this, so no other has claimed them.
        for candidate in (*plan.own, *plan.shared):
            engine.experience.claim(candidate.trials, self._trials)
        asks_ledger = request.source is Source.OWN_KEY or plan.own or plan.shared
        if not asks_ledger and not _lacks_shared_key(plan):
            known = not request.model or request.model in engine.catalogue.models
            raise no_candidate(request, plan, known_model=known)
        return plan

    def _begin(self, plan: Plan) -> Progress:
        own_only = self._request.source is Source.OWN_KEY
        return next_step.begin(plan, deadline=self._deadline, own_only=own_only)

    async def _newer(self, candidate: Candidate) -> OwnKey | None:
        """
        Ask keyvault for a newer version of a key that answered 401.
        """
        account = self._owner(candidate)
        held = await self._engine.keys.asked_anew(account)
        self._held[account] = held
        for key in held.keys.keys:
            if key.name == candidate.key.name and key.version > candidate.key.version:
                return key if key.enabled else None
        return None

    async def _authorize(self, step: Try, plan: Plan) -> Grant | Recorded:
        """
        Claim the next attempt, after the step's pause; settles the previous one with it.
        """
        engine = self._engine
        if step.delay_seconds > SETTLE_FIRST_SECONDS:
            await self._books.settle_alone()
        if step.delay_seconds > 0 and not await self._credits_pay_anyway(step, plan):
            await engine.clock.sleep(step.delay_seconds)
        left = self._left_seconds()
        if left < next_step.ATTEMPT_SECONDS_MIN and not self._books.attempts:
            raise DeadlineTooShortError(
                f"{max(0.0, left) * 1000:.0f} ms are left of the deadline, too little to try; "
                "nothing was sent. Allow at least a few seconds"
            )
        grant = await engine.ledger.authorize(
            self._books.ask(step, always_use=plan.always_use),
            timeout_seconds=min(AUTHORIZE_SECONDS_MAX, max(0.1, left)),
        )
        if isinstance(grant, Grant):
            self._books.granted(grant)
        return grant

    async def _credits_pay_anyway(self, step: Try, plan: Plan) -> bool:
        """
        Ask, before a first wait for an own key, whether its account uses own keys at all.

        Raises:
            LedgerRefusalError: It does, and nothing will be granted after the wait either.
        """
        first = not self._books.attempts and self._refusal is None
        if not first or step.own is None or step.shared is None:
            return False
        answer = await self._engine.ledger.authorize(
            self._books.ask(step, always_use=plan.always_use, dry_run=True),
            timeout_seconds=min(AUTHORIZE_SECONDS_MAX, max(0.1, self._left_seconds())),
        )
        return isinstance(answer, Recorded) or answer.funding is Funding.CREDITS

    # ---- one attempt

    async def _try(self, candidate: Candidate, grant: Grant, notes: list[str]) -> Failure | None:
        """
        Make the granted attempt; None if it served the request.
        """
        engine, delivered = self._engine, Delivered()
        started = engine.clock.monotonic()
        first_content: list[float] = []

        def begun() -> None:
            first_content.append(engine.clock.monotonic() - started)
            self._recovered(candidate)

        sink = _Sink(self._outbox, candidate, grant, begun=begun)
        renewing = asyncio.create_task(self._renew(candidate, grant, delivered))
        try:
            result = await self._call(candidate, sink, delivered)
        except _KeyChangedError:
            seconds = engine.clock.monotonic() - started
            self._books.abandoned(candidate, grant, delivered, seconds=seconds)
            raise
        finally:
            renewing.cancel()
            await asyncio.wait((renewing,))
        seconds = engine.clock.monotonic() - started
        if result is None:
            self._books.abandoned(candidate, grant, delivered, seconds=seconds)
            raise self._abandoned()
        now = engine.clock.monotonic()
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
        receipt = self._books.served(
            candidate,
            grant,
            delivered,
            result,
            seconds=seconds,
            notes=[*notes, *_dropped(candidate)],
        )
        await self._outbox.put(Ended(await self._books.end_served(receipt, heard=not self._left)))
        return None

    async def _call(
        self, candidate: Candidate, sink: _Sink, delivered: Delivered
    ) -> Served | Failure | None:
        """
        Call the provider under the key's lease; None if the caller left meanwhile.
        """
        account = self._owner(candidate)
        for _ in range(SENDS_MAX):
            if self._has_left():
                return None
            held = self._held[account]
            self._serving = candidate
            self._attempt = asyncio.create_task(
                self._engine.caller.call(
                    candidate,
                    held.secret(candidate.key),
                    may_send=held.usable,
                    deadline=self._deadline,
                    delivered=delivered,
                    sink=sink,
                )
            )
            try:
                return await self._attempt
            except StaleKeyError:
                self._held[account] = await self._engine.keys.asked_anew(account)
                if not _unchanged(self._held[account], candidate.key):
                    raise _KeyChangedError from None
            except asyncio.CancelledError:
                if self._has_left():
                    return None
                self._attempt.cancel()
                raise
            finally:
                self._attempt = None
        raise _KeyChangedError

    async def _renew(self, candidate: Candidate, grant: Grant, delivered: Delivered) -> None:
        """
        Extend the hold's lease while the attempt runs, with the usage so far.
        """
        interval = min(RENEW_SECONDS, grant.lease_seconds / 3)
        while True:
            await self._engine.clock.sleep(interval)
            measured = money.so_far(candidate, self._request.input, delivered)
            checkpoint = measured.capture(delivered=delivered.content)
            try:
                await self._engine.ledger.renew(
                    self._books.claim,
                    self._books.sequence,
                    checkpoint,
                    timeout_seconds=interval,
                )
            except ServiceError as error:
                # The capture at the end is never refused; a lapse costs exactness, not the answer.
                log.warning("renewal_failed", error=type(error).__name__)

    def _recovered(self, candidate: Candidate) -> None:
        """
        Take the first content as proof that the key works.
        """
        on_trial = candidate.key.name in candidate.trials
        if on_trial or candidate.health.state is not HealthState.ACTIVE:
            self._engine.keys.report(candidate.key, None, model="")
        self._engine.experience.release(self._trials)

    def _report(self, candidate: Candidate, failure: Failure) -> None:
        if failure.outcome in ABOUT_THE_KEY:
            rate_limited = failure.outcome is Outcome.RATE_LIMITED
            self._engine.keys.report(
                candidate.key,
                failure.outcome,
                model=candidate.offer.provider_model if rate_limited else "",
                retry_after_seconds=failure.retry_after_seconds,
            )

    async def _replay(self, recorded: Recorded) -> None:
        """
        Answer a repeat of a request that had ended.
        """
        receipt = replay.replayed(recorded, self._request.request_id)
        served = receipt.served
        started = Started(
            payer=served.funding,
            provider=served.provider,
            model=served.model,
            key_hint=served.key_hint,
            fallback=served.fallback,
        )
        await self._outbox.put(started)
        await self._outbox.put(Ended(receipt))

    # ---- small questions and errors

    def _owner(self, candidate: Candidate) -> str:
        return self._request.account if candidate.funding is Funding.OWN_KEY else PLATFORM

    def _has_left(self) -> bool:
        return self._left

    def _left_seconds(self) -> float:
        return self._deadline - self._engine.clock.monotonic()

    def _failure(self, end: End) -> ServiceError:
        return failure_error(
            end,
            attempts=self._books.attempts,
            refusal=self._refusal,
            catalogue=self._engine.catalogue,
            now=self._engine.clock.monotonic(),
        )

    def _refused(self, refusal: errors.LedgerRefusalError, plan: Plan) -> ServiceError:
        """
        Word a final refusal; shared keys that cannot serve are the service's lack.
        """
        lacking = _lacks_shared_key(plan) or plan.shared
        if isinstance(refusal, errors.CreditsNotPossibleError) and lacking:
            return self._failure(End(None, Funding.CREDITS, None))
        refusal.attempts = self._books.attempts
        return refusal

    def _abandoned(self) -> ServiceError:
        return errors.RequestAbandonedError(
            "the caller left before the end of this request; what had been delivered was settled: "
            "ask again under a new request id",
            attempts=self._books.attempts,
            metadata={"request_id": self._request.request_id},
        )


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
        )

    async def begin(self) -> None:
        """
        Hand the start over, once.
        """
        if self._started is not None:
            started, self._started = self._started, None
            self._begun()
            await self._outbox.put(started)

    async def put(self, event: StreamEvent) -> None:
        """
        Hand an event over; a report of usage is no content.
        """
        if not isinstance(event, UsageReport):
            await self.begin()
            await self._outbox.put(event)


def _lacks_shared_key(plan: Plan) -> bool:
    return any(e.reason is ExclusionReason.NO_SHARED_KEY for e in plan.exclusions)


def _dropped(candidate: Candidate) -> list[str]:
    offer = candidate.offer
    return [
        f"{field} was dropped: {offer.provider} does not take it for {offer.model}"
        for field in candidate.dropped
    ]


def _changed() -> ServiceError:
    return errors.KeyChangedError(
        "the key was changed again and again while the request ran; nothing was sent on it: try "
        "again shortly",
        retry_after_seconds=1.0,
    )


def _unchanged(held: HeldKeys, key: OwnKey) -> bool:
    return any(
        k.name == key.name and k.enabled and k.version == key.version and k.etag == key.etag
        for k in held.keys.keys
    )
