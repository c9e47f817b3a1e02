# SPDX-License-Identifier: Apache-2.0
"""
The ledger against an independent model in plain Python that predicts every reply.

The model knows neither grants nor entries: only what a person would reckon with on paper. After
each run the ledger proves its own invariants.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import HealthCheck, settings
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

from services.shared.status import from_rpc_error, read_status
from tests.support.ledger import (
    Run,
    RunningLedger,
    captured,
    own_key,
    request_id,
    running_ledger,
    told,
)

OVERDRAFT = 50
MODES = ("CREDITS", "OWN_KEY_FIRST", "OWN_KEY_ONLY")
SOURCES = ("AUTO", "OWN_KEY", "CREDITS")
CONSENTS = ("NEVER", "RATE_LIMIT", "KEY_FAILURE", "ANY")
NEEDS = {"COOLING": 1, "REJECTED": 2, "NO_CREDIT": 2, "PROVIDER_FAILED": 3, "LIMIT_REACHED": 3}
STATES = ("READY", "NONE_STORED", "DISABLED", "UNKNOWN", *NEEDS)
AMOUNTS = st.integers(0, 300)
PLANS = ("overdraft", "overdraft-fee", "overdraft-invoice")
LIMITS = st.sampled_from((None, 300, 900))


@dataclass
class Attempt:
    """What the model knows of an attempt that was granted."""

    run: Run
    name: str
    funding: str
    held: int
    worst_case: int
    free: bool
    settled: tuple[str, int] | None = None
    paid: int = 0
    answer: Any = None


@dataclass
class Paper:
    """The account as reckoned on paper."""

    plan: str
    mode: str = "CREDITS"
    consent: str = "ANY"
    posted: int = 0
    reserved: int = 0
    issued: int = 0
    spent: int = 0
    absorbed: int = 0
    fees: int = 0
    invoiced: int = 0
    free: int = 0
    budget: int = 0
    epoch: int = 1

    def __post_init__(self) -> None:
        self.free = 2 if self.plan == "overdraft-fee" else 0

    def fee(self, cost: int) -> int:
        """Return the fee on an attempt that is not free."""
        if self.plan == "overdraft-fee":
            return min(90, round(Fraction(cost, 2)))
        return round(Fraction(cost, 4)) if self.plan == "overdraft-invoice" else 0

    def holds(self, who: str, worst_case: int) -> int:
        """Return what an attempt holds in credits."""
        if who != "OWN_KEY":
            return worst_case
        return self.fee(worst_case) if self.plan == "overdraft-fee" and not self.free else 0

    def decide(
        self, source: str, state: str, *, always_use: bool, worst_case: int, limit: int | None
    ) -> str:
        """Return who pays (own key, credits, fallback) or the reason of the refusal."""
        who = self._who(source, state, always_use=always_use)
        if who not in {"OWN_KEY", "CREDITS", "FALLBACK"}:
            return who
        if who == "OWN_KEY" and limit is not None and self.budget + worst_case > limit:
            return "OWN_KEY_LIMIT_REACHED"
        needed = self.holds(who, worst_case)
        if needed and needed > self.posted - self.reserved:
            return "INSUFFICIENT_CREDITS"
        return who

    def _who(self, source: str, state: str, *, always_use: bool) -> str:
        if source == "CREDITS" or (self.mode, source) == ("CREDITS", "AUTO"):
            return "CREDITS"
        if self.mode == "CREDITS":
            return "SOURCE_NOT_ALLOWED"
        if state in {"UNKNOWN", "READY"}:
            return {"UNKNOWN": "OWN_KEYS_UNKNOWN", "READY": "OWN_KEY"}[state]
        if source == "OWN_KEY" or self.mode == "OWN_KEY_ONLY":
            return "NO_USABLE_OWN_KEY"
        if state not in NEEDS:
            return "CREDITS"
        allowed = CONSENTS.index(self.consent) >= NEEDS[state] and not always_use
        return "FALLBACK" if allowed else "FALLBACK_NOT_ALLOWED"

    def settle(self, attempt: Attempt, cost: int, *, billed: bool, delivered: bool) -> Any:
        """Settle an attempt; return what the customer pays and what the house bears."""
        if attempt.funding == "CREDITS":
            paid = self.charge(attempt.held, cost if delivered else 0)
            self.spent += sum(paid)
            return paid
        self.budget += (cost if billed else 0) - attempt.worst_case
        self.free += attempt.free and not delivered
        fee = self.fee(cost) if delivered and not attempt.free else 0
        self.fees += fee
        if self.plan == "overdraft-invoice":
            self.invoiced += fee
            return fee, 0
        return self.charge(attempt.held, fee)

    def refund(self, attempt: Attempt, amount: int) -> str:
        """Refund a charge; return the reason of the refusal, empty if it is done."""
        if attempt.settled is None or attempt.settled[0] == "release":
            return "CHARGE_NOT_REFUNDABLE"
        if amount > attempt.paid:
            return "REFUND_EXCEEDS_CHARGE"
        attempt.paid -= amount
        if attempt.funding == "CREDITS":
            self.spent -= amount
        else:
            self.fees -= amount
        if attempt.funding == "OWN_KEY" and self.plan == "overdraft-invoice":
            self.invoiced -= amount
        else:
            self.posted += amount
        return ""

    def charge(self, held: int, price: int) -> tuple[int, int]:
        """Settle a hold of credits; return what the customer pays and what the house bears."""
        self.reserved -= held
        by_hold = min(held, price)
        # Past the hold comes what is free, then what is left of the overdraft.
        most = self.posted - by_hold - self.reserved + OVERDRAFT
        paid = by_hold + min(price - by_hold, most)
        self.posted -= paid
        self.absorbed += price - paid
        return paid, price - paid


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
        running = running_ledger(folder, dsn)
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

        @initialize(owns=st.integers(0, 500), plan=st.sampled_from(PLANS))
        def begin(self, owns: int, plan: str) -> None:
            self.paper = Paper(plan)
            name = f"model-{next(numbers)}"
            self.account = ledger.call(ledger.books.account(name, plan=plan))
            if owns:
                self.grant(owns)

        @rule(amount=st.integers(1, 400))
        def grant(self, amount: int) -> None:
            ledger.call(ledger.books.grant(self.account, amount))
            self.paper.posted += amount
            self.paper.issued += amount

        @rule(amount=st.integers(-300, 300).filter(bool))
        def adjust(self, amount: int) -> None:
            request = grant_pb2.AdjustCreditsRequest(
                request_id=request_id(),
                account=self.account,
                amount_nano_credits=amount,
                reason="model",
            )
            available = self.paper.posted - self.paper.reserved
            reason = self._reason(lambda: ledger.books.backend.AdjustCredits(request))
            if amount < 0 and -amount > available:
                assert reason == "INSUFFICIENT_CREDITS"
                return
            assert reason == ""
            self.paper.posted += amount
            self.paper.issued += amount

        @rule(mode=st.sampled_from(MODES))
        def switch(self, mode: str) -> None:
            if mode == "OWN_KEY_ONLY" and self.paper.plan == "overdraft-fee":
                refusal = self._reason(lambda: ledger.books.set_mode(self.account, mode))
                assert refusal == "MODE_NOT_ALLOWED"
                return
            response = ledger.call(ledger.books.set_mode(self.account, mode))
            changed = mode != self.paper.mode
            assert response.HasField("receipt") == (changed and mode == "OWN_KEY_ONLY")
            assert response.HasField("proof") == (changed and self.paper.mode == "OWN_KEY_ONLY")
            assert not response.HasField("proof") or response.proof.proven
            self.paper.mode = mode
            self.paper.epoch += changed
            assert response.account.mode_epoch == self.paper.epoch

        @rule(consent=st.sampled_from(CONSENTS))
        def set_consent(self, consent: str) -> None:
            value = account_pb2.FallbackConsent.Value(f"FALLBACK_CONSENT_{consent}")
            request = account_pb2.UpdateAccountRequest(
                request_id=request_id(),
                account=account_pb2.Account(name=self.account, fallback_consent=value),
                update_mask=FieldMask(paths=["fallback_consent"]),
            )
            assert self._reason(lambda: ledger.books.backend.UpdateAccount(request)) == ""
            self.paper.consent = consent

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
            granted = result.response.granted
            assert granted.fallback == (expected == "FALLBACK")
            funding = "OWN_KEY" if expected == "OWN_KEY" else "CREDITS"
            assert granted.funding == pb.Funding.Value(f"FUNDING_{funding}")
            held = self.paper.holds(expected, worst_case)
            free = funding == "OWN_KEY" and self.paper.free > 0
            assert granted.fee_waived == free
            assert (granted.held_nano_credits, granted.mode_epoch) == (held, self.paper.epoch)
            self.paper.reserved += held
            self.paper.free -= free
            self.paper.budget += worst_case if funding == "OWN_KEY" else 0
            return Attempt(run, granted.name, funding, held, worst_case, free)

        @rule(attempt=attempts, cost=AMOUNTS, delivered=st.booleans())
        def capture(self, attempt: Attempt, cost: int, *, delivered: bool) -> None:
            request = attempt.run.capture_request(cost, delivered=delivered)
            settle = pb.SettleRequest(capture=request)
            self._settle(attempt, settle, asked=(f"capture {delivered}", cost))

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
            self._settle(attempt, settle, asked=("release", 0))

        @rule(attempt=attempts, amount=st.integers(1, 300))
        def refund(self, attempt: Attempt, amount: int) -> None:
            request = grant_pb2.RefundChargeRequest(
                request_id=request_id(),
                authorization=attempt.name,
                amount_nano_credits=amount,
                reason="model",
            )
            reason = self._reason(lambda: ledger.books.operator.RefundCharge(request))
            assert reason == self.paper.refund(attempt, amount)

        @rule(attempt=attempts, cost=AMOUNTS)
        def renew(self, attempt: Attempt, cost: int) -> None:
            reason = self._reason(lambda: attempt.run.renew(checkpoint=captured(cost)))
            assert reason == ("ALREADY_SETTLED" if attempt.settled else "")

        @rule(attempt=attempts)
        def another_claimant(self, attempt: Attempt) -> None:
            reason = self._reason(lambda: attempt.run.again().authorize())
            assert reason == "REQUEST_IN_PROGRESS"

        @invariant()
        def the_balance_is_as_on_paper(self) -> None:
            balance = ledger.call(ledger.books.balance(self.account))
            paper = self.paper
            assert (
                balance.posted_nano_credits,
                balance.reserved_nano_credits,
                balance.available_nano_credits,
                balance.issued_nano_credits,
                balance.spent_nano_credits,
                balance.absorbed_nano_credits,
                balance.fees_nano_credits,
                balance.invoiced_nano_credits,
            ) == (
                paper.posted,
                paper.reserved,
                paper.posted - paper.reserved,
                paper.issued,
                paper.spent,
                paper.absorbed,
                paper.fees,
                paper.invoiced,
            )

        def teardown(self) -> None:
            request = verification_pb2.VerifyLedgerRequest(account=self.account)

            async def found() -> list[Any]:
                stream = ledger.books.operator.VerifyLedger(request)
                return [v for message in [m async for m in stream] for v in message.violations]

            assert ledger.call(found()) == []

        def _authorized(self, run: Run, fields: dict[str, Any]) -> pb.AuthorizeResult:
            request = run.authorize_request(**fields)
            batch = pb.BatchAuthorizeRequest(requests=[request])

            async def call() -> pb.AuthorizeResult:
                return (await ledger.books.router.BatchAuthorize(batch)).results[0]

            result: pb.AuthorizeResult = ledger.call(call())
            return result

        def _settle(self, attempt: Attempt, request: Any, *, asked: tuple[str, int]) -> None:
            batch = pb.BatchSettleRequest(requests=[request])

            async def call() -> pb.SettleResult:
                return (await ledger.books.router.BatchSettle(batch)).results[0]

            result = ledger.call(call())
            if attempt.settled is None:
                attempt.settled, attempt.answer = asked, result
                word, cost = asked
                paid, borne = self.paper.settle(
                    attempt, cost, billed=word != "release", delivered=word == "capture True"
                )
                found = result.authorization
                assert found.charged_nano_credits == paid
                assert found.absorbed_nano_credits == borne
                attempt.paid = paid
            elif attempt.settled == asked:
                result.authorization.ClearField("refunded_nano_credits")
                assert result == attempt.answer
            else:
                assert read_status(result.error).reason == "ALREADY_SETTLED"

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


@pytest.mark.requirement("L3", "L4", "L5", "L6", "L7", "L8", "L11", "L12", "L13", "R9")
def test_every_reply_is_as_the_model_predicts(tmp_path: Path, ledger_dsn: str) -> None:
    with LedgerThread().serving(tmp_path, ledger_dsn) as ledger:
        run_state_machine_as_test(
            machine(ledger, itertools.count()),
            settings=settings(
                max_examples=40,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
