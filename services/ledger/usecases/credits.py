# SPDX-License-Identifier: Apache-2.0
"""Grant credits, adjust them, read the balance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from services.ledger.domain.accounts import Grant, GrantKind
from services.ledger.domain.entries import Cause, Entry, EntryKind
from services.ledger.domain.files import AccountFile
from services.ledger.domain.plans import PlanBook
from services.ledger.errors import AccountNotFoundError
from services.ledger.usecases.due import bring_up_to_date
from services.ledger.usecases.ports import LedgerStore, Wanted
from services.shared.errors import InvalidArgumentError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GrantCommand:
    """
    Credits to grant.

    Args:
        grant_id: Id of the new grant.
        kind: Where they come from.
        amount: Nano-credits.
        expire_time: When they expire; None for never.
        note: For people.
    """

    grant_id: str
    kind: GrantKind
    amount: int
    expire_time: datetime | None
    note: str


def grant_credits(file: AccountFile, command: GrantCommand, *, actor: str) -> Grant:
    """
    Add credits; they land also while credits are paused.

    Raises:
        InvalidArgumentError: If they have expired already, or the account would own too much.
        GrantLimitReachedError: If the account holds too many unspent grants.
    """
    if command.expire_time is not None and command.expire_time <= file.now:
        raise InvalidArgumentError.of("expire_time", "must be later than now; unset it for never")
    cause = Cause(mode_epoch=file.account.mode_epoch, reason=command.note, actor=actor)
    return _add(file, command, kind=EntryKind.GRANT, cause=cause)


def adjust_credits(
    file: AccountFile, *, grant_id: str, amount: int, reason: str, actor: str
) -> list[Entry]:
    """
    Correct the balance by hand.

    Args:
        file: The account's file.
        grant_id: Id of the grant that an adjustment upwards makes.
        amount: Nano-credits, not zero; below zero takes back.
        reason: Why.
        actor: Identity that calls.

    Returns:
        The entries written.

    Raises:
        InsufficientCreditsError: If less is available than is to be taken back.
        GrantLimitReachedError: If the account holds too many unspent grants.
    """
    before = len(file.book.entries)
    cause = Cause(mode_epoch=file.account.mode_epoch, reason=reason, actor=actor)
    if amount < 0:
        file.book.take_back(-amount, cause=cause)
        file.changes.account = True
    else:
        command = GrantCommand(grant_id, GrantKind.ADJUSTMENT, amount, None, reason)
        _add(file, command, kind=EntryKind.ADJUSTMENT, cause=cause)
    return file.book.entries[before:]


async def read_balance(
    store: LedgerStore, account_id: str, read: Callable[[AccountFile], T], *, plans: PlanBook
) -> T:
    """
    Read an account's money, expiry and monthly grants up to now included.

    Raises:
        AccountNotFoundError: If there is no such account.
    """

    def unit(files: Mapping[str, AccountFile]) -> T:
        file = files.get(account_id)
        if file is None:
            raise AccountNotFoundError(account_id)
        bring_up_to_date(file, plans)
        return read(file)

    return await store.peek([Wanted(account_id)], unit)


def _add(file: AccountFile, command: GrantCommand, *, kind: EntryKind, cause: Cause) -> Grant:
    grant = Grant(
        grant_id=command.grant_id,
        kind=command.kind,
        amount=command.amount,
        remaining=0,
        reserved=0,
        expire_time=command.expire_time,
        paused_before=file.account.paused_until(file.now),
        note=command.note,
        create_time=file.now,
        number=0,
    )
    file.book.grant(grant, kind=kind, cause=cause)
    file.changes.account = True
    return grant
