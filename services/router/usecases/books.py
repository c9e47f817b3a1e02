# SPDX-License-Identifier: Apache-2.0
"""
The books of one run: its attempts, and what the ledger still has to be told.

The ledger numbers every ask, refused ones too, and settles what an ask carries whatever it decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from services.router.domain.attempts import (
    CANCELLED,
    OK,
    AttemptBilled,
    AttemptRecord,
    PriceUsed,
    Receipt,
    UsageBasis,
)
from services.router.domain.next_step import Failure, Try
from services.router.domain.plan import Candidate, Funding
from services.router.domain.text import Usage
from services.router.domain.work import Work
from services.router.usecases import money, replay
from services.router.usecases.attempt import HTTP_OK, Delivered, Served
from services.router.usecases.ports import (
    Ask,
    Capture,
    Claim,
    Grant,
    Release,
    RequestEnd,
    Settled,
    Settlement,
)
from services.router.usecases.settlement import Settler
from services.router.usecases.terms import credit_terms, own_terms
from services.shared.errors import ServiceError


class Books:
    """
    One run's books.

    Args:
        claim: The run, as the ledger knows it.
        work: What is made, for estimates.
        settler: Settles attempts.
        wait_seconds: How long an answer may still wait for its settlement.
    """

    def __init__(
        self,
        claim: Claim,
        work: Work,
        *,
        settler: Settler,
        wait_seconds: Callable[[], float],
    ) -> None:
        self.claim = claim
        self.sequence = 0
        self._work = work
        self._settler = settler
        self._wait_seconds = wait_seconds
        self._records: list[AttemptRecord] = []
        self._last: Settlement | None = None
        self._told = False

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """
        Give every attempt made, in order.
        """
        return tuple(self._records)

    # ---- asking

    def ask(self, step: Try, *, always_use: bool, dry_run: bool = False) -> Ask:
        """
        Write the ask for the next attempt, with the settlement of the last.
        """
        if always_use is not self.claim.always_use:
            self.claim = dataclasses.replace(self.claim, always_use=always_use)
        return Ask(
            claim=self.claim,
            sequence=self.sequence + 1,
            own_key_state=step.own_key_state,
            own=own_terms(step.own),
            credits=credit_terms(step.shared),
            settlement=None if self._told else self._last,
            dry_run=dry_run,
        )

    def granted(self, grant: Grant) -> None:
        """
        Take a grant in; should this process stop here, nothing was sent.
        """
        self._note(grant.settled)
        self.sequence += 1
        self._last, self._told = Settlement(self.sequence, Release(CANCELLED)), False

    def refused(self) -> None:
        """
        Take a refusal in.
        """
        self.sequence += 1
        self._told = self._last is not None

    # ---- attempts

    def served(
        self,
        candidate: Candidate,
        grant: Grant,
        delivered: Delivered,
        served: Served,
        *,
        seconds: float,
        notes: list[str],
    ) -> Receipt:
        """
        Write down the attempt that served the request, and its receipt.
        """
        measured = money.measure(candidate, self._work, delivered, served.usage)
        if measured.basis is UsageBasis.ESTIMATED:
            notes.append(money.ESTIMATE_NOTE)
        output = delivered.content or measured.usage.output_tokens > 0
        terms = measured.capture(delivered=output)
        record = _record(
            candidate,
            grant,
            OK,
            AttemptBilled.YES,
            seconds,
            measured=measured,
            http_status=HTTP_OK,
        )
        self._write(record, terms)
        return Receipt(
            attempts=self.attempts,
            price=_price_used(candidate, measured.usage),
            settled=True,
            notes=tuple(notes),
            finish_reason=served.finish_reason,
        )

    def failed(
        self,
        candidate: Candidate,
        grant: Grant,
        delivered: Delivered,
        failure: Failure,
        *,
        seconds: float,
    ) -> None:
        """
        Write down an attempt that failed.
        """
        terms, billed, measured = money.after_failure(candidate, self._work, delivered, failure)
        record = _record(
            candidate,
            grant,
            failure.outcome,
            billed,
            seconds,
            measured=measured,
            http_status=failure.http_status or 0,
        )
        self._write(record, terms)

    def abandoned(
        self, candidate: Candidate, grant: Grant, delivered: Delivered, *, seconds: float
    ) -> None:
        """
        Write down an attempt that was given up: its caller left, or its key changed.
        """
        if not delivered.sent:
            record = _record(candidate, grant, CANCELLED, AttemptBilled.NOT_SENT, seconds)
            self._write(record, Release(CANCELLED))
            return
        measured = money.so_far(candidate, self._work, delivered)
        record = _record(
            candidate, grant, CANCELLED, AttemptBilled.MAYBE, seconds, measured=measured
        )
        self._write(record, measured.capture(delivered=delivered.content))

    # ---- settling

    async def end_served(self, receipt: Receipt, *, heard: bool) -> Receipt:
        """
        Settle the request that was served; gives the receipt with what was charged.

        Args:
            receipt: Its receipt.
            heard: Whether the caller is still there.
        """
        assert self._last is not None, "a served request has an attempt"
        end = RequestEnd(succeeded=heard, outcome=replay.encode_receipt(receipt))
        last, self._last = self._last, None
        settled = await self._settle(last, end)
        return dataclasses.replace(receipt, attempts=self.attempts, settled=settled is not None)

    async def end_failed(self, error: ServiceError) -> None:
        """
        End the request after a failure; nothing to tell where nothing was granted.
        """
        if self._last is not None:
            outcome = replay.encode_failure(error, self.attempts)
            await self._settle(self._last, RequestEnd(succeeded=False, outcome=outcome))

    async def _settle(self, settlement: Settlement, end: RequestEnd | None) -> Settled | None:
        settled = await self._settler.settle(
            self.claim, settlement, end, wait_seconds=max(0.0, self._wait_seconds())
        )
        self._note(settled)
        return settled

    def _write(self, record: AttemptRecord, terms: Capture | Release) -> None:
        self._records.append(record)
        self._last, self._told = Settlement(self.sequence, terms), False

    def _note(self, settled: Settled | None) -> None:
        if settled is not None and settled.charged_nano_credits and self._records:
            self._records[-1] = dataclasses.replace(
                self._records[-1], charged_nano_credits=settled.charged_nano_credits
            )


def _record(
    candidate: Candidate,
    grant: Grant,
    outcome: str,
    billed: AttemptBilled,
    seconds: float,
    *,
    measured: money.Measured | None = None,
    http_status: int = 0,
) -> AttemptRecord:
    own = candidate.funding is Funding.OWN_KEY
    return AttemptRecord(
        provider=candidate.offer.provider,
        model=candidate.offer.model,
        provider_model=candidate.offer.provider_model,
        funding=grant.funding,
        key=candidate.key.name if own else "",
        key_hint=candidate.key.hint if own else "",
        outcome=outcome,
        billed=billed,
        latency_seconds=seconds,
        fallback=grant.fallback,
        usage=None if measured is None else measured.usage,
        basis=None if measured is None else measured.basis,
        cost_nano_usd=None if measured is None else measured.cost_nano_usd,
        http_status=http_status,
    )


def _price_used(candidate: Candidate, usage: Usage) -> PriceUsed | None:
    price = candidate.offer.price
    if price is None:
        return None
    return PriceUsed(price_id=price.price_id, rates=price.rates_for(usage.input_tokens))
