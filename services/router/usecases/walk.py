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

from typing import TYPE_CHECKING

from services.router import errors
from services.router.domain import next_step
from services.router.domain.next_step import End, Failure, Refresh, Try
from services.router.domain.plan import Candidate, Funding, Plan
from services.router.domain.progress import Progress
from services.router.domain.request import Source
from services.router.domain.turns import ATTEMPT_SECONDS_MIN
from services.router.usecases.books import Books
from services.router.usecases.failures import key_changed, peer_lost
from services.router.usecases.granted import (
    CallerLeftError,
    GrantedAttempts,
    KeyChangedMeanwhileError,
    Service,
)
from services.router.usecases.planner import Planner
from services.router.usecases.ports import Claim, Grant, Recorded
from services.router.usecases.refusals import Wording, after_refusal, fault_of
from services.router.usecases.request_identity import FINGERPRINT_VERSION, request_fingerprint
from services.shared import tracing
from services.shared.errors import DeadlineTooShortError, PeerUnavailableError, ServiceError

if TYPE_CHECKING:
    from services.router.domain.keys import ResealedKey
    from services.router.domain.request import Request
    from services.router.usecases.engine import Engine, Event
    from services.router.usecases.outbox import Outbox

SETTLE_GRACE_SECONDS = 0.15
"""How long past its deadline an answer waits for its settlement; less than the boundary allows."""
AUTHORIZE_SECONDS_MAX = 10.0
REPLANS_MAX = 2


class PricesChangedError(Exception):
    """Other prices came into force before anything was sent: plan anew."""


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
        self._catalogue = engine.catalogue
        """What the plan was priced by."""
        self._notes: tuple[str, ...] = ()

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
        except PeerUnavailableError as away:
            if not self.books.attempts:
                raise
            raise peer_lost(away, self.books.attempts) from None
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
                    raise self._wording(plan).ended(step, self._refusal)
                case Refresh():
                    other = await self._planner.another_version(step.candidate)
                    progress = next_step.refreshed(progress, step.candidate, other)
                    continue
            try:
                result = await self._take(step, plan, progress)
            except (KeyChangedMeanwhileError, PricesChangedError) as changed:
                replans += 1
                if replans > REPLANS_MAX:
                    raise key_changed(self.books.attempts) from None
                plan = await self._plan(anew=True)
                granted = isinstance(changed, KeyChangedMeanwhileError)
                progress = next_step.begin_again(progress, plan, granted=granted)
                continue
            if not isinstance(result, Progress):
                return result
            progress = result

    async def _take(
        self, step: Try, plan: Plan, progress: Progress
    ) -> Service | Recorded | Progress:
        """
        Ask the ledger and make the attempt; gives the progress where it did not serve.

        Raises:
            KeyChangedMeanwhileError: Nothing was sent.
            PricesChangedError: Nothing was asked; an attempt is authorized at the price in force.
        """
        if self._engine.catalogue is not self._catalogue:
            raise PricesChangedError
        try:
            grant = await self._authorize(step, plan)
        except errors.LedgerRefusalError as refusal:
            going_on = after_refusal(progress, step, refusal)
            if going_on is None:
                raise self._wording(plan).refused(refusal, progress) from None
            self.books.refused()
            if going_on.credits_refused:
                self._refusal = refusal
            return going_on
        if isinstance(grant, Recorded):
            return grant
        progress = next_step.granted(progress, step, grant.funding)
        on_own_key = grant.funding is Funding.OWN_KEY
        candidate = step.own if on_own_key else step.shared
        assert candidate is not None, "the ledger grants only what terms were sent for"
        result = await self._attempts.make(
            candidate,
            grant,
            wait_seconds=step.own_wait_seconds if on_own_key else step.shared_wait_seconds,
        )
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
        self._catalogue = self._engine.catalogue
        with tracing.span("plan"):
            plan = await self._planner.plan(anew=anew)
        fault = fault_of(request, plan, self._engine.catalogue)
        if fault is not None:
            raise fault
        self._notes = plan.notes
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
        Claim the next attempt; settles the previous one with it.
        """
        left = self._left_seconds()
        if left < ATTEMPT_SECONDS_MIN and not self.books.attempts:
            raise DeadlineTooShortError(
                f"{max(0.0, left) * 1000:.0f} ms are left of the deadline, too little to try; "
                "nothing was sent. Allow at least a few seconds"
            )
        grant = await self._engine.ledger.authorize(
            self.books.ask(step, always_use=plan.always_use),
            timeout_seconds=min(AUTHORIZE_SECONDS_MAX, max(0.1, left)),
        )
        if isinstance(grant, Grant):
            self.books.granted(grant)
        return grant

    # ---- small questions and errors

    def _left_seconds(self) -> float:
        return self._deadline - self._engine.clock.monotonic()

    def _wording(self, plan: Plan) -> Wording:
        return Wording(
            plan,
            self._engine.catalogue,
            attempts=self.books.attempts,
            now=self._engine.clock.monotonic(),
        )

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
