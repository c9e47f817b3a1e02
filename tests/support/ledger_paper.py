# SPDX-License-Identifier: Apache-2.0
"""
An account as a person would reckon it on paper: an independent model of what the ledger answers.

It shares no code with the ledger. Credits lie in lots; a hold and a charge remember the lots that
they came from; time passes a calendar month at once, by which everything becomes that much older.
"""

from __future__ import annotations

import calendar
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

OVERDRAFT = 50
MONTHLY = 500
FREE_REQUESTS = 2
FEE_CAP = 90
MODES = ("CREDITS", "OWN_KEY_FIRST", "OWN_KEY_ONLY")
CONSENTS = ("NEVER", "RATE_LIMIT", "KEY_FAILURE", "ANY")
NEEDS = {"COOLING": 1, "REJECTED": 2, "NO_CREDIT": 2, "PROVIDER_FAILED": 3, "LIMIT_REACHED": 3}
ALLOWED = {
    "overdraft": MODES,
    "overdraft-fee": MODES[:2],
    "overdraft-invoice": MODES,
    "overdraft-monthly": MODES,
}
Parts = list[tuple["Lot", int]]


def months_later(time: datetime, months: int) -> datetime:
    """Add calendar months, which may be fewer than none; a day past a month's end is its last."""
    years, month = divmod(time.month - 1 + months, 12)
    last = calendar.monthrange(time.year + years, month + 1)[1]
    return time.replace(year=time.year + years, month=month + 1, day=min(time.day, last))


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(eq=False)
class Lot:
    """Credits that came in together."""

    number: int
    paused_before: timedelta
    ends: datetime | None
    free: int = 0
    held: int = 0

    @property
    def place(self) -> tuple[bool, timedelta, int]:
        """Its place among the others: the soonest to end first, then the older."""
        if self.ends is None:
            return True, timedelta(), self.number
        return False, self.ends - datetime.fromtimestamp(0, UTC) - self.paused_before, self.number


@dataclass(eq=False)
class Held:
    """An attempt that was granted, and what became of it."""

    funding: str
    plan: str
    worst_case: int
    hold: Parts
    free: bool
    month: int
    fallback: bool
    parts: Parts = field(default_factory=list)
    overdraft: int = 0
    invoiced: int = 0
    state: str = "OPEN"
    repaid: Lot | None = None

    @property
    def held(self) -> int:
        """What it holds in credits, or held."""
        return sum(amount for _, amount in self.hold)

    @property
    def paid(self) -> int:
        """What the customer paid for it, less what was given back."""
        return sum(amount for _, amount in self.parts) + self.overdraft + self.invoiced


@dataclass
class Paper:
    """The account."""

    plan: str
    mode: str = "CREDITS"
    consent: str = "ANY"
    cap: int | None = None
    epoch: int = 1
    lots: list[Lot] = field(default_factory=list)
    overdrawn: int = 0
    issued: int = 0
    spent: int = 0
    absorbed: int = 0
    fees: int = 0
    invoiced: int = 0
    expired: int = 0
    month: int = 0
    budgets: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    allowance: tuple[int, int] = (0, 0)
    fallbacks: tuple[int, int] = (0, 0)
    first: datetime | None = None
    periods: int = 0
    pause: datetime | None = None
    paused: timedelta = timedelta()
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def posted(self) -> int:
        """What is owned, holds included."""
        return sum(lot.free + lot.held for lot in self.lots) - self.overdrawn

    @property
    def reserved(self) -> int:
        """What open attempts hold."""
        return sum(lot.held for lot in self.lots)

    @property
    def available(self) -> int:
        """What may be spent."""
        return self.posted - self.reserved

    @property
    def free_left(self) -> int:
        """How many requests of this month are still free of a fee."""
        if self.plan != "overdraft-fee":
            return 0
        month, used = self.allowance
        return FREE_REQUESTS - (used if month == self.month else 0)

    @property
    def fallback_used(self) -> int:
        """What fallbacks of today hold and have cost."""
        month, used = self.fallbacks
        return used if month == self.month else 0

    def months_pass(self, months: int) -> None:
        """Make everything that was written older."""
        for lot in self.lots:
            lot.ends = lot.ends and months_later(lot.ends, -months)
        self.first = self.first and months_later(self.first, -months)
        self.pause = self.pause and months_later(self.pause, -months)
        self.month += months

    def paused_until_now(self) -> timedelta:
        """How long credits were paused in all."""
        return self.paused + (now() - self.pause if self.pause else timedelta())

    def fall_due(self) -> None:
        """Do what falls due by time alone: lots end, a month is granted."""
        for lot in self.lots:
            self._end(lot)
        if self.plan != "overdraft-monthly":
            return
        active = now() - self.paused_until_now()
        self.first = self.first or active
        number = 0
        while months_later(self.first, number + 1) <= active:
            number += 1
        if number >= self.periods:
            self.periods = number + 1
            ends = months_later(self.first, number + 1) + self.paused_until_now()
            self.grant(MONTHLY, ends=ends)

    def grant(self, amount: int, *, ends: datetime | None = None) -> None:
        """Credits come in."""
        self.issued += amount
        lot = self._lot(ends)
        lot.free = amount
        self._repay(lot)

    def take_back(self, amount: int) -> bool:
        """Take credits back if that many are available."""
        if amount > self.available:
            return False
        for lot, part in self._soonest(amount):
            lot.free -= part
        self.issued -= amount
        return True

    def switch(self, mode: str) -> None:
        """Change who pays."""
        if mode == self.mode:
            return
        self.paused = self.paused_until_now()
        self.pause = now() if mode == "OWN_KEY_ONLY" else None
        self.mode = mode
        self.epoch += 1

    def fee(self, plan: str, cost: int) -> int:
        """Return a plan's fee on an attempt that is not free."""
        if plan == "overdraft-fee":
            return min(FEE_CAP, round(Fraction(cost, 2)))
        return round(Fraction(cost, 4)) if plan == "overdraft-invoice" else 0

    def needs(self, who: str, worst_case: int) -> int:
        """Return what an attempt holds in credits."""
        if who != "OWN_KEY":
            return worst_case
        charged = self.plan == "overdraft-fee" and not self.free_left
        return self.fee(self.plan, worst_case) if charged else 0

    def decide(
        self, source: str, state: str, *, always_use: bool, worst_case: int, limit: int | None
    ) -> str:
        """Return who pays (own key, credits, fallback) or the reason of the refusal."""
        who = self._who(source, state, always_use=always_use)
        if who not in {"OWN_KEY", "CREDITS", "FALLBACK"}:
            return who
        spent = self.budgets[self.month]
        if who == "OWN_KEY" and limit is not None and spent + worst_case > limit:
            return "OWN_KEY_LIMIT_REACHED"
        needed = self.needs(who, worst_case)
        cap = self.cap if who == "FALLBACK" else None
        if cap is not None and self.fallback_used + needed > cap:
            return "FALLBACK_CAP_REACHED"
        if needed and needed > self.available:
            return "INSUFFICIENT_CREDITS"
        return who

    def hold(self, who: str, worst_case: int) -> Held:
        """Grant an attempt."""
        needed = self.needs(who, worst_case)
        own = who == "OWN_KEY"
        free = own and self.free_left > 0
        parts = self._soonest(needed)
        for lot, part in parts:
            lot.free -= part
            lot.held += part
        if free:
            self.allowance = (self.month, FREE_REQUESTS - self.free_left + 1)
        if own:
            self.budgets[self.month] += worst_case
        if who == "FALLBACK":
            self.fallbacks = (self.month, self.fallback_used + needed)
        funding = "OWN_KEY" if own else "CREDITS"
        fallback = who == "FALLBACK"
        return Held(funding, self.plan, worst_case, parts, free, self.month, fallback)

    def settle(self, attempt: Held, cost: int, *, billed: bool, delivered: bool) -> tuple[int, int]:
        """Settle an attempt; return what the customer pays and what the house bears."""
        if attempt.funding == "CREDITS":
            price = cost if delivered else 0
            self.spent += price
        else:
            price = self.fee(attempt.plan, cost) if delivered and not attempt.free else 0
            self.fees += price
            self.budgets[attempt.month] += (cost if billed else 0) - attempt.worst_case
            month, used = self.allowance
            if attempt.free and not delivered and month == attempt.month:
                self.allowance = (month, used - 1)
        if attempt.funding == "OWN_KEY" and attempt.plan == "overdraft-invoice":
            attempt.invoiced = price
            self.invoiced += price
            borne = 0
        else:
            borne = self._charge(attempt, price)
        self._count_fallback(attempt, attempt.paid - attempt.held)
        attempt.state = "CAPTURED" if billed else "RELEASED"
        return attempt.paid, borne

    def refund(self, attempt: Held, amount: int) -> str:
        """Refund a charge; return the reason of the refusal, empty if it is done."""
        if attempt.state != "CAPTURED":
            return "CHARGE_NOT_REFUNDABLE"
        if amount > attempt.paid:
            return "REFUND_EXCEEDS_CHARGE"
        if attempt.funding == "CREDITS":
            self.spent -= amount
        else:
            self.fees -= amount
        self._count_fallback(attempt, -amount)
        left = amount
        invoiced = min(left, attempt.invoiced)
        attempt.invoiced -= invoiced
        self.invoiced -= invoiced
        left -= invoiced
        overdraft = min(left, attempt.overdraft)
        attempt.overdraft -= overdraft
        undone = min(overdraft, self.overdrawn)
        self.overdrawn -= undone
        self._give_back(attempt, left - overdraft, repaid=overdraft - undone)
        return ""

    def _give_back(self, attempt: Held, amount: int, *, repaid: int) -> None:
        """Give back to lots, the last taken first; what was overdrawn and repaid goes first."""
        latest = attempt.parts[-1][0] if attempt.parts else None
        back: Parts = []
        while amount:
            lot, part = attempt.parts.pop()
            given = min(part, amount)
            if given < part:
                attempt.parts.append((lot, part - given))
            back.append((lot, given))
            amount -= given
        if repaid:
            attempt.repaid = attempt.repaid or (None if latest else self._lot(None))
            to = back[-1][0] if back else latest or attempt.repaid
            assert to is not None
            back.insert(0, (to, repaid))
        for lot, part in back:
            lot.free += part
            self._end(lot)
            self._repay(lot)

    def _charge(self, attempt: Held, price: int) -> int:
        """Take a price from the hold, then what is free, then overdraw; return what is left."""
        left = price
        for lot, part in attempt.hold:
            taken = min(part, left)
            lot.held -= part
            lot.free += part - taken
            if taken:
                attempt.parts.append((lot, taken))
            left -= taken
        if left:
            for lot, part in self._soonest(min(left, max(0, self.available))):
                lot.free -= part
                attempt.parts.append((lot, part))
                left -= part
            attempt.overdraft = min(left, max(0, OVERDRAFT - self.overdrawn))
            self.overdrawn += attempt.overdraft
            left -= attempt.overdraft
            self.absorbed += left
        for lot, _ in attempt.hold:
            self._end(lot)
            self._repay(lot)
        return left

    def _count_fallback(self, attempt: Held, change: int) -> None:
        month, used = self.fallbacks
        if attempt.fallback and attempt.month == month:
            self.fallbacks = (month, used + change)

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

    def _lot(self, ends: datetime | None) -> Lot:
        lot = Lot(next(self.numbers), self.paused_until_now(), ends)
        self.lots.append(lot)
        return lot

    def _soonest(self, amount: int) -> Parts:
        """Return what each lot gives of what is free, the soonest to end first."""
        parts, left = [], amount
        for lot in sorted(self.lots, key=lambda lot: lot.place):
            part = min(lot.free, left)
            if part:
                parts.append((lot, part))
            left -= part
        return parts

    def _end(self, lot: Lot) -> None:
        """What no hold keeps of a lot ends with its time."""
        if lot.ends and lot.ends + self.paused_until_now() - lot.paused_before <= now():
            self.expired += lot.free
            lot.free = 0

    def _repay(self, lot: Lot) -> None:
        amount = min(lot.free, self.overdrawn)
        lot.free -= amount
        self.overdrawn -= amount
