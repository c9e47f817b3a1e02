# SPDX-License-Identifier: Apache-2.0
"""
What an attempt is settled for: exactly by the provider's usage, else by the stated estimate.

The estimate: four bytes of text are one token, in and out; an image counts nothing. It is used
where a provider reported no usage, and marked so everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.router.domain.attempts import AttemptBilled, UsageBasis
from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed
from services.router.domain.prices import cost_nano_usd
from services.router.usecases.ports import Capture, Release

if TYPE_CHECKING:
    from services.router.domain.plan import Candidate
    from services.router.domain.text import Usage
    from services.router.domain.work import Work
    from services.router.usecases.attempt import Delivered

ESTIMATE_NOTE = (
    "the provider reported no usage: it was estimated at four bytes of text a token, images aside"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What an attempt used and cost.
    """

    usage: Usage
    basis: UsageBasis
    cost_nano_usd: int | None

    def capture(self, *, delivered: bool) -> Capture:
        """
        Give the terms that settle it.
        """
        return Capture(
            vendor_cost_nano_usd=self.cost_nano_usd,
            usage=self.usage,
            basis=self.basis,
            delivered=delivered,
        )


def measure(
    candidate: Candidate, work: Work, delivered: Delivered, usage: Usage | None
) -> Measured:
    """
    Measure an attempt by the provider's usage, or by the estimate.
    """
    basis = UsageBasis.EXACT
    if usage is None:
        basis = UsageBasis.ESTIMATED
        usage = work.usage_estimate(delivered.content_bytes, candidate.call)
    price = candidate.offer.price
    return Measured(usage, basis, None if price is None else cost_nano_usd(price, usage))


def so_far(candidate: Candidate, work: Work, delivered: Delivered) -> Measured:
    """
    Measure an attempt that is under way, or was cut: what its provider counted so far, and by the
    estimate what passed since. Some count with every piece, some the input first, the output last.
    """
    reported, uncounted = delivered.usage, delivered.content_bytes - delivered.reported_bytes
    if reported is None or not uncounted:
        return measure(candidate, work, delivered, reported)
    rest = work.usage_estimate(uncounted, candidate.call).output_tokens
    usage = replace(reported, output_tokens=reported.output_tokens + rest)
    return replace(measure(candidate, work, delivered, usage), basis=UsageBasis.ESTIMATED)


def after_failure(
    candidate: Candidate, work: Work, delivered: Delivered, failure: Failure
) -> tuple[Capture | Release, AttemptBilled, Measured | None]:
    """
    Give the terms that settle a failed attempt.

    What was refused or never sent is released. What may have been billed keeps its estimate, for
    the key's budget and the statement; what the provider broke counts as not delivered, so credits
    pay nothing for it. A caller whose deadline passed pays for what it got, as one that left does.
    """
    if failure.deadline_passed:
        measured = so_far(candidate, work, delivered)
        return measured.capture(delivered=delivered.content), AttemptBilled.MAYBE, measured
    if failure.billed is Billed.NOT_SENT:
        return Release(failure.outcome), AttemptBilled.NOT_SENT, None
    if failure.billed is Billed.REFUSED:
        return Release(failure.outcome), AttemptBilled.REFUSED, None
    if failure.usage is not None:
        measured = measure(candidate, work, delivered, failure.usage)
    else:
        measured = so_far(candidate, work, delivered)
    return measured.capture(delivered=False), AttemptBilled.MAYBE, measured
