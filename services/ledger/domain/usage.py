# SPDX-License-Identifier: Apache-2.0
"""What an attempt used, and sums of it."""

from __future__ import annotations

from datetime import date
from operator import add, sub
from typing import NamedTuple

from services.ledger.domain.modes import Funding

UNIT_COUNT_MAX = 10**15
"""Most units of one kind that one attempt can have used; more is a malformed count."""


class UsageUnits(NamedTuple):
    """Units by the provider's count, each 0 to UNIT_COUNT_MAX."""

    input_token_count: int = 0
    cached_input_token_count: int = 0
    cache_write_token_count: int = 0
    output_token_count: int = 0
    reasoning_token_count: int = 0
    image_count: int = 0
    character_count: int = 0
    media_milliseconds: int = 0

    def plus(self, other: UsageUnits) -> UsageUnits:
        """Return the sum."""
        return UsageUnits(*map(add, self, other))

    def minus(self, other: UsageUnits) -> UsageUnits:
        """Return the difference, whose counts may be below zero."""
        return UsageUnits(*map(sub, self, other))


class UsageKey(NamedTuple):
    """
    What usage is summed by.

    Args:
        day: UTC day of the settlement.
        model: `vendor/model`.
        provider: Provider id.
        key: Resource name of the own key; empty on credits.
        funding: Who paid.
    """

    day: date
    model: str
    provider: str
    key: str
    funding: Funding


class UsageSum(NamedTuple):
    """
    Usage summed.

    Args:
        attempt_count: Attempts.
        vendor_cost_nano_usd: Vendor cost.
        charged_nano_credits: Charged to the customer.
        fee_nano_credits: Part of it that is fees.
        units: Units used.
    """

    attempt_count: int = 0
    vendor_cost_nano_usd: int = 0
    charged_nano_credits: int = 0
    fee_nano_credits: int = 0
    units: UsageUnits = UsageUnits()

    def plus(self, other: UsageSum) -> UsageSum:
        """Return the sum."""
        return UsageSum(
            self.attempt_count + other.attempt_count,
            self.vendor_cost_nano_usd + other.vendor_cost_nano_usd,
            self.charged_nano_credits + other.charged_nano_credits,
            self.fee_nano_credits + other.fee_nano_credits,
            self.units.plus(other.units),
        )

    def minus(self, other: UsageSum) -> UsageSum:
        """Return the difference, whose counts may be below zero."""
        return UsageSum(
            self.attempt_count - other.attempt_count,
            self.vendor_cost_nano_usd - other.vendor_cost_nano_usd,
            self.charged_nano_credits - other.charged_nano_credits,
            self.fee_nano_credits - other.fee_nano_credits,
            self.units.minus(other.units),
        )
