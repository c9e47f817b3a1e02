# SPDX-License-Identifier: Apache-2.0
"""
Monthly periods of an account, on its active time: its time less all pauses.

Each begins a whole number of calendar months after the first, on the same day of the month or, in a
shorter month, on its last day.
"""

from __future__ import annotations

import calendar
from datetime import datetime

MONTHS_PER_YEAR = 12


def start_of(first: datetime, number: int) -> datetime:
    """
    Return when a period begins.

    Args:
        first: When the first one began.
        number: Which, from 0.
    """
    years, month = divmod(first.month - 1 + number, MONTHS_PER_YEAR)
    year, month = first.year + years, month + 1
    day = min(first.day, calendar.monthrange(year, month)[1])
    return first.replace(year=year, month=month, day=day)


def number_at(first: datetime, time: datetime) -> int:
    """
    Return which period a time lies in, from 0.

    Args:
        first: When the first one began.
        time: At or after it.
    """
    months = (time.year - first.year) * MONTHS_PER_YEAR + time.month - first.month
    return months if start_of(first, months) <= time else months - 1
