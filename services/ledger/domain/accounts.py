# SPDX-License-Identifier: Apache-2.0
"""An account and its grants, as they stand under its lock. The store writes them back whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from services.ledger.domain.modes import BillingMode, FallbackConsent
from services.ledger.domain.words import Word

BUCKET_COUNT = 1024
"""Buckets that accounts are spread over: the lane of a batch and the shard of a cluster."""


_BUCKETS_KEPT_MAX = 65_536
"""Accounts whose buckets a process remembers."""


@lru_cache(_BUCKETS_KEPT_MAX)
def bucket_of(account_id: str) -> int:
    """Return the account's bucket: a fixed hash that never changes."""
    digest = hashlib.sha256(account_id.encode()).digest()
    return int.from_bytes(digest[:2], "big") % BUCKET_COUNT


def month_of(time: datetime) -> date:
    """Return the first day of a time's UTC calendar month."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return date(time.year, time.month, 1)


@dataclass(slots=True)
class Totals:
    """
    Running totals of an account's books, nano-credits, each zero or more.

    credits + spent + fees + expired = overdrawn + issued + invoiced + absorbed.

    Args:
        credits: What the grants hold.
        reserved: Part of it that open holds reserve.
        overdrawn: What was taken below zero.
        issued: Granted and adjusted.
        spent: Price of work on credits.
        fees: Fees on own-key use.
        invoiced: Part of the fees on the invoice.
        absorbed: Part of the price that the house carried.
        expired: Expired unspent.
    """

    credits: int = 0
    reserved: int = 0
    overdrawn: int = 0
    issued: int = 0
    spent: int = 0
    fees: int = 0
    invoiced: int = 0
    absorbed: int = 0
    expired: int = 0

    @property
    def posted(self) -> int:
        """What the account owns, holds included; below zero while overdrawn."""
        return self.credits - self.overdrawn

    @property
    def available(self) -> int:
        """What a new hold may take; below zero while overdrawn."""
        return self.posted - self.reserved


@dataclass(slots=True)
class Account:
    """
    An account.

    Args:
        account_id: Its id in `accounts/{account}`.
        plan_id: Its plan.
        billing_mode: Who pays.
        mode_epoch: Number of the mode, from 1.
        fallback_consent: Consent to fall back to credits.
        fallback_daily_cap: Most nano-credits of fallbacks in a UTC day; None for no cap.
        fallback_day: The day that `fallback_used` counts; None before the first fallback.
        fallback_used: Held and charged by fallbacks authorized on that day.
        allowance_month: First day of the UTC month that `allowance_used` counts; None before the
            first free request.
        allowance_used: Free requests of that month, held and used.
        first_period: When its first monthly period began, on its active time; None before that.
        period_count: Number of the last period that was granted, from 1.
        pause_time: When credits were paused; None while they are not.
        paused_for: How long all ended pauses lasted.
        totals: Running totals.
        overdraft_limit: How far it may be overdrawn now.
        entry_count: Entries so far.
        authorization_count: Authorizations so far.
        revision: Changes of plan, mode, consent and cap so far, from 1.
        last_time: Latest account time; it never goes back.
        create_time: When it was created.
        update_time: When plan, mode, consent or cap changed last.
    """

    account_id: str
    plan_id: str
    billing_mode: BillingMode
    mode_epoch: int
    fallback_consent: FallbackConsent
    fallback_daily_cap: int | None
    fallback_day: date | None
    fallback_used: int
    allowance_month: date | None
    allowance_used: int
    first_period: datetime | None
    period_count: int
    pause_time: datetime | None
    paused_for: timedelta
    totals: Totals
    overdraft_limit: int
    entry_count: int
    authorization_count: int
    revision: int
    last_time: datetime
    create_time: datetime
    update_time: datetime

    def paused_until(self, now: datetime) -> timedelta:
        """Return how long credits were paused in all, up to `now`."""
        if self.pause_time is None:
            return self.paused_for
        return self.paused_for + (now - self.pause_time)

    def fallback_used_on(self, day: date) -> int:
        """Return what fallbacks authorized on a UTC day hold and were charged."""
        return self.fallback_used if self.fallback_day == day else 0

    def allowance_used_in(self, month: date) -> int:
        """Return how many free requests of a UTC month are held and used."""
        return self.allowance_used if self.allowance_month == month else 0


class GrantKind(Word):
    """Where a grant's credits come from."""

    MONTHLY = "MONTHLY"
    PURCHASED = "PURCHASED"
    PROMOTIONAL = "PROMOTIONAL"
    ADJUSTMENT = "ADJUSTMENT"


@dataclass(slots=True)
class Grant:
    """
    Credits that came in together.

    Args:
        grant_id: Its id in `accounts/{account}/grants/{grant}`.
        kind: Where it comes from.
        amount: Nano-credits granted.
        remaining: Nano-credits left, holds included.
        reserved: Part of them that open holds reserve.
        expire_time: When it would expire without pauses; None for never.
        paused_before: How long the account had been paused in all when it was granted.
        note: For people.
        create_time: When it was granted.
        number: Number of the entry that made it; the order of equal expiries.
    """

    grant_id: str
    kind: GrantKind
    amount: int
    remaining: int
    reserved: int
    expire_time: datetime | None
    paused_before: timedelta
    note: str
    create_time: datetime
    number: int

    @property
    def free(self) -> int:
        """What no hold reserves."""
        return self.remaining - self.reserved

    def expires_at(self, account: Account, now: datetime) -> datetime | None:
        """Return when it expires: its expiry clock stands still while credits are paused."""
        if self.expire_time is None:
            return None
        return self.expire_time + (account.paused_until(now) - self.paused_before)


def spending_order(grant: Grant) -> tuple[bool, timedelta, int]:
    """
    Return the sort key of the order in which grants are spent: soonest expiring first, then older.

    Pauses move all expiries alike, so the order never changes: it depends on what is fixed.
    """
    if grant.expire_time is None:
        return (True, timedelta(), grant.number)
    epoch = datetime.fromtimestamp(0, tz=grant.expire_time.tzinfo)
    return (False, grant.expire_time - epoch - grant.paused_before, grant.number)
