# SPDX-License-Identifier: Apache-2.0
"""
What an attempt is settled for: exactly by the provider's usage, else by the stated estimate.

The estimate: four bytes of text are one token, in and out; an image counts nothing. It is used
where a provider reported no usage, and marked so everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain.attempts import AttemptBilled, UsageBasis
from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed
from services.router.domain.prices import cost_nano_usd
from services.router.domain.text import Usage
from services.router.domain.token_bound import input_tokens_estimate, tokens_estimate
from services.router.usecases.ports import Capture, Release

if TYPE_CHECKING:
    from services.router.domain.plan import Candidate
    from services.router.domain.request import TextInput
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
    candidate: Candidate, text_input: TextInput, delivered: Delivered, usage: Usage | None
) -> Measured:
    """
    Measure an attempt by the provider's usage, or by the estimate.
    """
    basis = UsageBasis.EXACT
    if usage is None:
        basis = UsageBasis.ESTIMATED
        usage = Usage(
            input_tokens=input_tokens_estimate(text_input),
            output_tokens=tokens_estimate(delivered.content_bytes),
        )
    price = candidate.offer.price
    return Measured(usage, basis, None if price is None else cost_nano_usd(price, usage))


def so_far(candidate: Candidate, text_input: TextInput, delivered: Delivered) -> Measured:
    """
    Measure an attempt that is under way, or was cut: never less than what has passed.
    """
    reported = delivered.usage
    estimate = tokens_estimate(delivered.content_bytes)
    if reported is None or reported.output_tokens < estimate:
        # Some providers report the input first and the output last.
        known = reported.input_tokens if reported else input_tokens_estimate(text_input)
        usage = Usage(
            input_tokens=known,
            output_tokens=estimate,
            cached_input_tokens=reported.cached_input_tokens if reported else 0,
            cache_write_tokens=reported.cache_write_tokens if reported else 0,
        )
        measured = measure(candidate, text_input, delivered, usage)
        return Measured(measured.usage, UsageBasis.ESTIMATED, measured.cost_nano_usd)
    return measure(candidate, text_input, delivered, reported)


def after_failure(
    candidate: Candidate, text_input: TextInput, delivered: Delivered, failure: Failure
) -> tuple[Capture | Release, AttemptBilled, Measured | None]:
    """
    Give the terms that settle a failed attempt.

    What was refused or never sent is released. What may have been billed keeps its estimate, for
    the key's budget and the statement; what the provider broke counts as not delivered, so credits
    pay nothing for it. A caller whose deadline passed pays for what it got, as one that left does.
    """
    if failure.deadline_passed:
        measured = so_far(candidate, text_input, delivered)
        return measured.capture(delivered=delivered.content), AttemptBilled.MAYBE, measured
    if failure.billed is Billed.NOT_SENT:
        return Release(failure.outcome), AttemptBilled.NOT_SENT, None
    if failure.billed is Billed.REFUSED:
        return Release(failure.outcome), AttemptBilled.REFUSED, None
    if failure.usage is not None:
        measured = measure(candidate, text_input, delivered, failure.usage)
    else:
        measured = so_far(candidate, text_input, delivered)
    return measured.capture(delivered=False), AttemptBilled.MAYBE, measured
