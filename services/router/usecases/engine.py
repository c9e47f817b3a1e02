# SPDX-License-Identifier: Apache-2.0
"""
What runs of requests share: their ports, and the events they give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.router.domain.attempts import Receipt
from services.router.domain.catalogue import Catalogue
from services.router.domain.plan import Funding
from services.router.domain.text import StreamEvent
from services.router.usecases.attempt import Caller
from services.router.usecases.experience import Experience
from services.router.usecases.ports import Keys, Ledger
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


@dataclass(frozen=True, slots=True)
class Ended:
    """
    The request was served.
    """

    receipt: Receipt


Event = Started | StreamEvent | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """
    What every run works with.
    """

    keys: Keys
    ledger: Ledger
    caller: Caller
    settler: Settler
    work: BackgroundWork
    experience: Experience
    catalogue: Catalogue
    clock: Clock
    chance: Callable[[], float]
    """Random numbers from 0 to 1."""
    new_claimant: Callable[[], str]
    fingerprint_key: Secret
