# SPDX-License-Identifier: Apache-2.0
"""One account's money: holds from named grants, charges, corrections, expiry, overdraft."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.ledger.domain.accounts import Grant, GrantKind, bucket_of
from services.ledger.domain.book import GRANTS_MAX, Book, Charge, Part
from services.ledger.domain.entries import Cause, EntryKind, Income, SubLedger
from services.ledger.domain.money import CREDITS_MAX
from services.ledger.errors import GrantLimitReachedError, InsufficientCreditsError
from services.shared.errors import InvalidArgumentError
from tests.support.ledger_accounts import NOW, new_account

DAY = timedelta(days=1)
ATTEMPT = Cause(mode_epoch=1, authorization="r-1-1")


def book(*, overdraft: int = 0) -> Book:
    """Return an empty book."""
    return Book(new_account(overdraft=overdraft), {}, NOW)


def give(to: Book, grant_id: str, amount: int, *, expires_in: timedelta | None = None) -> None:
    """Grant credits."""
    grant = Grant(
        grant_id=grant_id,
        kind=GrantKind.PURCHASED,
        amount=amount,
        remaining=0,
        reserved=0,
        expire_time=to.now + expires_in if expires_in else None,
        paused_before=to.account.paused_until(to.now),
        note="",
        create_time=to.now,
        number=0,
    )
    to.grant(grant, kind=EntryKind.GRANT, cause=Cause(mode_epoch=1))


def check(held: Book) -> None:
    """Hold a book to its invariants."""
    totals, grants = held.account.totals, held.grants.values()
    assert totals.credits == sum(grant.remaining for grant in grants)
    assert totals.reserved == sum(grant.reserved for grant in grants)
    assert all(0 <= grant.reserved <= grant.remaining for grant in grants)
    assert 0 <= totals.overdrawn <= held.account.overdraft_limit
    assert totals.overdrawn == 0 or all(grant.free == 0 for grant in grants)
    assert (
        totals.credits + totals.spent + totals.fees + totals.expired
        == totals.overdrawn + totals.issued + totals.invoiced + totals.absorbed
    )
    assert [entry.sequence for entry in held.entries] == list(range(1, len(held.entries) + 1))
    posted = 0
    for entry in held.entries:
        posted += entry.posted_change
        assert entry.posted_after == posted
        assert entry.amount > 0
    assert totals.posted == posted


@pytest.mark.requirement("L2")
class TestGrants:
    def test_the_soonest_to_expire_is_spent_first_then_the_older(self) -> None:
        held = book()
        give(held, "never", 10)
        give(held, "late", 10, expires_in=2 * DAY)
        give(held, "soon", 10, expires_in=DAY)
        give(held, "soon-too", 10, expires_in=DAY)
        parts = held.reserve(35)
        assert parts == (
            Part("soon", 10),
            Part("soon-too", 10),
            Part("late", 10),
            Part("never", 5),
        )
        check(held)

    def test_expiry_takes_what_no_hold_reserves_and_the_rest_when_it_is_released(self) -> None:
        held = book()
        give(held, "soon", 10, expires_in=DAY)
        hold = held.reserve(4)
        held.now += 2 * DAY
        held.retire_due()
        assert held.account.totals.expired == 6
        assert held.grants["soon"].remaining == 4
        charge = held.settle(hold, 1, cause=ATTEMPT)
        assert charge.parts == (Part("soon", 1),)
        assert held.account.totals.expired == 9
        assert held.account.totals.posted == 0
        check(held)

    def test_expiry_clocks_stand_still_while_paused(self) -> None:
        held = book()
        give(held, "soon", 10, expires_in=DAY)
        held.account.pause_time = held.now
        held.now += 30 * DAY
        held.retire_due()
        assert held.account.totals.posted == 10
        held.account.paused_for = held.account.paused_until(held.now)
        held.account.pause_time = None
        held.now += DAY - timedelta(seconds=1)
        held.retire_due()
        assert held.account.totals.posted == 10
        held.now += timedelta(seconds=1)
        held.retire_due()
        assert held.account.totals.posted == 0
        check(held)

    def test_a_grant_made_while_paused_has_its_whole_time_left(self) -> None:
        held = book()
        held.account.pause_time = held.now
        held.now += 5 * DAY
        give(held, "gift", 10, expires_in=DAY)
        held.now += 5 * DAY
        expiry = held.grants["gift"].expires_at(held.account, held.now)
        assert expiry == held.now + DAY

    def test_what_an_account_owns_is_bounded(self) -> None:
        held = book()
        give(held, "first", CREDITS_MAX)
        with pytest.raises(InvalidArgumentError):
            give(held, "second", 1)
        check(held)

    def test_the_number_of_unspent_grants_is_bounded(self) -> None:
        held = book()
        for number in range(GRANTS_MAX):
            give(held, f"g{number}", 1)
        with pytest.raises(GrantLimitReachedError):
            give(held, "one-more", 1)

    def test_taking_back_never_takes_what_is_held(self) -> None:
        held = book()
        give(held, "first", 10)
        held.reserve(4)
        with pytest.raises(InsufficientCreditsError):
            held.take_back(7, cause=Cause(mode_epoch=1, reason="typo"))
        held.take_back(6, cause=Cause(mode_epoch=1, reason="typo"))
        assert held.account.totals.available == 0
        check(held)


@pytest.mark.requirement("L3", "L13")
class TestCharges:
    def test_less_than_the_hold_gives_the_rest_back(self) -> None:
        held = book()
        give(held, "first", 10)
        charge = held.settle(held.reserve(8), 3, cause=ATTEMPT)
        assert (charge.customer, charge.absorbed) == (3, 0)
        assert held.account.totals.available == 7
        check(held)

    def test_more_than_the_hold_takes_what_is_available_then_overdraft_then_the_house(self) -> None:
        held = book(overdraft=5)
        give(held, "first", 10)
        charge = held.settle(held.reserve(4), 100, cause=ATTEMPT)
        assert charge == Charge((Part("first", 4), Part("first", 6)), overdraft=5, absorbed=85)
        assert held.account.totals.posted == -5
        assert held.account.totals.spent == 100
        check(held)

    def test_it_never_takes_what_others_hold(self) -> None:
        held = book()
        give(held, "first", 10)
        mine, _others = held.reserve(4), held.reserve(6)
        charge = held.settle(mine, 10, cause=ATTEMPT)
        assert (charge.customer, charge.absorbed) == (4, 6)
        assert held.account.totals.reserved == 6
        check(held)

    def test_what_comes_in_pays_what_is_overdrawn_first(self) -> None:
        held = book(overdraft=5)
        give(held, "first", 1)
        held.settle(held.reserve(1), 6, cause=ATTEMPT)
        assert held.account.totals.posted == -5
        give(held, "second", 20)
        assert held.account.totals.posted == 15
        assert held.account.totals.overdrawn == 0
        assert held.entries[-1].kind is EntryKind.REPAYMENT
        check(held)

    def test_a_released_hold_pays_what_is_overdrawn_first(self) -> None:
        held = book(overdraft=5)
        give(held, "first", 10)
        mine, other = held.reserve(4), held.reserve(6)
        held.settle(mine, 9, cause=ATTEMPT)
        assert held.account.totals.overdrawn == 5
        held.settle(other, 0, cause=ATTEMPT)
        assert held.account.totals.overdrawn == 0
        assert held.account.totals.available == 1
        check(held)

    def test_no_hold_is_made_while_overdrawn_but_one_for_nothing(self) -> None:
        held = book(overdraft=5)
        give(held, "first", 1)
        held.settle(held.reserve(1), 6, cause=ATTEMPT)
        assert held.reserve(0) == ()
        with pytest.raises(InsufficientCreditsError):
            held.reserve(1)


@pytest.mark.requirement("L13")
class TestCorrections:
    def test_the_same_price_changes_nothing(self) -> None:
        held = book()
        give(held, "first", 10)
        charge = held.settle(held.reserve(8), 3, cause=ATTEMPT)
        count = len(held.entries)
        assert held.correct(charge, 3, paid_max=8, cause=ATTEMPT) == charge
        assert len(held.entries) == count

    def test_more_is_charged_up_to_what_the_customer_pays_at_most(self) -> None:
        held = book()
        give(held, "first", 100)
        charge = held.settle(held.reserve(8), 3, cause=ATTEMPT)
        charge = held.correct(charge, 20, paid_max=8, cause=ATTEMPT)
        assert (charge.customer, charge.absorbed) == (8, 12)
        check(held)

    def test_less_comes_back_from_the_house_first_then_in_reverse(self) -> None:
        held = book(overdraft=5)
        give(held, "soon", 5, expires_in=DAY)
        give(held, "late", 5)
        charge = held.settle(held.reserve(10), 20, cause=ATTEMPT)
        assert (charge.customer, charge.absorbed) == (15, 5)
        charge = held.correct(charge, 3, paid_max=15, cause=ATTEMPT)
        assert charge == Charge((Part("soon", 3),))
        assert held.grants["soon"].remaining == 2
        assert held.grants["late"].remaining == 5
        check(held)

    def test_what_comes_back_to_an_expired_grant_expires_at_once(self) -> None:
        held = book()
        give(held, "soon", 5, expires_in=DAY)
        charge = held.settle(held.reserve(5), 5, cause=ATTEMPT)
        held.now += 2 * DAY
        held.correct(charge, 1, paid_max=5, cause=ATTEMPT)
        assert held.account.totals.expired == 4
        check(held)

    def test_overdraft_that_was_repaid_comes_back_as_credits(self) -> None:
        held = book(overdraft=5)
        charge = held.settle((), 5, cause=ATTEMPT)
        assert charge.overdraft == 5
        give(held, "later", 20)
        charge = held.correct(charge, 0, paid_max=5, cause=ATTEMPT)
        assert charge == Charge()
        assert held.account.totals.posted == 20
        assert held.entries[-1].debit is SubLedger.SPENT
        check(held)


@pytest.mark.requirement("L2", "L12")
class TestRefunds:
    def test_it_goes_back_in_the_reverse_of_the_order_taken_but_for_what_the_house_bore(
        self,
    ) -> None:
        held = book(overdraft=5)
        give(held, "soon", 5, expires_in=DAY)
        give(held, "late", 5)
        charge = held.settle(held.reserve(10), 20, cause=ATTEMPT)
        assert charge.absorbed == 5
        charge = held.refund(charge, 8, cause=ATTEMPT, income=Income.WORK)
        assert charge == Charge((Part("soon", 5), Part("late", 2)), absorbed=5)
        assert (held.account.totals.overdrawn, held.grants["late"].remaining) == (0, 3)
        assert held.entries[-1].kind is EntryKind.REFUND
        charge = held.refund(charge, 7, cause=ATTEMPT, income=Income.WORK)
        assert charge == Charge(absorbed=5)
        assert held.account.totals.posted == 10
        check(held)

    def test_a_refund_to_an_expired_grant_expires_at_once(self) -> None:
        held = book()
        give(held, "soon", 5, expires_in=DAY)
        charge = held.settle(held.reserve(5), 5, cause=ATTEMPT)
        held.now += 2 * DAY
        held.refund(charge, 5, cause=ATTEMPT, income=Income.WORK)
        assert (held.account.totals.expired, held.account.totals.posted) == (5, 0)
        check(held)

    def test_an_invoiced_fee_goes_off_the_invoice(self) -> None:
        held = book()
        charge = held.settle((), 30, cause=ATTEMPT, income=Income.INVOICED_FEE)
        charge = held.refund(charge, 10, cause=ATTEMPT, income=Income.INVOICED_FEE)
        assert charge == Charge(invoiced=20)
        assert (held.account.totals.invoiced, held.account.totals.posted) == (20, 0)
        check(held)

    def test_overdraft_repaid_twice_comes_back_to_one_grant(self) -> None:
        held = book(overdraft=5)
        charge = held.settle((), 4, cause=ATTEMPT)
        give(held, "later", 20)
        for _ in range(2):
            charge = held.refund(charge, 2, cause=ATTEMPT, income=Income.WORK)
        assert charge == Charge()
        assert held.grants["cr-1-1"].remaining == 4
        check(held)


@pytest.mark.requirement("L6", "L12")
class TestFees:
    def test_a_fee_from_credits_is_counted_apart_from_work(self) -> None:
        held = book()
        give(held, "first", 10)
        charge = held.settle(held.reserve(8), 3, cause=ATTEMPT, income=Income.FEE)
        totals = held.account.totals
        assert (charge.customer, totals.fees, totals.spent, totals.posted) == (3, 3, 0, 7)
        assert held.entries[-1].kind is EntryKind.FEE
        check(held)

    def test_an_invoiced_fee_moves_no_credits(self) -> None:
        held = book(overdraft=5)
        give(held, "first", 10)
        charge = held.settle((), 30, cause=ATTEMPT, income=Income.INVOICED_FEE)
        totals = held.account.totals
        assert charge == Charge(invoiced=30)
        assert (charge.customer, totals.fees, totals.invoiced, totals.posted) == (30, 30, 30, 10)
        check(held)

    def test_corrections_of_an_invoiced_fee_stay_on_the_invoice(self) -> None:
        held = book()
        give(held, "first", 10)
        charge = held.settle((), 30, cause=ATTEMPT, income=Income.INVOICED_FEE)
        more = {"cause": ATTEMPT, "income": Income.INVOICED_FEE}
        charge = held.correct(charge, 50, paid_max=40, **more)
        assert charge == Charge(absorbed=10, invoiced=40)
        charge = held.correct(charge, 35, paid_max=40, **more)
        assert charge == Charge(invoiced=35)
        assert held.account.totals.posted == 10
        check(held)

    def test_a_fee_past_its_hold_goes_on_like_a_charge_and_comes_back_in_reverse(self) -> None:
        held = book(overdraft=2)
        give(held, "first", 10)
        fee = {"cause": ATTEMPT, "income": Income.FEE}
        charge = held.settle(held.reserve(4), 20, **fee)
        assert charge == Charge((Part("first", 4), Part("first", 6)), overdraft=2, absorbed=8)
        charge = held.correct(charge, 3, paid_max=20, **fee)
        assert charge == Charge((Part("first", 3),))
        assert held.account.totals.fees == 3
        check(held)


class TestBuckets:
    def test_an_account_stays_in_its_bucket_forever(self) -> None:
        """The hash is written into every row; these values hold for all versions."""
        found = [bucket_of(name) for name in ("demo", "platform", "acme-7")]
        assert found == [663, 660, 792]
