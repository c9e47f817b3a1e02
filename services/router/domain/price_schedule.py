# SPDX-License-Identifier: Apache-2.0
"""
How a price changes with time: from a day on, or between two times of each day.

All times are UTC. The last row whose condition holds counts, the default where none does; so the
genai-prices package orders its conditional prices, https://github.com/pydantic/genai-prices .
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.router.domain.prices import Price

MIDNIGHT = time(tzinfo=UTC)
SATURDAY = 5
"""`datetime.weekday` of the first day that is no working day."""


@dataclass(frozen=True, slots=True)
class FromDay:
    """
    Holds from the beginning of a day on.
    """

    day: date

    def holds(self, moment: datetime) -> bool:
        """
        Tell whether it holds at a moment.
        """
        return moment.date() >= self.day

    def next_change(self, moment: datetime) -> datetime | None:
        """
        Give the next moment from which it may be otherwise; None where there is none.
        """
        begins = datetime.combine(self.day, MIDNIGHT)
        return begins if begins > moment else None


@dataclass(frozen=True, slots=True)
class Daily:
    """
    Holds between two times of each day, the later one excluded; it may pass midnight.
    """

    start: time
    end: time
    working_days_only: bool = False
    """Whether Saturdays and Sundays are left out."""

    def holds(self, moment: datetime) -> bool:
        """
        Tell whether it holds at a moment.
        """
        if self.working_days_only and moment.weekday() >= SATURDAY:
            return False
        now = moment.timetz()
        if self.end < self.start:
            return now >= self.start or now < self.end
        return self.start <= now < self.end

    def next_change(self, moment: datetime) -> datetime | None:
        """
        Give the next moment from which it may be otherwise.
        """
        days = (moment.date(), moment.date() + timedelta(days=1))
        times = (MIDNIGHT, self.start, self.end)
        moments = (datetime.combine(day, at) for day in days for at in times)
        return min(each for each in moments if each > moment)


Condition = FromDay | Daily


@dataclass(frozen=True, slots=True)
class PriceSchedule:
    """
    The prices of one model at one provider over time.
    """

    default: Price
    rows: tuple[tuple[Condition, Price], ...] = ()

    def at(self, moment: datetime) -> Price:
        """
        Give the price in force at a moment, in UTC.
        """
        for condition, price in reversed(self.rows):
            if condition.holds(moment):
                return price
        return self.default

    def next_change(self, moment: datetime) -> datetime | None:
        """
        Give the next moment from which another price may be in force; None where none follows.
        """
        changes = (condition.next_change(moment) for condition, _ in self.rows)
        return min((each for each in changes if each is not None), default=None)
