# SPDX-License-Identifier: Apache-2.0
"""
A caller's request over all its runs and attempts.

A request is claimed by a *claimant*, one run of a router. A run's attempts are numbered from 1; at
most one is open at a time. The claim is a lease on the database's clock.

    RUNNING ──RequestEnd, refusal or lapse──▶ SUCCEEDED | FAILED_CHARGED | FAILED_UNCHARGED
    FAILED_UNCHARGED ──another claimant──▶ RUNNING, one run more
    a run that a refusal ended ──the same claimant, next attempt──▶ RUNNING, the same run

Authorizations and settlements are never changed once written; a late capture and a refund write
another settlement, which stands in for the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple

from services.ledger.domain.accounts import month_of
from services.ledger.domain.book import Charge, Part, amount_of
from services.ledger.domain.budgets import BudgetId
from services.ledger.domain.entries import Cause, Income
from services.ledger.domain.fees import FeeSource, FeeTerms
from services.ledger.domain.modes import Funding, Operation, OwnKeyState, Source
from services.ledger.domain.money import PriceTerms
from services.ledger.domain.usage import UsageUnits
from services.ledger.domain.words import Word

SEQUENCE_MAX = 32
"""Attempts of one run."""

RETENTION_DAYS_MIN = 400
"""How long outcomes are kept at least; the database refuses to forget anything younger."""


class RequestState(Word):
    """Where a request stands."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED_CHARGED = "FAILED_CHARGED"
    FAILED_UNCHARGED = "FAILED_UNCHARGED"


class EndedBy(Word):
    """What ended a run."""

    NOTHING = ""
    CALLER = "CALLER"
    REFUSAL = "REFUSAL"
    LAPSE = "LAPSE"


class AuthorizationState(Word):
    """Where an attempt stands."""

    OPEN = "OPEN"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    LAPSED = "LAPSED"


class UsageBasis(Word):
    """How exact a usage is."""

    EXACT = "EXACT"
    ESTIMATED = "ESTIMATED"


class PriceRow(NamedTuple):
    """
    The provider's price by which a vendor cost was worked out.

    Args:
        model: `vendor/model`.
        provider: Provider id.
        price_id: Row of the router's price table; empty when unpriced.
    """

    model: str
    provider: str
    price_id: str


class Capture(NamedTuple):
    """
    What an attempt used.

    Args:
        vendor_cost_nano_usd: The cost; None on an unpriced model.
        units: The units behind it.
        basis: How exact they are.
        delivered: False charges nothing on credits.
    """

    vendor_cost_nano_usd: int | None
    units: UsageUnits
    basis: UsageBasis
    delivered: bool


class RequestEnd(NamedTuple):
    """
    The end of a request.

    Args:
        succeeded: True if the caller got an answer.
        outcome: What a repeat is told; opaque here.
    """

    succeeded: bool
    outcome: bytes


class Settlement(NamedTuple):
    """
    How an attempt was settled.

    Args:
        state: CAPTURED, RELEASED or LAPSED.
        terms_digest: Digest of the terms it was asked for with; empty for a lapse.
        capture: What was used; None when released, or lapsed without a checkpoint.
        outcome: Outcome word of a released attempt.
        charge: Who bore the price; what was refunded since is left out.
        settle_time: When.
        refunded: Nano-credits refunded since.
    """

    state: AuthorizationState
    terms_digest: bytes
    capture: Capture | None
    outcome: str
    charge: Charge
    settle_time: datetime
    refunded: int = 0


@dataclass(slots=True)
class Authorization:
    """
    One authorized attempt.

    Args:
        request_id: The caller's request.
        claimant: The run that made it.
        run: Number of that run, from 1.
        sequence: Its number within the run.
        number: Its number within the account.
        digest: Digest of what it was asked for with.
        funding: Who pays.
        source: Who the caller wanted to pay.
        own_key_state: Whether an own key served it.
        fallback_day: UTC day whose cap it counts on; None unless it is a fallback.
        mode_epoch: The account's epoch then.
        plan_id: The account's plan then.
        operation: The kind of work.
        price_row: The provider's price.
        price_terms: The plan's price.
        fee_terms: The plan's fee on an own key; None for none.
        allowance_month: UTC month of which it is a free request; None if it is not free.
        key: Resource name of the own key; empty on credits.
        key_version: Its version; zero on credits.
        key_etag: Its etag; empty on credits.
        key_limit_nano_usd: Its monthly spending limit then; None for none.
        worst_case_nano_usd: Upper bound of the vendor cost; None for an unpriced model.
        hold: What grants reserve, for the price or the fee.
        create_time: When.
        settlements: In order; the last one stands.
    """

    request_id: str
    claimant: str
    run: int
    sequence: int
    number: int
    digest: bytes
    funding: Funding
    source: Source
    own_key_state: OwnKeyState
    fallback_day: date | None
    mode_epoch: int
    plan_id: str
    operation: Operation
    price_row: PriceRow
    price_terms: PriceTerms
    fee_terms: FeeTerms | None
    allowance_month: date | None
    key: str
    key_version: int
    key_etag: str
    key_limit_nano_usd: int | None
    worst_case_nano_usd: int | None
    hold: tuple[Part, ...]
    create_time: datetime
    settlements: list[Settlement] = field(default_factory=list)

    @property
    def authorization_id(self) -> str:
        """Its id in `accounts/{account}/authorizations/{authorization}`."""
        return f"r{self.request_id}-{self.run}-{self.sequence}"

    @property
    def held(self) -> int:
        """Nano-credits held while open."""
        return amount_of(self.hold)

    @property
    def settlement(self) -> Settlement | None:
        """The settlement that stands; None while open."""
        return self.settlements[-1] if self.settlements else None

    @property
    def state(self) -> AuthorizationState:
        """Where it stands."""
        return self.settlement.state if self.settlement else AuthorizationState.OPEN

    @property
    def charge(self) -> Charge:
        """Who bore its price so far."""
        return self.settlement.charge if self.settlement else Charge()

    @property
    def cause(self) -> Cause:
        """How its entries refer to it."""
        return Cause(
            mode_epoch=self.mode_epoch,
            authorization=self.authorization_id,
            credits_asked=self.source is Source.CREDITS,
        )

    @property
    def income(self) -> Income:
        """What is charged for."""
        if self.funding is Funding.CREDITS:
            return Income.WORK
        invoiced = self.fee_terms is not None and self.fee_terms.source is FeeSource.INVOICE
        return Income.INVOICED_FEE if invoiced else Income.FEE

    def price(self, capture: Capture | None) -> int:
        """Return what a usage costs, nano-credits: its price on credits, the fee on an own key."""
        if capture is None or not capture.delivered:
            return 0
        cost = capture.vendor_cost_nano_usd or 0
        if self.funding is Funding.CREDITS:
            return self.price_terms.credit_price(cost)
        if self.fee_terms is None or self.allowance_month is not None:
            return 0
        return self.fee_terms.fee(cost, self.price_terms)

    @property
    def budget_id(self) -> BudgetId | None:
        """The key's month that it counts on; None for what has no cost to count."""
        if self.funding is Funding.CREDITS or self.worst_case_nano_usd is None:
            return None
        return self.key, month_of(self.create_time)

    def budgeted(self) -> tuple[int, int]:
        """Return what it holds and what it has spent of its key's month, nano-USD."""
        worst_case, settlement = self.worst_case_nano_usd or 0, self.settlement
        if settlement is None:
            return worst_case, 0
        if settlement.state is AuthorizationState.RELEASED:
            return 0, 0
        if settlement.capture is None:
            return 0, worst_case
        return 0, settlement.capture.vendor_cost_nano_usd or 0

    def takes_allowance(self) -> bool:
        """Return whether it takes a free request: while open, and once it has delivered."""
        if self.allowance_month is None:
            return False
        settlement = self.settlement
        if settlement is None:
            return True
        return settlement.capture is not None and settlement.capture.delivered

    def copied(self) -> Authorization:
        """Return a copy that can be settled by itself."""
        return Authorization(
            self.request_id,
            self.claimant,
            self.run,
            self.sequence,
            self.number,
            self.digest,
            self.funding,
            self.source,
            self.own_key_state,
            self.fallback_day,
            self.mode_epoch,
            self.plan_id,
            self.operation,
            self.price_row,
            self.price_terms,
            self.fee_terms,
            self.allowance_month,
            self.key,
            self.key_version,
            self.key_etag,
            self.key_limit_nano_usd,
            self.worst_case_nano_usd,
            self.hold,
            self.create_time,
            [*self.settlements],
        )

    def may_have_cost(self) -> bool:
        """Return whether anybody was charged for it, or may have been by the provider."""
        settlement = self.settlement
        if settlement is None or settlement.state is AuthorizationState.RELEASED:
            return False
        if self.funding is Funding.CREDITS:
            return settlement.charge.customer > 0
        if settlement.capture is None:
            return True
        return settlement.capture.vendor_cost_nano_usd != 0


@dataclass(slots=True)
class Request:
    """
    A caller's request.

    Args:
        request_id: Its id.
        fingerprint: Keyed hash of it.
        fingerprint_version: Version of the field list behind that.
        claimant: Who works or last worked on it.
        run: Number of the run, from 1.
        state: Where it stands.
        ended_by: What ended the run.
        last_sequence: Number of the run's last attempt, refused ones included.
        lease_expire_time: When the claim ends unless renewed.
        own_key_tried: True if an own key served an attempt of this run.
        always_use: True if a matching key was `always_use` in this run.
        checkpoint: Usage of the open attempt so far; None without one.
        outcome: What its last run stored.
    """

    request_id: str
    fingerprint: bytes
    fingerprint_version: int
    claimant: str
    run: int
    state: RequestState
    ended_by: EndedBy
    last_sequence: int
    lease_expire_time: datetime
    own_key_tried: bool
    always_use: bool
    checkpoint: Capture | None
    outcome: bytes

    def copied(self) -> Request:
        """Return a copy that can be changed by itself."""
        return Request(
            self.request_id,
            self.fingerprint,
            self.fingerprint_version,
            self.claimant,
            self.run,
            self.state,
            self.ended_by,
            self.last_sequence,
            self.lease_expire_time,
            self.own_key_tried,
            self.always_use,
            self.checkpoint,
            self.outcome,
        )


def state_at_end(*, succeeded: bool, attempts: list[Authorization]) -> RequestState:
    """Return the state of a run that has ended."""
    if succeeded:
        return RequestState.SUCCEEDED
    if any(attempt.may_have_cost() for attempt in attempts):
        return RequestState.FAILED_CHARGED
    return RequestState.FAILED_UNCHARGED
