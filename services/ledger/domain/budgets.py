# SPDX-License-Identifier: Apache-2.0
"""
What own keys may cost their owners: each key's vendor cost in a UTC calendar month, over all its
versions.

An attempt holds its worst case until it is settled; then what it cost stays. What may have been
billed stays too: the estimate of a failed attempt that was captured for it, and the worst case of
one whose lease ran out before it told of any usage.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

BudgetId = tuple[str, date]
"""Resource name of the key, first day of the UTC month."""


@dataclass(slots=True)
class KeyBudget:
    """
    One key's month.

    Args:
        key: Resource name of the key.
        month: First day of the UTC month.
        held_nano_usd: Worst cases of open attempts.
        spent_nano_usd: Vendor cost of settled ones.
    """

    key: str
    month: date
    held_nano_usd: int = 0
    spent_nano_usd: int = 0

    @property
    def used_nano_usd(self) -> int:
        """What a limit counts."""
        return self.held_nano_usd + self.spent_nano_usd
