# SPDX-License-Identifier: Apache-2.0
"""
What runs of requests share: their ports, and the events they give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.router.domain.attempts import AttemptRecord, Receipt
from services.router.domain.catalogue import Catalogue
from services.router.domain.keys import ResealedKey
from services.router.domain.media import AnswerEvent
from services.router.domain.next_step import Failure
from services.router.domain.plan import Candidate, Funding
from services.router.domain.work import Call
from services.router.usecases.allotments import Allotments
from services.router.usecases.attempt import Delivered, Served, Sink
from services.router.usecases.experience import Experience
from services.router.usecases.ports import Keys, Ledger
from services.router.usecases.price_book import PriceBook
from services.router.usecases.settlement import BackgroundWork, Settler
from services.shared.clock import Clock
from services.shared.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """
    Who pays and who serves; stands once the answer has begun.
    """

    payer: Funding
    provider: str
    model: str
    key_hint: str
    fallback: bool
    attempts: tuple[AttemptRecord, ...] = ()
    """Those made before the one that serves, in order."""


@dataclass(frozen=True, slots=True)
class Ended:
    """
    The request was served.
    """

    receipt: Receipt
    resealed: tuple[ResealedKey, ...] = ()
    """Client-held keys that were sealed anew, for their browser."""


Event = Started | AnswerEvent | Ended


class Calls(Protocol):
    """
    Makes attempts at providers.
    """

    def unsupported(self, provider: str, call: Call) -> list[str]:
        """Name the fields of a call that a provider does not take."""
        ...

    def host(self, provider: str) -> str:
        """Give the host a provider is called at; empty where each key brings its own."""
        ...

    async def call(
        self,
        candidate: Candidate,
        secret: Secret,
        *,
        may_send: Callable[[], bool],
        deadline: float,
        delivered: Delivered,
        sink: Sink,
    ) -> Served | Failure:
        """Make one call."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """
    What every run works with.
    """

    keys: Keys
    ledger: Ledger
    caller: Calls
    settler: Settler
    work: BackgroundWork
    experience: Experience
    allotments: Allotments
    prices: PriceBook
    clock: Clock
    chance: Callable[[], float]
    """Random numbers from 0 to 1."""
    new_claimant: Callable[[], str]
    fingerprint_key: Secret

    @property
    def catalogue(self) -> Catalogue:
        """
        Give the catalogue at the prices in force now.
        """
        return self.prices.catalogue
