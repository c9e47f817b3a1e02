# SPDX-License-Identifier: Apache-2.0
"""
What may serve a request, and what takes no part and why; `planning` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from services.router.domain.conditions import OPEN_GATE, UNMEASURED, Gate
from services.router.domain.speed import Speed

if TYPE_CHECKING:
    from services.router.domain.catalogue import Offer
    from services.router.domain.keys import HealthMark, OwnKey
    from services.router.domain.work import Call


class Funding(StrEnum):
    """
    Which side pays for an attempt.
    """

    OWN_KEY = "own_key"
    CREDITS = "credits"


class OwnKeyState(StrEnum):
    """
    Whether an own key serves, and if none does, why: what the ledger decides consent by.
    """

    READY = "ready"
    NONE_STORED = "none_stored"
    NONE_FOR_MODEL = "none_for_model"
    DISABLED = "disabled"
    COOLING = "cooling"
    REJECTED = "rejected"
    NO_CREDIT = "no_credit"
    PROVIDER_FAILED = "provider_failed"
    LIMIT_REACHED = "limit_reached"
    UNKNOWN = "unknown"
    """Keyvault cannot open the key that would serve: never read as no key."""


class ExclusionReason(StrEnum):
    """
    Why a key or a provider takes no part.
    """

    DISABLED = "disabled"
    BACKUP_NOT_USED = "backup_not_used"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    MODEL_NOT_SERVED = "model_not_served"
    PREFERENCE = "preference"
    PRICE = "price"
    PARAMETER = "parameter"
    SOURCE = "source"
    UNPRICED = "unpriced"
    NO_SHARED_KEY = "no_shared_key"
    BREAKER_OPEN = "breaker_open"
    KEY_UNAVAILABLE = "key_unavailable"
    LIMIT_REACHED = "limit_reached"
    PAYER = "payer"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """
    A key that may serve the request, and how.
    """

    funding: Funding
    key: OwnKey
    offer: Offer
    health: HealthMark
    call: Call
    """What would be sent, without the dropped fields."""
    dropped: tuple[str, ...]
    worst_case_nano_usd: int | None
    gate: Gate = OPEN_GATE
    speed: Speed = UNMEASURED
    trials: frozenset[str] = frozenset()
    """What trying it would find out; the request that claims them is the only one to."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """
    A key or provider that takes no part.
    """

    funding: Funding
    provider: str
    key: str
    """Own key's name; empty for the provider as a whole."""
    reason: ExclusionReason
    detail: str
    offer: Offer | None = None
    """Set where the offer was fitted and found wanting."""
    field: str = ""
    """The request's field that rules it out; empty where none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    What may serve a request, in order.
    """

    own: tuple[Candidate, ...]
    """Every matching own key, whatever its health."""
    shared: tuple[Candidate, ...]
    without_own_key: OwnKeyState
    """Why no own key matches, where `own` is empty."""
    always_use: bool
    """Whether a matching own key forbids credits as a fallback."""
    exclusions: tuple[Exclusion, ...]
    notes: tuple[str, ...]
