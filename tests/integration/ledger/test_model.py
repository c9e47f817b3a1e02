# SPDX-License-Identifier: Apache-2.0
"""
The ledger against an independent model in plain Python that predicts every reply.

The model reckons as a person would on paper, see `tests/support/ledger_paper.py`. After each step
the balance is compared and the ledger proves its own invariants.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from ownkey.ledger.v1 import account_pb2, grant_pb2, verification_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.ledger.adapters.retention import PostgresRetention
from services.ledger.domain.requests import RETENTION_DAYS_MIN
from services.ledger.usecases.retention import Retention
from services.shared.postgres import Database
from services.shared.status import from_rpc_error, read_status
from tests.support.clock import ManualClock, RestingClock
from tests.support.ledger import (
    Run,
    RunningLedger,
    captured,
    own_key,
    request_id,
    running_ledger,
    told,
)
from tests.support.ledger_paper import (
    ALLOWED,
    CONSENTS,
    MODES,
    NEEDS,
    Held,
    Paper,
    months_later,
    now,
)
from tests.support.ledger_time import months_pass

EXAMPLES, STEPS = 8, 25
SOURCES = ("AUTO", "OWN_KEY", "CREDITS")
STATES = ("READY", "NONE_STORED", "DISABLED", "UNKNOWN", *NEEDS)
AMOUNTS = st.integers(0, 300)
LIMITS = st.sampled_from((None, 300, 900))
FORGOTTEN_AFTER_MONTHS = 14
"""More than the 400 days that requests are kept."""


@dataclass
class Attempt:
    """An attempt on the ledger and on paper."""

    run: Run
    name: str
    paper: Held
    asked: tuple[str, int] | None = None
    answer: Any = None
    ended: bool = False
    gone: bool = False


class LedgerThread:
    """Runs a ledger in a thread, so that Hypothesis' synchronous rules can call it."""

    def __init__(self) -> None:
        self.books: RunningLedger
        self._loop = asyncio.new_event_loop()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the ledger's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    @contextmanager
    def serving(self, folder: Path, dsn: str) -> Iterator[LedgerThread]:
        """Serve while the block runs."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        running = running_ledger(folder, dsn, clock=RestingClock())
        try:
            self.books = self.call(running.__aenter__())
            yield self
        finally:
            self.call(running.__aexit__(None, None, None))
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()


def machine(  # noqa: C901 - one class of many small rules
    ledger: LedgerThread, numbers: Iterator[int]
) -> type[RuleBasedStateMachine]:
    """Return the state machine for a ledger."""

    class Machine(RuleBasedStateMachine):
        attempts = Bundle("attempts")

        @initialize(owns=st.integers(0, 500), plan=st.sampled_from(sorted(ALLOWED)))
        def begin(self, owns: int, plan: str) -> None:
            self.paper = Paper(plan)
            self.granted: list[Attempt] = []
            self.made_older = False
            self.account_id = f"model-{next(numbers)}"
            self.account = ledger.call(ledger.books.account(self.account_id, plan=plan))
            self.paper.fall_due()
            if owns:
                self.grant(owns, None)

        @rule(amount=st.integers(1, 400), months=st.sampled_from((None, 1, 2, 5)))
        def grant(self, amount: int, months: int | None) -> None:
            ends = None if months is None else months_later(now(), months)
            self.paper.fall_due()
            fields = {} if ends is None else {"expire_time": stamp(ends)}
            ledger.call(ledger.books.grant(self.account, amount, **fields))
            self.paper.grant(amount, ends=ends)

        @rule(amount=st.integers(-300, 300).filter(bool))
        def adjust(self, amount: int) -> None:
            request = grant_pb2.AdjustCreditsRequest(
                request_id=request_id(),
                account=self.account,
                amount_nano_credits=amount,
                reason="model",
            )
            self.paper.fall_due()
            reason = self._reason(lambda: ledger.books.backend.AdjustCredits(request))
            if amount > 0:
                self.paper.grant(amount)
                assert reason == ""
            elif self.paper.take_back(-amount):
                assert reason == ""
            else:
                assert reason == "INSUFFICIENT_CREDITS"

        @rule(mode=st.sampled_from(MODES))
        def switch(self, mode: str) -> None:
            self.paper.fall_due()
            if mode not in ALLOWED[self.paper.plan]:
                refusal = self._reason(lambda: ledger.books.set_mode(self.account, mode))
                assert refusal == "MODE_NOT_ALLOWED"
                return
            response = ledger.call(ledger.books.set_mode(self.account, mode))
            self._switched(response, mode)

        @rule(plan=st.sampled_from(sorted(ALLOWED)), mode=st.sampled_from((None, *MODES)))
        def change_plan(self, plan: str, mode: str | None) -> None:
            request = account_pb2.UpdateAccountRequest(
                request_id=request_id(),
                account=account_pb2.Account(name=self.account, plan=f"plans/{plan}"),
                update_mask=FieldMask(paths=["plan"]),
            )
            if mode is not None:
                request.billing_mode = account_pb2.BillingMode.Value(f"BILLING_MODE_{mode}")
            self.paper.fall_due()
            to = mode or self.paper.mode
            if to not in ALLOWED[plan]:
                reason = self._reason(lambda: ledger.books.backend.UpdateAccount(request))
                assert reason == ("MODE_NOT_ALLOWED" if mode else "MODE_CHANGE_REQUIRED")
                return
            self.paper.plan = plan
            self._switched(self._sent(lambda: ledger.books.backend.UpdateAccount(request)), to)
            self.paper.fall_due()

        @rule(
            consent=st.sampled_from(CONSENTS),
            cap=st.sampled_from((None, 0, 200, 600)),
        )
        def set_consent(self, consent: str, cap: int | None) -> None:
            value = account_pb2.FallbackConsent.Value(f"FALLBACK_CONSENT_{consent}")
            account = account_pb2.Account(name=self.account, fallback_consent=value)
            if cap is not None:
                account.fallback_daily_cap_nano_credits = cap
            request = account_pb2.UpdateAccountRequest(
                request_id=request_id(),
                account=account,
                update_mask=FieldMask(
                    paths=["fallback_consent", "fallback_daily_cap_nano_credits"]
                ),
            )
            self.paper.fall_due()
            assert self._reason(lambda: ledger.books.backend.UpdateAccount(request)) == ""
            self.paper.consent, self.paper.cap = consent, cap

        @rule(
            target=attempts,
            source=st.sampled_from(SOURCES),
            state=st.sampled_from(STATES),
            always_use=st.booleans(),
            worst_case=AMOUNTS,
            limit=LIMITS,
            repeat=st.booleans(),
        )
        def authorize(
            self,
            source: str,
            state: str,
            worst_case: int,
            limit: int | None,
            *,
            always_use: bool,
            repeat: bool,
        ) -> Any:
            run = ledger.books.run(self.account)
            fields = {
                "source": pb.Source.Value(f"SOURCE_{source}"),
                "own_key_state": pb.OwnKeyState.Value(f"OWN_KEY_STATE_{state}"),
                "always_use": always_use,
                "worst_case": worst_case,
                "own_key": own_key(self.account, worst_case, monthly_limit_nano_usd=limit),
            }
            self.paper.fall_due()
            expected = self.paper.decide(
                source, state, always_use=always_use, worst_case=worst_case, limit=limit
            )
            result = self._authorized(run, fields)
            if repeat:
                again = self._authorized(run, fields)
                assert again.response == result.response
                assert told(read_status(again.error)) == told(read_status(result.error))
            if result.HasField("error"):
                assert read_status(result.error).reason == expected
                return multiple()
            return self._granted(run, result.response.granted, expected, worst_case)

        @rule(attempt=attempts, cost=AMOUNTS, delivered=st.booleans(), ends=st.booleans())
        def capture(self, attempt: Attempt, cost: int, *, delivered: bool, ends: bool) -> None:
            end = pb.RequestEnd(succeeded=True) if ends else None
            request = attempt.run.capture_request(cost, delivered=delivered, end=end)
            settle = pb.SettleRequest(capture=request)
            self._settle(attempt, settle, asked=(f"capture {delivered}", cost), ends=ends)

        @rule(attempt=attempts)
        def release(self, attempt: Attempt) -> None:
            run = attempt.run
            request = pb.ReleaseRequest(
                account=run.account,
                request_id=run.request_id,
                claimant=run.claimant,
                sequence=1,
                release=pb.ReleaseTerms(outcome="overloaded"),
            )
            settle = pb.SettleRequest(release=request)
            self._settle(attempt, settle, asked=("release", 0), ends=False)

        @rule(attempt=attempts, amount=st.integers(1, 300))
        def refund(self, attempt: Attempt, amount: int) -> None:
            request = grant_pb2.RefundChargeRequest(
                request_id=request_id(),
                authorization=attempt.name,
                amount_nano_credits=amount,
                reason="model",
            )
            reason = self._reason(lambda: ledger.books.operator.RefundCharge(request))
            if attempt.gone:
                assert reason == "AUTHORIZATION_NOT_FOUND"
                return
            self.paper.fall_due()
            assert reason == self.paper.refund(attempt.paper, amount)

        @rule(attempt=attempts, cost=AMOUNTS)
        def renew(self, attempt: Attempt, cost: int) -> None:
            self.paper.fall_due()
            reason = self._reason(lambda: attempt.run.renew(checkpoint=captured(cost)))
            settled = "ALREADY_SETTLED" if attempt.asked else ""
            assert reason == ("AUTHORIZATION_NOT_FOUND" if attempt.gone else settled)

        @rule(target=attempts, attempt=attempts)
        def another_claimant(self, attempt: Attempt) -> Any:
            again = attempt.run.again()
            self.paper.fall_due()
            result = self._authorized(again, {"source": pb.SOURCE_CREDITS, "worst_case": 0})
            if attempt.gone:
                # The id of a forgotten request is as good as a new one, once.
                attempt.gone, attempt.run = False, again
                new = self._granted(again, result.response.granted, "CREDITS", 0)
                self.granted.remove(attempt)
                attempt.paper, attempt.name = new.paper, new.name
                attempt.asked, attempt.answer, attempt.ended = None, None, False
                self.granted[-1] = attempt
            elif attempt.ended:
                assert result.response.recorded.state == pb.REQUEST_STATE_SUCCEEDED
            else:
                assert read_status(result.error).reason == "REQUEST_IN_PROGRESS"
            return multiple()

        @rule(months=st.integers(1, 3))
        def months_go_by(self, months: int) -> None:
            self._pass(months)

        @rule()
        def a_year_goes_by_and_the_old_is_forgotten(self) -> None:
            self._pass(FORGOTTEN_AFTER_MONTHS)
            ledger.call(forget(ledger.books.dsn))
            for attempt in self.granted:
                attempt.gone = attempt.gone or attempt.ended

        @invariant()
        def the_balance_is_as_on_paper(self) -> None:
            balance = ledger.call(ledger.books.balance(self.account))
            # What falls due is shown at once and written down by whoever changes something.
            paper = copy.deepcopy(self.paper)
            paper.fall_due()
            assert (
                balance.posted_nano_credits,
                balance.reserved_nano_credits,
                balance.available_nano_credits,
                balance.issued_nano_credits,
                balance.spent_nano_credits,
                balance.absorbed_nano_credits,
                balance.fees_nano_credits,
                balance.invoiced_nano_credits,
                balance.expired_nano_credits,
            ) == (
                paper.posted,
                paper.reserved,
                paper.available,
                paper.issued,
                paper.spent,
                paper.absorbed,
                paper.fees,
                paper.invoiced,
                paper.expired,
            )

        @invariant()
        def the_ledger_proves_itself(self) -> None:
            request = verification_pb2.VerifyLedgerRequest(account=self.account)

            async def found() -> list[Any]:
                stream = ledger.books.operator.VerifyLedger(request)
                return [v for message in [m async for m in stream] for v in message.violations]

            assert ledger.call(found()) == []

        def _pass(self, months: int) -> None:
            ledger.call(months_pass(ledger.books.dsn, self.account_id, months))
            self.paper.months_pass(months)
            self.made_older = self.made_older or self.paper.pause is not None

        def _switched(self, response: Any, mode: str) -> None:
            changed, before = mode != self.paper.mode, self.paper.mode
            assert response.HasField("receipt") == (changed and mode == "OWN_KEY_ONLY")
            assert response.HasField("proof") == (changed and before == "OWN_KEY_ONLY")
            # A receipt is sealed, time included: what was made older under it shows.
            assert not response.HasField("proof") or response.proof.proven != self.made_older
            self.made_older = self.made_older and not changed
            self.paper.switch(mode)
            assert response.account.mode_epoch == self.paper.epoch

        def _granted(self, run: Run, granted: Any, expected: str, worst_case: int) -> Attempt:
            assert granted.fallback == (expected == "FALLBACK")
            paper = self.paper.hold(expected, worst_case)
            assert granted.funding == pb.Funding.Value(f"FUNDING_{paper.funding}")
            assert granted.fee_waived == paper.free
            assert granted.held_nano_credits == paper.held
            assert granted.mode_epoch == self.paper.epoch
            attempt = Attempt(run, granted.name, paper)
            self.granted.append(attempt)
            return attempt

        def _authorized(self, run: Run, fields: dict[str, Any]) -> pb.AuthorizeResult:
            request = run.authorize_request(**fields)
            batch = pb.BatchAuthorizeRequest(requests=[request])
            result: pb.AuthorizeResult = self._sent(
                lambda: ledger.books.router.BatchAuthorize(batch)
            ).results[0]
            return result

        def _settle(
            self, attempt: Attempt, request: Any, *, asked: tuple[str, int], ends: bool
        ) -> None:
            batch = pb.BatchSettleRequest(requests=[request])
            self.paper.fall_due()
            result = self._sent(lambda: ledger.books.router.BatchSettle(batch)).results[0]
            if attempt.gone:
                assert read_status(result.error).reason == "AUTHORIZATION_NOT_FOUND"
            elif attempt.asked is None:
                attempt.asked, attempt.answer = asked, result
                word, cost = asked
                paid, borne = self.paper.settle(
                    attempt.paper, cost, billed=word != "release", delivered=word == "capture True"
                )
                found = result.authorization
                assert found.charged_nano_credits == paid
                assert found.absorbed_nano_credits == borne
                attempt.ended = ends
            elif attempt.asked == asked:
                attempt.ended = attempt.ended or ends
                # A refund shows, and the time of what came before is older by now.
                for one in (result.authorization, attempt.answer.authorization):
                    one.ClearField("refunded_nano_credits")
                    one.ClearField("create_time")
                    one.ClearField("settle_time")
                assert result == attempt.answer
            else:
                assert read_status(result.error).reason == "ALREADY_SETTLED"

        def _sent(self, call: Callable[[], Awaitable[Any]]) -> Any:
            async def answer() -> Any:
                return await call()

            return ledger.call(answer())

        def _reason(self, call: Callable[[], Awaitable[Any]]) -> str:
            """Return the reason of a refusal, empty for an answer."""

            async def reason() -> str:
                try:
                    await call()
                except grpc.aio.AioRpcError as error:
                    return from_rpc_error(error).reason
                return ""

            found: str = ledger.call(reason())
            return found

    return Machine


def stamp(time: datetime) -> Timestamp:
    """Return a time as the protos have it."""
    found = Timestamp()
    found.FromDatetime(time)
    return found


async def forget(dsn: str) -> None:
    """Forget what is past the retention, as the background task does."""
    database = Database(dsn, application_name="test", pool_size=1)
    await database.open()
    try:
        store = PostgresRetention(database, days=RETENTION_DAYS_MIN)
        await Retention(store=store, clock=ManualClock(), interval_seconds=1).forget()
    finally:
        await database.close()


@pytest.mark.timeout(300)
@pytest.mark.requirement("L2", "L3", "L4", "L5", "L6", "L7", "L8", "L11", "L12", "L13", "R9")
def test_every_reply_is_as_the_model_predicts(tmp_path: Path, ledger_dsn: str) -> None:
    with LedgerThread().serving(tmp_path, ledger_dsn) as ledger:
        run_state_machine_as_test(
            machine(ledger, itertools.count()),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
