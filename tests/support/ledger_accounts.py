# SPDX-License-Identifier: Apache-2.0
"""Accounts for tests of the ledger's rules, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from services.ledger.domain.accounts import Account, Totals
from services.ledger.domain.modes import BillingMode, FallbackConsent

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def new_account(*, overdraft: int = 0, now: datetime = NOW) -> Account:
    """Return an account that owns nothing."""
    return Account(
        account_id="demo",
        plan_id="even",
        billing_mode=BillingMode.CREDITS,
        mode_epoch=1,
        fallback_consent=FallbackConsent.ANY,
        fallback_daily_cap=None,
        fallback_day=None,
        fallback_used=0,
        allowance_month=None,
        allowance_used=0,
        first_period=None,
        period_count=0,
        pause_time=None,
        paused_for=timedelta(),
        totals=Totals(),
        overdraft_limit=overdraft,
        entry_count=0,
        authorization_count=0,
        revision=1,
        last_time=now,
        create_time=now,
        update_time=now,
    )
