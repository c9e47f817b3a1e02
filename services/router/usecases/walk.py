# SPDX-License-Identifier: Apache-2.0
"""
Walks one request along its plan until an attempt serves it: plan, authorize, attempt, decide.

1. Every attempt is authorized before a byte is sent, and settled exactly once: inside the next
   Authorize, or with the request's end.
2. What the ledger grants decides who pays, never what this process believes.
3. Once content was handed over, only the end or an error may follow.

The walk is the same for text, images, speech and jobs; what an attempt served is settled by whoever
walked.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from services.router import errors
from services.router.domain import next_step
from services.router.domain.next_step import End, Failure, Progress, Refresh, Try
from services.router.domain.plan import (
    Candidate,
    ExclusionReason,
    Funding,
    OwnKeyState,
    Plan,
)
from services.router.domain.request import Source
from services.router.usecases.books import Books
from services.router.usecases.failures import (
    failure_error,
    no_candidate,
    shared_keys_unavailable,
)
from services.router.usecases.granted import (
    CallerLeftError,
    GrantedAttempts,
    KeyChangedMeanwhileError,
    Service,
)
from services.router.usecases.planner import Planner
from services.router.usecases.ports import Claim, Grant, Recorded
from services.router.usecases.request_identity import FINGERPRINT_VERSION, request_fingerprint
from services.shared import tracing
from services.shared.errors import DeadlineTooShortError, ServiceError

if TYPE_CHECKING:
    from services.router.domain.catalogue import Catalogue
    from services.router.domain.keys import ResealedKey
    from services.router.domain.request import Request
    from services.router.usecases.engine import Engine, Event
    from services.router.usecases.outbox import Outbox

SETTLE_GRACE_SECONDS = 0.15
"""How long past its deadline an answer waits for its settlement; less than the boundary allows."""
AUTHORIZE_SECONDS_MAX = 10.0
SETTLE_FIRST_SECONDS = 2.0
"""Before a longer pause the last attempt is settled on its own, not with the next."""
REPLANS_MAX = 2

CONSENT_REFUSALS = (
    errors.FallbackNotAllowedError,
    errors.FallbackCapReachedError,
    errors.NoUsableOwnKeyError,
    errors.SourceNotAllowedError,
    errors.InsufficientCreditsError,
    errors.CreditsNotPossibleError,
)
"""Refusals after which an own key may still serve, if waiting helps."""


class Walk:
    """
    One request's walk.

    Args:
        engine: What every run works with.
        request: The checked request.
        deadline: Monotonic seconds.
        outbox: Takes the events of its attempts.
    """

    def __init__(
        self, engine: Engine, request: Request, *, deadline: float, outbox: Outbox[Event]
    ) -> None:
        self._engine = engine
        self._request = request
        self._deadline = deadline
        self._planner = Planner(engine, request)
        self.books = Books(
            new_claim(engine, request),
            request.input,
            settler=engine.settler,
            wait_seconds=lambda: self._left_seconds() + SETTLE_GRACE_SECONDS,
        )
        self._attempts = GrantedAttempts(
            engine,
            request,
            planner=self._planner,
            books=self.books,
            deadline=deadline,
            outbox=outbox,
        )
        self._refusal: errors.LedgerRefusalError | None = None
        self._notes: tuple[str, ...] = ()
        self._unopened = False
        """Whether shared keys are missing because keyvault cannot open them."""

    @property
    def left(self) -> bool:
        """
        Tell whether the caller has left.
        """
        return self._attempts.left

    @property
    def notes(self) -> tuple[str, ...]:
        """
        Give what the plan has to tell the caller.
        """
        return self._notes

    @property
    def resealed(self) -> tuple[ResealedKey, ...]:
        """
        Give the client-held keys that were sealed anew.
        """
        return self._planner.resealed

    def leave(self) -> None:
        """
        Say that the caller has left.
        """
        self._attempts.leave()

    async def __call__(self) -> Service | Recorded:
        """
        Walk until an attempt serves the request, or its record is found.

        Raises:
            ServiceError: Nothing served it.
        """
        try:
            return await self._walk()
        except CallerLeftError:
            raise self._attempts.told or self._abandoned() from None
        finally:
            self._planner.release()

    async def _walk(self) -> Service | Recorded:
        plan = await self._plan()
        progress = self._begin(plan)
        replans = 0
        while True:
            if self.left:
                raise CallerLeftError
            step = next_step.decide(progress, now=self._engine.clock.monotonic())
            match step:
                case End():
                    raise self._failure(step)
                case Refresh():
                    other = await self._planner.another_version(step.candidate)
                    progress = next_step.refreshed(progress, step.candidate, other)
                    continue
            try:
                result = await self._take(step, plan, progress)
            except KeyChangedMeanwhileError:
                replans += 1
                if replans > REPLANS_MAX:
                    raise _changed() from None
                plan = await self._plan(anew=True)
                progress = dataclasses.replace(self._begin(plan), attempts=replans)
                continue
            if not isinstance(result, Progress):
                return result
            progress = result

    async def _take(
        self, step: Try, plan: Plan, progress: Progress
    ) -> Service | Recorded | Progress:
        """
        Ask the ledger and make the attempt; gives the progress where it did not serve.
        """
        try:
            grant = await self._authorize(step, plan)
        except CONSENT_REFUSALS as refusal:
            self.books.refused()
            if step.own_key_state is OwnKeyState.READY or not plan.own:
                raise self._refused(refusal, plan) from None
            self._refusal = refusal
            return next_step.credits_refused(progress)
        except errors.OwnKeyLimitReachedError:
            self.books.refused()
            assert step.own is not None, "the ledger holds own keys to their limits"
            return next_step.limit_reached(progress, step.own)
        except errors.LedgerRefusalError as refusal:
            refusal.attempts = self.books.attempts
            raise
        if isinstance(grant, Recorded):
            return grant
        progress = next_step.granted(progress, step, grant.funding)
        candidate = step.own if grant.funding is Funding.OWN_KEY else step.shared
        assert candidate is not None, "the ledger grants only what terms were sent for"
        result = await self._attempts.make(candidate, grant)
        if isinstance(result, Service):
            return result
        return self._after(progress, candidate, result)

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
        Lay out who may serve the request.
        """
        request = self._request
        with tracing.span("plan"):
            plan = await self._planner.plan(anew=anew)
        fault = fault_of(request, plan, self._engine.catalogue)
        if fault is not None:
            raise fault
        self._notes = plan.notes
        self._unopened = _excludes(plan, ExclusionReason.KEY_UNAVAILABLE)
        return plan

    def _begin(self, plan: Plan) -> Progress:
        own_only = self._request.source is Source.OWN_KEY
        return next_step.begin(
            plan,
            deadline=self._deadline,
            own_only=own_only,
            may_repeat=self._request.input.operation.may_repeat,
        )

    async def _authorize(self, step: Try, plan: Plan) -> Grant | Recorded:
        """
        Claim the next attempt, after the step's pause; settles the previous one with it.
        """
        engine = self._engine
        if step.delay_seconds > SETTLE_FIRST_SECONDS:
            await self.books.settle_alone()
        if step.delay_seconds > 0 and not await self._credits_pay_anyway(step, plan):
            await engine.clock.sleep(step.delay_seconds)
        left = self._left_seconds()
        if left < next_step.ATTEMPT_SECONDS_MIN and not self.books.attempts:
            raise DeadlineTooShortError(
                f"{max(0.0, left) * 1000:.0f} ms are left of the deadline, too little to try; "
                "nothing was sent. Allow at least a few seconds"
            )
        grant = await engine.ledger.authorize(
            self.books.ask(step, always_use=plan.always_use),
            timeout_seconds=min(AUTHORIZE_SECONDS_MAX, max(0.1, left)),
        )
        if isinstance(grant, Grant):
            self.books.granted(grant)
        return grant

    async def _credits_pay_anyway(self, step: Try, plan: Plan) -> bool:
        """
        Ask, before a first wait for an own key, whether its account uses own keys at all.

        Raises:
            LedgerRefusalError: It does, and nothing will be granted after the wait either.
        """
        first = not self.books.attempts and self._refusal is None
        if not first or step.own is None or step.shared is None:
            return False
        try:
            answer = await self._engine.ledger.authorize(
                self.books.ask(step, always_use=plan.always_use, dry_run=True),
                timeout_seconds=min(AUTHORIZE_SECONDS_MAX, max(0.1, self._left_seconds())),
            )
        except errors.OwnKeyLimitReachedError:
            # Nothing to wait for: the real ask is told the same.
            return True
        return isinstance(answer, Recorded) or answer.funding is Funding.CREDITS

    # ---- small questions and errors

    def _left_seconds(self) -> float:
        return self._deadline - self._engine.clock.monotonic()

    def _failure(self, end: End) -> ServiceError:
        lacking = isinstance(self._refusal, errors.CreditsNotPossibleError)
        on_credits = end.failure is None and end.funding is Funding.CREDITS
        faulty = end.failure is not None and next_step.is_request_fault(end.failure)
        if self._unopened and (lacking or on_credits) and not faulty:
            return shared_keys_unavailable(self.books.attempts)
        return failure_error(
            end,
            attempts=self.books.attempts,
            refusal=self._refusal,
            catalogue=self._engine.catalogue,
            now=self._engine.clock.monotonic(),
        )

    def _refused(self, refusal: errors.LedgerRefusalError, plan: Plan) -> ServiceError:
        """
        Word a final refusal; shared keys that cannot serve are the service's lack.
        """
        if is_own_lack(refusal, plan):
            return self._failure(End(None, Funding.CREDITS, None))
        refusal.attempts = self.books.attempts
        return refusal

    def _abandoned(self) -> ServiceError:
        return errors.RequestAbandonedError(
            "the caller left before the end of this request; what had been delivered was settled: "
            "ask again under a new request id",
            attempts=self.books.attempts,
            metadata={"request_id": self._request.request_id},
        )


def new_claim(engine: Engine, request: Request) -> Claim:
    """
    Give the claim of one run of a request.
    """
    return Claim(
        account=request.account,
        request_id=request.request_id,
        claimant=engine.new_claimant(),
        fingerprint=request_fingerprint(engine.fingerprint_key, request),
        fingerprint_version=FINGERPRINT_VERSION,
        source=request.source,
        always_use=False,
        operation=request.input.operation,
    )


def fault_of(request: Request, plan: Plan, catalogue: Catalogue) -> ServiceError | None:
    """
    Give what a request is refused with before anybody is asked; None where the ledger decides.
    """
    asks_ledger = request.source is Source.OWN_KEY or plan.own or plan.shared
    if asks_ledger or _lacks_shared_keys(plan):
        return None
    return no_candidate(request, plan, catalogue)


def is_own_lack(refusal: errors.LedgerRefusalError, plan: Plan) -> bool:
    """
    Tell whether credits cannot pay only because the service's own keys cannot serve.
    """
    lacking = _lacks_shared_keys(plan) or bool(plan.shared)
    return isinstance(refusal, errors.CreditsNotPossibleError) and lacking


def _lacks_shared_keys(plan: Plan) -> bool:
    return _excludes(plan, ExclusionReason.NO_SHARED_KEY, ExclusionReason.KEY_UNAVAILABLE)


def _excludes(plan: Plan, *reasons: ExclusionReason) -> bool:
    return any(e.reason in reasons for e in plan.exclusions)


def _changed() -> ServiceError:
    return errors.KeyChangedError(
        "the key was changed again and again while the request ran; nothing was sent on it: try "
        "again shortly",
        retry_after_seconds=1.0,
    )
