# SPDX-License-Identifier: Apache-2.0
"""What the use cases need of the outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple, Protocol, TypeVar

from services.ledger.domain.accounts import Account
from services.ledger.domain.entries import Entry
from services.ledger.domain.files import AccountFile, ModeChange
from services.ledger.domain.requests import Authorization, AuthorizationState, Request
from services.ledger.domain.usage import UsageKey, UsageSum

T = TypeVar("T")


class UnitRefusedError(Exception):
    """The database refused what a unit of work wrote: a bug, or one poisoned item among many."""


class Wanted(NamedTuple):
    """
    What a unit of work needs of one account.

    Args:
        account_id: The account.
        request_id: A caller's request, with its attempts; empty for none.
        claimant: Whose attempts on it are needed besides those of its current run.
        refusals: True if that claimant's refusals on it are needed.
        key: Resource name of an own key whose month is needed; empty for none.
        operation_id: Request id of an operation; empty for none.
        open_holds: True if every open attempt is needed.
        create: True to make the account if there is none.
    """

    account_id: str
    request_id: str = ""
    claimant: str = ""
    refusals: bool = False
    key: str = ""
    operation_id: str = ""
    open_holds: bool = False
    create: bool = False


@dataclass(frozen=True, slots=True)
class LapsedRun:
    """A run whose lease has run out."""

    account_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of one day, model, provider, key and funding."""

    key: UsageKey
    usage: UsageSum


@dataclass(frozen=True, slots=True)
class Violation:
    """
    An invariant that does not hold.

    Args:
        account_id: The account.
        invariant: Its name.
        description: The first row that breaks it, and how.
    """

    account_id: str
    invariant: str
    description: str


class LedgerStore(Protocol):
    """Keeps the ledger. Every failure to reach it is a StoreUnavailableError."""

    async def change(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """
        Run one unit of work on some accounts.

        Args:
            wanted: What it needs; accounts there are none of are missing from the files.
            work: Gets the locked files by account id; may be called again on fresh ones, also when
                its first writes are on record already: it finds them there by their ids.

        Raises:
            UnitRefusedError: If the database refused what was written; nothing of it stays.
        """
        ...

    async def peek(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run a unit of work on files that are not locked and not written back."""
        ...

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Return runs whose lease has run out, at most `limit`."""
        ...


class LedgerReader(Protocol):
    """Reads the ledger without locks, in short snapshots."""

    async def account(self, account_id: str) -> Account | None:
        """Return an account."""
        ...

    async def entries(self, account_id: str, *, after: int, up_to: int, limit: int) -> list[Entry]:
        """Return entries numbered after `after` and up to `up_to`, ascending."""
        ...

    async def entries_before(
        self,
        account_id: str,
        *,
        before: int,
        start: datetime | None,
        end: datetime | None,
        limit: int,
    ) -> list[Entry]:
        """Return entries numbered below `before` in a time range, descending."""
        ...

    async def last_entry_before(self, account_id: str, time: datetime) -> int:
        """Return the number of the last entry made before a time, 0 for none."""
        ...

    async def attempts_before(
        self, account_id: str, *, before: int, state: AuthorizationState | None, limit: int
    ) -> list[tuple[Authorization, Request]]:
        """Return attempts numbered below `before`, descending, with their requests."""
        ...

    async def attempt(
        self, account_id: str, *, request_id: str, run: int, sequence: int
    ) -> tuple[Authorization, Request] | None:
        """Return one attempt, with its request."""
        ...

    async def request(
        self, account_id: str, request_id: str
    ) -> tuple[Request, list[Authorization]] | None:
        """Return a request with the attempts of its last run, in order."""
        ...

    async def mode_change(self, account_id: str, mode_epoch: int) -> ModeChange | None:
        """Return the change that began an epoch."""
        ...

    async def usage(
        self,
        account_id: str,
        *,
        start: date | None,
        end: date | None,
        after: UsageKey | None,
        limit: int,
    ) -> list[UsageRow]:
        """Return usage in the order of its keys, after one of them."""
        ...

    async def account_count(self) -> int:
        """Return how many accounts there are."""
        ...

    def account_pages(self, *, size: int) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield all accounts' ids, each with how many entries it has, a page at a time."""
        ...

    async def violations(self, account_ids: Sequence[str]) -> list[Violation]:
        """Return the invariants that do not hold for these accounts, each by its first row."""
        ...

    async def strays(self, buckets: range) -> list[Violation]:
        """Return what lies in these buckets and belongs to no account."""
        ...
