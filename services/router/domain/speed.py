# SPDX-License-Identifier: Apache-2.0
"""
How fast a provider serves a model: averages in which old samples fade.
"""

from __future__ import annotations

from dataclasses import dataclass

HALF_LIFE_SECONDS = 300.0
WEIGHT_MIN = 0.1
"""With less of a sample's weight left, nothing is known any more: a single one after 17 minutes."""


@dataclass(frozen=True, slots=True)
class Average:
    """
    A fading mean; times are monotonic seconds.
    """

    mean: float = 0.0
    weight: float = 0.0
    at: float = 0.0

    def observed(self, sample: float, now: float) -> Average:
        """
        Take a sample in.
        """
        faded = self._faded(now)
        weight = faded + 1.0
        return Average((self.mean * faded + sample) / weight, weight, now)

    def known(self, now: float) -> float | None:
        """
        Give the mean, None where too little is left of it.
        """
        return self.mean if self._faded(now) >= WEIGHT_MIN else None

    def _faded(self, now: float) -> float:
        return self.weight * float(0.5 ** (max(0.0, now - self.at) / HALF_LIFE_SECONDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """
    What is known of an offer's speed; None where it was not measured lately.
    """

    first_content_seconds: float | None = None
    """From sending a streamed call to its first content."""
    tokens_per_second: float | None = None
    """Output tokens by the whole time of the call."""
