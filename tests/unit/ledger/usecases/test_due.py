# SPDX-License-Identifier: Apache-2.0
"""Monthly grants by account time, without a job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.ledger.domain.accounts import GrantKind
from services.ledger.domain.book import Book
from services.ledger.domain.files import AccountFile
from services.ledger.domain.modes import BillingMode
from services.ledger.domain.money import CREDITS_MAX
from services.ledger.domain.plans import Plan, PlanBook
from services.ledger.usecases.due import bring_up_to_date
from tests.support.ledger_accounts import new_account

FIRST = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def plan(plan_id: str, monthly: int) -> Plan:
    """Return a plan with a monthly grant."""
    return Plan(
        plan_id=plan_id,
        title="",
        allowed_modes=(BillingMode.CREDITS,),
        default_mode=BillingMode.CREDITS,
        credit_value_nano_usd=1,
        markup_parts_per_million=1,
        operation_prices={},
        model_prices={},
        monthly_grant_nano_credits=monthly,
        overdraft_nano_credits=0,
        fee=None,
    )


PLANS = PlanBook({"even": plan("even", 100), "more": plan("more", 300), "none": plan("none", 0)})


class Timeline:
    """An account that is opened at any time."""

    def __init__(self) -> None:
        account = new_account(now=FIRST)
        self.file = AccountFile(account, Book(account, {}, FIRST), FIRST)

    def at(self, time: datetime) -> int:
        """Open the account at a time and return what it owns."""
        self.file.book.now = time
        bring_up_to_date(self.file, PLANS)
        return self.file.account.totals.posted

    def pause(self) -> None:
        """Pause its credits now."""
        self.file.account.pause_time = self.file.now

    def resume(self) -> None:
        """End the pause now."""
        account = self.file.account
        account.paused_for, account.pause_time = account.paused_until(self.file.now), None


@pytest.mark.requirement("L2", "L4")
class TestMonthlyGrant:
    def test_each_month_is_granted_once_and_expires_at_its_end(self) -> None:
        line = Timeline()
        assert line.at(FIRST) == line.at(FIRST + DAY) == 100
        (grant,) = line.file.book.in_order()
        assert (grant.grant_id, grant.kind) == ("m0", GrantKind.MONTHLY)
        assert grant.expire_time == datetime(2026, 2, 28, 12, tzinfo=UTC)
        assert line.at(datetime(2026, 2, 28, 12, tzinfo=UTC)) == 100
        assert line.file.account.totals.expired == 100
        assert line.at(datetime(2026, 3, 31, 11, tzinfo=UTC)) == 100
        assert [g.grant_id for g in line.file.book.in_order()] == ["m1"]

    def test_a_month_that_nobody_asked_in_is_not_granted_afterwards(self) -> None:
        line = Timeline()
        line.at(FIRST)
        assert line.at(datetime(2026, 7, 4, tzinfo=UTC)) == 100
        assert line.file.account.totals.issued == 200
        assert [g.grant_id for g in line.file.book.in_order()] == ["m5"]

    def test_the_month_stands_still_while_paused(self) -> None:
        line = Timeline()
        line.at(FIRST + 5 * DAY)
        (grant,) = line.file.book.in_order()
        end = grant.expire_time
        assert end is not None
        line.pause()
        assert line.at(FIRST + 100 * DAY) == 100
        assert line.file.account.totals.issued == 100
        line.resume()
        assert grant.expires_at(line.file.account, line.file.now) == end + 95 * DAY
        assert line.at(end + 95 * DAY - timedelta(seconds=1)) == 100
        assert line.file.account.totals.issued == 100
        assert line.at(end + 95 * DAY) == 100
        assert line.file.account.totals.issued == 200

    def test_another_plan_counts_from_the_next_month(self) -> None:
        line = Timeline()
        line.at(FIRST)
        line.file.account.plan_id = "more"
        assert line.at(FIRST + DAY) == 100
        assert line.at(FIRST + 31 * DAY) == 300

    def test_leaving_and_coming_back_grants_nothing_twice(self) -> None:
        line = Timeline()
        line.at(FIRST)
        for plan_id in ("none", "even", "gone", "even"):
            line.file.account.plan_id = plan_id
            assert line.at(FIRST + DAY) == 100

    def test_a_first_plan_with_grants_begins_its_month_then(self) -> None:
        line = Timeline()
        line.file.account.plan_id = "none"
        assert line.at(FIRST) == 0
        line.file.account.plan_id = "even"
        assert line.at(FIRST + 20 * DAY) == 100
        assert line.file.account.first_period == FIRST + 20 * DAY

    def test_what_does_not_fit_is_granted_as_soon_as_it_does(self) -> None:
        line = Timeline()
        line.file.account.totals.credits = CREDITS_MAX
        line.at(FIRST)
        assert line.file.account.period_count == 0
        line.file.account.totals.credits = 0
        assert line.at(FIRST + DAY) == 100
