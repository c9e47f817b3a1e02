# SPDX-License-Identifier: Apache-2.0
"""
An account's file: all that one unit of work may read and change of an account, under its lock.

The rules of the use cases work on files and do no I/O; the store loads them before and writes back
what they hold as new or changed after.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.ledger.domain.accounts import Account
from services.ledger.domain.book import Book
from services.ledger.domain.budgets import BudgetId, KeyBudget
from services.ledger.domain.modes import BillingMode
from services.ledger.domain.receipts import PauseReceipt
from services.ledger.domain.requests import Authorization, Request, Settlement
from services.ledger.domain.usage import UsageKey, UsageSum
from services.ledger.errors import Refusal

AttemptKey = tuple[str, str, int]
"""Request id, claimant, sequence."""


@dataclass(frozen=True, slots=True)
class RecordedRefusal:
    """
    A refused attempt.

    Args:
        digest: Digest of what was asked for.
        refusal: What was answered.
    """

    digest: bytes
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class RecordedOperation:
    """
    An operation that was answered.

    Args:
        request_id: Its id.
        operation: Its name.
        fingerprint: Keyed hash of its body.
        answer: The response's bytes, or the refusal.
    """

    request_id: str
    operation: str
    fingerprint: bytes
    answer: bytes | Refusal


@dataclass(frozen=True, slots=True)
class ModeChange:
    """
    A change of mode or of plan and mode.

    Args:
        mode_epoch: The epoch that began with it.
        billing_mode: The mode from then on.
        plan_id: The plan then.
        entry_sequence: Number of the account's last entry.
        posted: Owned then, holds included.
        reserved: Reserved then.
        receipt: If it paused credits.
        actor: Identity that called.
        create_time: When.
    """

    mode_epoch: int
    billing_mode: BillingMode
    plan_id: str
    entry_sequence: int
    posted: int
    reserved: int
    receipt: PauseReceipt | None
    actor: str
    create_time: datetime


@dataclass(slots=True, init=False)
class Changes:
    """
    What a unit of work adds to a file; the store writes it.

    Args:
        account: True if the account's settings, plan or period changed.
        counts: True if only what attempts move of it did.
        new_requests: Ids of the requests that are new, in order.
        requests: Ids of others that changed.
        authorizations: New ones.
        settlements: New ones, with their attempt.
        refusals: New ones, by attempt.
        operations: New ones.
        mode_changes: New ones.
        usage: What to add to the usage sums.
        budgets: Ids of the key budgets that are new or changed.
    """

    account: bool
    counts: bool
    new_requests: dict[str, None]
    requests: set[str]
    authorizations: list[Authorization]
    settlements: list[tuple[Authorization, int, Settlement]]
    refusals: dict[AttemptKey, RecordedRefusal]
    operations: list[RecordedOperation]
    mode_changes: list[ModeChange]
    usage: dict[UsageKey, UsageSum]
    budgets: set[BudgetId]

    # By hand: an account's file is opened for every attempt, and a dataclass' own way of making
    # empty fields takes several times longer.
    def __init__(self) -> None:
        self.account = self.counts = False
        self.new_requests, self.requests = {}, set()
        self.authorizations, self.settlements, self.refusals = [], [], {}
        self.operations, self.mode_changes = [], []
        self.usage, self.budgets = {}, set()


@dataclass(slots=True, init=False)
class AccountFile:
    """
    One account's file.

    Args:
        account: The account.
        book: Its money, at the account's time.
        clock: The database's clock when the file was opened; leases are measured by it.
        created: True if this unit of work makes the account.
        requests: Those asked for, by id.
        attempts: Those asked for: of the current run, and of the claimant that asks.
        attempts_on: The same by their request's id.
        refusals: Those asked for.
        operations: Those asked for, by request id.
        open_holds: Every open attempt, where asked for.
        budgets: Those of the attempts' keys, and this month's of the key asked for.
        changes: What is new.
    """

    account: Account
    book: Book
    clock: datetime
    created: bool
    requests: dict[str, Request]
    attempts: dict[AttemptKey, Authorization]
    attempts_on: dict[str, list[Authorization]]
    refusals: dict[AttemptKey, RecordedRefusal]
    operations: dict[str, RecordedOperation]
    open_holds: list[tuple[str, int]]
    budgets: dict[BudgetId, KeyBudget]
    changes: Changes

    def __init__(
        self, account: Account, book: Book, clock: datetime, *, created: bool = False
    ) -> None:
        self.account, self.book, self.clock, self.created = account, book, clock, created
        self.requests, self.attempts, self.attempts_on = {}, {}, {}
        self.refusals, self.operations, self.open_holds = {}, {}, []
        self.budgets, self.changes = {}, Changes()

    @property
    def now(self) -> datetime:
        """The account's time, which never goes back."""
        return self.book.now

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        changes, book = self.changes, self.book
        return bool(
            changes.counts
            or changes.account
            or changes.requests
            or changes.new_requests
            or changes.operations
            or book.touched
            or book.entries
        )

    def run_of(self, request: Request) -> list[Authorization]:
        """Return the attempts of a request's current run, in order."""
        found = [
            attempt
            for attempt in self.attempts_on.get(request.request_id, ())
            if attempt.run == request.run
        ]
        if len(found) > 1:
            found.sort(key=lambda attempt: attempt.sequence)
        return found

    def put_request(self, request: Request) -> None:
        """Keep a request that is new or changed."""
        request_id = request.request_id
        if request_id not in self.requests:
            self.changes.new_requests[request_id] = None
        elif request_id not in self.changes.new_requests:
            self.changes.requests.add(request_id)
        self.requests[request_id] = request

    def put_attempt(self, attempt: Authorization) -> None:
        """Keep an authorization that is on record; once is enough."""
        key = (attempt.request_id, attempt.claimant, attempt.sequence)
        if key not in self.attempts:
            self.attempts[key] = attempt
            self.attempts_on.setdefault(attempt.request_id, []).append(attempt)

    def add_attempt(self, attempt: Authorization) -> None:
        """Keep a new authorization."""
        self.put_attempt(attempt)
        self.changes.authorizations.append(attempt)
        self.changes.counts = True

    def add_settlement(self, attempt: Authorization, settlement: Settlement) -> None:
        """Keep a new settlement of an attempt."""
        attempt.settlements.append(settlement)
        self.changes.settlements.append((attempt, len(attempt.settlements), settlement))
        self.changes.counts = True

    def add_refusal(self, key: AttemptKey, recorded: RecordedRefusal) -> None:
        """Keep a refused attempt."""
        self.refusals[key] = recorded
        self.changes.refusals[key] = recorded

    def add_operation(self, operation: RecordedOperation) -> None:
        """Keep an answered operation."""
        self.operations[operation.request_id] = operation
        self.changes.operations.append(operation)

    def budget(self, budget_id: BudgetId) -> KeyBudget:
        """Return a key's month; one that was never used is empty."""
        return self.budgets.setdefault(budget_id, KeyBudget(*budget_id))

    def add_to_budget(self, budget_id: BudgetId, *, held: int, spent: int) -> None:
        """Add to a key's month, nano-USD; amounts may be below zero, to take back."""
        budget = self.budget(budget_id)
        budget.held_nano_usd += held
        budget.spent_nano_usd += spent
        self.changes.budgets.add(budget_id)

    def add_usage(self, key: UsageKey, usage: UsageSum) -> None:
        """Add to the usage sums; counts may be below zero, to take back."""
        known = self.changes.usage.get(key)
        self.changes.usage[key] = usage if known is None else known.plus(usage)
