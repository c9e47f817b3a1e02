# SPDX-License-Identifier: Apache-2.0
"""
One account's money, open for changes under the account's lock.

Rules:
1. Holds reserve from named grants, soonest expiring first; what is reserved outlives its grant's
   expiry until it is settled.
2. A charge takes its own hold first, then free credits, then the plan's overdraft; the house
   absorbs the rest. It never fails. An invoiced fee moves no credits.
3. A correction gives back in the reverse of the recorded order: absorbed, invoice, overdraft,
   grants. A refund does the same, but for what the house absorbed.
4. Whatever becomes free in a grant that is due expires there and then; whatever becomes free while
   the account is overdrawn pays that first.
5. After every public method the totals equal what grants and entries say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from services.ledger.domain.accounts import Account, Grant, GrantKind, spending_order
from services.ledger.domain.entries import Cause, Entry, EntryKind, Income, SubLedger
from services.ledger.domain.money import CREDITS_MAX
from services.ledger.errors import GrantLimitReachedError, InsufficientCreditsError
from services.shared.errors import InvalidArgumentError, QuotaViolation

GRANTS_MAX = 1000
"""Grants with something left that an account may hold."""

# Which total a sub-ledger is, and whether a credit raises it.
_TOTALS = {
    SubLedger.CREDITS: ("credits", 1),
    SubLedger.SPENT: ("spent", 1),
    SubLedger.FEES: ("fees", 1),
    SubLedger.EXPIRED: ("expired", 1),
    SubLedger.OVERDRAFT: ("overdrawn", -1),
    SubLedger.ISSUED: ("issued", -1),
    SubLedger.INVOICE: ("invoiced", -1),
    SubLedger.ABSORBED: ("absorbed", -1),
}


class Part(NamedTuple):
    """
    What one grant gives to a hold or a charge.

    Args:
        grant_id: The grant.
        amount: Nano-credits, more than zero.
    """

    grant_id: str
    amount: int


def amount_of(parts: tuple[Part, ...]) -> int:
    """Return what parts come to, nano-credits; nearly always there is one."""
    if len(parts) == 1:
        return parts[0].amount
    return sum([part.amount for part in parts])


class Charge(NamedTuple):
    """
    Who bore a price, nano-credits.

    Args:
        parts: From grants, in the order taken.
        overdraft: Taken below zero.
        absorbed: Borne by the house.
        invoiced: On the customer's invoice.
    """

    parts: tuple[Part, ...] = ()
    overdraft: int = 0
    absorbed: int = 0
    invoiced: int = 0

    @property
    def customer(self) -> int:
        """What the customer paid."""
        return amount_of(self.parts) + self.overdraft + self.invoiced

    @property
    def price(self) -> int:
        """The whole price."""
        return self.customer + self.absorbed


@dataclass(slots=True)
class Book:
    """
    One account's money.

    Args:
        account: The account; its totals are changed in place.
        grants: Its grants with something left, by id.
        now: The account's time.
        entries: Entries made since it was opened, in order.
        touched: Ids of the grants changed or made since.
        made: Ids of those of them that were made.
    """

    account: Account
    grants: dict[str, Grant]
    now: datetime
    entries: list[Entry] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)

    def retire_due(self) -> None:
        """Expire what no hold reserves of every grant that is due."""
        expiring = [g for g in self.grants.values() if g.expire_time is not None and g.remaining]
        for grant in _ordered(expiring):
            self._expire_if_due(grant)

    def in_order(self) -> list[Grant]:
        """Return the grants with something left, in the order they are spent."""
        return _ordered([g for g in self.grants.values() if g.remaining])

    def grant(self, grant: Grant, *, kind: EntryKind, cause: Cause) -> None:
        """
        Add credits.

        Args:
            grant: The new grant; its number is set here.
            kind: GRANT or ADJUSTMENT.
            cause: What stands behind it.

        Raises:
            InvalidArgumentError: If the account would own more than it may.
            GrantLimitReachedError: If it holds too many unspent grants.
        """
        if self.account.totals.credits + grant.amount > CREDITS_MAX:
            raise InvalidArgumentError.of(
                "amount_nano_credits",
                f"the account would own more than {CREDITS_MAX} nano-credits",
            )
        if len(self.in_order()) >= GRANTS_MAX:
            name = f"accounts/{self.account.account_id}"
            message = f"{name} holds {GRANTS_MAX} unspent grants; spend or take back some first"
            raise GrantLimitReachedError(
                message, metadata={"account": name, "limit": str(GRANTS_MAX)}
            )
        grant.number = self.account.entry_count + 1
        grant.remaining, grant.reserved = 0, 0
        self._make(grant)
        self._move(kind, SubLedger.ISSUED, SubLedger.CREDITS, grant.amount, cause, grant=grant)
        self._repay(grant)

    def take_back(self, amount: int, *, cause: Cause) -> None:
        """
        Take available credits back by an adjustment, soonest expiring first.

        Raises:
            InsufficientCreditsError: If less is available.
        """
        self._require(amount)
        for part in self._free_parts(amount):
            grant = self.grants[part.grant_id]
            self._move(
                EntryKind.ADJUSTMENT,
                SubLedger.CREDITS,
                SubLedger.ISSUED,
                part.amount,
                cause,
                grant=grant,
            )

    def reserve(self, amount: int) -> tuple[Part, ...]:
        """
        Reserve available credits for a hold.

        Returns:
            What each grant gives, soonest expiring first.

        Raises:
            InsufficientCreditsError: If less is available; nothing is changed.
        """
        if not amount:
            return ()
        self._require(amount)
        parts = self._free_parts(amount)
        for part in parts:
            self.grants[part.grant_id].reserved += part.amount
            self.touched.add(part.grant_id)
        self.account.totals.reserved += amount
        return parts

    def settle(
        self,
        hold: tuple[Part, ...],
        price: int,
        *,
        cause: Cause,
        income: Income = Income.WORK,
    ) -> Charge:
        """
        End a hold and charge a price, which may be less or more than it.

        Args:
            hold: What `reserve` returned.
            price: Nano-credits, zero or more.
            cause: The attempt.
            income: What is charged for.
        """
        left = price
        parts = []
        for part in hold:
            grant = self.grants[part.grant_id]
            grant.reserved -= part.amount
            self.account.totals.reserved -= part.amount
            self.touched.add(part.grant_id)
            taken = min(part.amount, left)
            if taken:
                self._charge_grant(income.kind, grant, taken, cause, income)
                parts.append(Part(part.grant_id, taken))
                left -= taken
        charge = Charge(tuple(parts))
        if left:
            charge = self._charge_more(
                income.kind, charge, left, cause, income=income, paid_max=None
            )
        for part in hold:
            self._freed(self.grants[part.grant_id])
        return charge

    def correct(
        self,
        charge: Charge,
        price: int,
        *,
        paid_max: int,
        cause: Cause,
        income: Income = Income.WORK,
    ) -> Charge:
        """
        Replace what was charged by the exact price.

        Args:
            charge: What was charged so far.
            price: The exact price.
            paid_max: Most that the customer pays in all; the house absorbs the rest.
            cause: The attempt.
            income: What is charged for.

        Returns:
            The charge as it stands now.
        """
        if price >= charge.price:
            more = price - charge.price
            if not more:
                return charge
            return self._charge_more(
                EntryKind.CORRECTION, charge, more, cause, income=income, paid_max=paid_max
            )
        kind = EntryKind.CORRECTION
        absorbed = min(charge.price - price, charge.absorbed)
        if absorbed:
            self._move(kind, income.sub_ledger, SubLedger.ABSORBED, absorbed, cause)
        charge = charge._replace(absorbed=charge.absorbed - absorbed)
        return self._give_back(kind, charge, charge.price - price, cause, income=income)

    def refund(self, charge: Charge, amount: int, *, cause: Cause, income: Income) -> Charge:
        """
        Give back what the customer paid.

        Args:
            charge: What was charged so far.
            amount: Nano-credits, at most what the customer paid of it.
            cause: The attempt, with reason and actor.
            income: What was charged for.

        Returns:
            The charge as it stands now.
        """
        return self._give_back(EntryKind.REFUND, charge, amount, cause, income=income)

    def _charge_more(
        self,
        kind: EntryKind,
        charge: Charge,
        amount: int,
        cause: Cause,
        *,
        income: Income,
        paid_max: int | None,
    ) -> Charge:
        """Charge past the hold: the invoice, or free credits, then overdraft; then the house."""
        totals, to = self.account.totals, income.sub_ledger
        payable = amount if paid_max is None else min(amount, max(0, paid_max - charge.customer))
        invoiced = payable if income is Income.INVOICED_FEE else 0
        if invoiced:
            self._move(kind, SubLedger.INVOICE, to, invoiced, cause)
        payable -= invoiced
        parts = self._free_parts(min(payable, max(0, totals.available)))
        for part in parts:
            self._charge_grant(kind, self.grants[part.grant_id], part.amount, cause, income)
        left = payable - amount_of(parts)
        overdraft = min(left, max(0, self.account.overdraft_limit - totals.overdrawn))
        if overdraft:
            self._move(kind, SubLedger.OVERDRAFT, to, overdraft, cause)
        absorbed = amount - invoiced - (payable - left) - overdraft
        if absorbed:
            self._move(kind, SubLedger.ABSORBED, to, absorbed, cause)
        return Charge(
            (*charge.parts, *parts),
            charge.overdraft + overdraft,
            charge.absorbed + absorbed,
            charge.invoiced + invoiced,
        )

    def _give_back(
        self, kind: EntryKind, charge: Charge, amount: int, cause: Cause, *, income: Income
    ) -> Charge:
        """Undo the last part of what the customer paid, in the reverse of its order."""
        source, left = income.sub_ledger, amount
        invoiced = min(left, charge.invoiced)
        if invoiced:
            self._move(kind, source, SubLedger.INVOICE, invoiced, cause)
        left -= invoiced
        # What was overdrawn may have been repaid since; then it comes back as credits.
        overdraft = min(left, charge.overdraft)
        undone = min(overdraft, self.account.totals.overdrawn)
        if undone:
            self._move(kind, source, SubLedger.OVERDRAFT, undone, cause)
        left -= overdraft
        parts = list(charge.parts)
        returns: list[Part] = []
        while left:
            last = parts.pop()
            back = min(left, last.amount)
            returns.append(Part(last.grant_id, back))
            if back < last.amount:
                parts.append(Part(last.grant_id, last.amount - back))
            left -= back
        if overdraft > undone:
            returns.insert(0, Part(self._returned_to(returns, charge, cause), overdraft - undone))
        for part in returns:
            grant = self.grants[part.grant_id]
            self._move(kind, source, SubLedger.CREDITS, part.amount, cause, grant=grant)
            self._freed(grant)
        return Charge(
            tuple(parts),
            charge.overdraft - overdraft,
            charge.absorbed,
            charge.invoiced - invoiced,
        )

    def _returned_to(self, returns: list[Part], charge: Charge, cause: Cause) -> str:
        """Return the grant that takes back what was overdrawn and has been repaid since."""
        if returns or charge.parts:
            return (returns or charge.parts)[-1].grant_id
        grant_id = f"c{cause.authorization}"
        if grant_id in self.grants:
            return grant_id
        grant = Grant(
            grant_id=grant_id,
            kind=GrantKind.ADJUSTMENT,
            amount=charge.overdraft,
            remaining=0,
            reserved=0,
            expire_time=None,
            paused_before=self.account.paused_until(self.now),
            note="Given back",
            create_time=self.now,
            number=self.account.entry_count + 1,
        )
        self._make(grant)
        return grant_id

    def _make(self, grant: Grant) -> None:
        self.grants[grant.grant_id] = grant
        self.made.add(grant.grant_id)

    def _require(self, amount: int) -> None:
        available = self.account.totals.available
        if amount <= available:
            return
        name = f"accounts/{self.account.account_id}"
        message = (
            f"{amount} nano-credits are needed and {max(0, available)} are available; grant "
            "credits to the account, wait for open holds to settle, or make the request smaller"
        )
        raise InsufficientCreditsError(
            message,
            metadata={
                "account": name,
                "needed_nano_credits": str(amount),
                "available_nano_credits": str(available),
            },
            quotas=[QuotaViolation(name, f"{max(0, available)} nano-credits are available")],
        )

    def _free_parts(self, amount: int) -> tuple[Part, ...]:
        parts = []
        left = amount
        for grant in self.in_order():
            taken = min(left, grant.free)
            if taken:
                parts.append(Part(grant.grant_id, taken))
                left -= taken
            if not left:
                break
        return tuple(parts)

    def _charge_grant(
        self, kind: EntryKind, grant: Grant, amount: int, cause: Cause, income: Income
    ) -> None:
        self._move(kind, SubLedger.CREDITS, income.sub_ledger, amount, cause, grant=grant)

    def _freed(self, grant: Grant) -> None:
        self._expire_if_due(grant)
        self._repay(grant)

    def _expire_if_due(self, grant: Grant) -> None:
        if grant.expire_time is None:
            return
        expiry = grant.expires_at(self.account, self.now)
        if expiry is None or expiry > self.now or not grant.free:
            return
        cause = Cause(mode_epoch=self.account.mode_epoch)
        self._move(
            EntryKind.EXPIRY, SubLedger.CREDITS, SubLedger.EXPIRED, grant.free, cause, grant=grant
        )

    def _repay(self, grant: Grant) -> None:
        amount = min(grant.free, self.account.totals.overdrawn)
        if amount:
            cause = Cause(mode_epoch=self.account.mode_epoch)
            self._move(
                EntryKind.REPAYMENT,
                SubLedger.CREDITS,
                SubLedger.OVERDRAFT,
                amount,
                cause,
                grant=grant,
            )

    def _move(
        self,
        kind: EntryKind,
        debit: SubLedger,
        credit: SubLedger,
        amount: int,
        cause: Cause,
        *,
        grant: Grant | None = None,
    ) -> None:
        """Write one entry and what follows from it."""
        account, grant_id = self.account, ""
        totals = account.totals
        name, sign = _TOTALS[debit]
        setattr(totals, name, getattr(totals, name) - sign * amount)
        name, sign = _TOTALS[credit]
        setattr(totals, name, getattr(totals, name) + sign * amount)
        if grant is not None:
            grant_id = grant.grant_id
            grant.remaining += amount if credit is SubLedger.CREDITS else -amount
            self.touched.add(grant_id)
        account.entry_count = number = account.entry_count + 1
        posted = totals.credits - totals.overdrawn
        self.entries.append(
            Entry(number, kind, debit, credit, amount, posted, grant_id, cause, self.now)
        )


def _ordered(grants: list[Grant]) -> list[Grant]:
    """Put grants in the order they are spent; most accounts have one or two."""
    if len(grants) > 1:
        grants.sort(key=spending_order)
    return grants
