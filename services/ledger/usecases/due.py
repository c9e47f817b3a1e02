# SPDX-License-Identifier: Apache-2.0
"""
What falls due by time alone: expiry and the monthly grant. There is no job for either: whoever
opens an account's file does first what has fallen due since.
"""

from __future__ import annotations

from services.ledger.domain.accounts import Grant, GrantKind
from services.ledger.domain.book import GRANTS_MAX
from services.ledger.domain.entries import Cause, EntryKind
from services.ledger.domain.files import AccountFile
from services.ledger.domain.money import CREDITS_MAX
from services.ledger.domain.periods import number_at, start_of
from services.ledger.domain.plans import PlanBook

MONTHLY_NOTE = "Monthly grant"


def bring_up_to_date(file: AccountFile, plans: PlanBook) -> None:
    """
    Expire what is due, then grant the current month if that was not done yet.

    A month that passed without anybody asking is not granted afterwards: it would have expired.
    While credits are paused no month ends, so none begins.
    """
    file.book.retire_due()
    plan = plans.find(file.account.plan_id)
    if plan is not None and plan.monthly_grant_nano_credits:
        _grant_month(file, plan.monthly_grant_nano_credits)


def _grant_month(file: AccountFile, amount: int) -> None:
    account = file.account
    paused = account.paused_until(file.now)
    active = file.now - paused
    first = account.first_period or active
    number = number_at(first, active)
    if number < account.period_count:
        return
    # What does not fit is granted as soon as it does.
    full = len(file.book.in_order()) >= GRANTS_MAX
    if full or account.totals.credits + amount > CREDITS_MAX:
        return
    account.first_period, account.period_count = first, number + 1
    grant = Grant(
        grant_id=f"m{number}",
        kind=GrantKind.MONTHLY,
        amount=amount,
        remaining=0,
        reserved=0,
        expire_time=start_of(first, number + 1) + paused,
        paused_before=paused,
        note=MONTHLY_NOTE,
        create_time=file.now,
        number=0,
    )
    cause = Cause(mode_epoch=account.mode_epoch, reason=MONTHLY_NOTE)
    file.book.grant(grant, kind=EntryKind.GRANT, cause=cause)
    file.changes.account = True
