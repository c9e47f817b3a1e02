# SPDX-License-Identifier: Apache-2.0
"""
What this process has found out lately, as a plan reads it: breakers, trials, speeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.router.domain.speed import Speed

if TYPE_CHECKING:
    from services.router.domain.catalogue import Offer
    from services.router.domain.keys import OwnKey


@dataclass(frozen=True, slots=True)
class Gate:
    """
    Whether a breaker lets a call pass.
    """

    closes: bool = False
    """Whether it stands in the way."""
    until: float = 0.0
    """Monotonic seconds; of the gates that close, the soonest is the least bad."""
    trial: str = ""
    """Name of the trial that a call through it would be; empty for none."""


OPEN_GATE = Gate()
UNMEASURED = Speed()


class Conditions(Protocol):
    """
    Read at one moment; reading changes nothing.
    """

    def gate(self, key: OwnKey, offer: Offer) -> Gate:
        """Tell whether a call on a key to an offer may pass."""
        ...

    def speed(self, offer: Offer) -> Speed:
        """Tell how fast an offer has been."""
        ...

    def on_trial(self, name: str) -> bool:
        """Tell whether another request is the trial of that name just now."""
        ...
