# SPDX-License-Identifier: Apache-2.0
"""
What became of a request: its attempts and its receipt. Plain values, no prompt, no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.router.domain.plan import Funding
from services.router.domain.prices import Rates
from services.router.domain.text import FinishReason, Usage

OK = "ok"
"""Outcome word of an attempt that served the request."""
CANCELLED = "cancelled"
"""Outcome word of an attempt whose caller left."""


class AttemptBilled(StrEnum):
    """
    Whether the provider may charge for an attempt.
    """

    YES = "yes"
    NOT_SENT = "not_sent"
    REFUSED = "refused"
    MAYBE = "maybe_billed"


class UsageBasis(StrEnum):
    """
    How exact a usage is.
    """

    EXACT = "exact"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """
    One call at a provider.
    """

    provider: str
    model: str
    provider_model: str
    funding: Funding
    key: str
    """Own key's name; empty on credits."""
    key_hint: str
    """Own key's hint; empty on credits."""
    outcome: str
    """`ok`, `cancelled` or a word of `Outcome`."""
    billed: AttemptBilled
    latency_seconds: float
    fallback: bool
    usage: Usage | None = None
    basis: UsageBasis | None = None
    cost_nano_usd: int | None = None
    charged_nano_credits: int = 0
    http_status: int = 0

    @property
    def may_be_billed(self) -> bool:
        """
        Tell whether the provider charges for it, or may.
        """
        return self.billed in (AttemptBilled.YES, AttemptBilled.MAYBE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceUsed:
    """
    The price a cost was worked out by.
    """

    price_id: str
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """
    What a served request came to.
    """

    attempts: tuple[AttemptRecord, ...]
    """In order; the last one served it."""
    price: PriceUsed | None
    settled: bool
    notes: tuple[str, ...]
    finish_reason: FinishReason | None
    """None in a replayed answer that was not recorded."""
    replayed: bool = False

    @property
    def served(self) -> AttemptRecord:
        """
        Give the attempt that served the request.
        """
        return self.attempts[-1]

    @property
    def cost_nano_usd(self) -> int | None:
        """
        Sum the vendor cost; None where an attempt that may cost something is unpriced.
        """
        total = 0
        for attempt in self.attempts:
            if not attempt.may_be_billed:
                continue
            if attempt.cost_nano_usd is None:
                return None
            total += attempt.cost_nano_usd
        return total

    @property
    def charged_nano_credits(self) -> int:
        """
        Sum what the account was charged.
        """
        return sum(attempt.charged_nano_credits for attempt in self.attempts)
