# SPDX-License-Identifier: Apache-2.0
"""
An account's keys as a plan sees them: never the secret.

Health times are points on this process's monotonic clock, made from the milliseconds left that
keyvault tells, so that clocks need not agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HealthState(StrEnum):
    """
    What stands in a key's way: what calls have found out, or keyvault says.
    """

    ACTIVE = "active"
    SUSPECT = "suspect"
    REJECTED = "rejected"
    NO_CREDIT = "no_credit"
    COOLING = "cooling"
    NOT_BROUGHT = "not_brought"
    """Of a client-held key: the request does not bring it."""
    UNOPENED = "unopened"
    """Keyvault cannot open its secret now; that says nothing about the key."""


ALL_MODELS: frozenset[str] = frozenset()
"""What the list of a key holds that may serve every model."""


@dataclass(frozen=True, slots=True)
class HealthMark:
    """
    Health of a whole key or of one model on it.
    """

    state: HealthState
    model: str = ""
    """The provider's model name; empty for the whole key."""
    until: float = 0.0
    """Monotonic seconds: for COOLING the end, for NO_CREDIT the next try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKey:
    """
    One key of an account, at its current version.
    """

    name: str
    """`accounts/{account}/keys/{key}`."""
    provider: str
    hint: str
    version: int
    etag: str
    order: int
    enabled: bool
    active: bool
    always_use: bool
    allowed_models: frozenset[str] = ALL_MODELS
    """`vendor/model`; empty for all."""
    deployed_models: frozenset[str] | None = None
    """The only models its credential has deployments of; None where it is not about deployments."""
    region: str = ""
    """Where its credential has models served; empty where its provider knows no regions."""
    default_model: str = ""
    monthly_limit_nano_usd: int | None = None
    client_held: bool = False
    """Whether the customer's browser holds the secret: it serves only requests that bring it."""
    health: tuple[HealthMark, ...] = ()
    ends_at: float | None = None
    """Monotonic seconds from which this version may not be used; None for the current one."""
    previous: OwnKey | None = None
    """The version before, in its overlap: it serves what was begun with it, and a request that the
    provider refused the current one."""

    def may_serve(self, model: str) -> bool:
        """
        Tell whether its owner's list and its deployments leave a model in.
        """
        listed = not self.allowed_models or model in self.allowed_models
        return listed and (self.deployed_models is None or model in self.deployed_models)

    def health_for(self, provider_model: str, *, now: float) -> HealthMark:
        """
        Give what stands in the way of a model on this key: the gravest mark that still holds.

        A NO_CREDIT mark whose time has come no longer holds: the next request is the probe.
        """
        marks = [
            mark
            for mark in self.health
            if mark.model in ("", provider_model) and (mark.state not in _TIMED or mark.until > now)
        ]
        return max(marks, key=lambda m: (_GRAVITY[m.state], m.until), default=_HEALTHY)

    @property
    def is_unopened(self) -> bool:
        """
        Tell whether keyvault cannot open its secret now.
        """
        return any(mark.state is HealthState.UNOPENED for mark in self.health)

    def is_on_probation(self, provider_model: str, *, now: float) -> bool:
        """
        Tell whether the time of a NO_CREDIT mark has come: one request finds out.
        """
        return any(
            mark.state is HealthState.NO_CREDIT
            and mark.model in ("", provider_model)
            and mark.until <= now
            for mark in self.health
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtKey:
    """
    A client-held key as a request brings it; keyvault alone reads what is in it.
    """

    key: str
    """`accounts/{account}/keys/{key}`."""
    sealed_key: bytes
    """Keyvault's message, encoded."""
    proof: bytes
    """Keyvault's message, encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResealedKey:
    """
    A client-held key that was sealed anew, for its browser.
    """

    key: str
    """`accounts/{account}/keys/{key}`."""
    sealed_key: bytes
    """Keyvault's message, encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKeys:
    """
    All keys of one account, in the account's order.
    """

    account: str
    """`accounts/{account}`."""
    active_provider: str = ""
    use_backups: bool = False
    keys: tuple[OwnKey, ...] = ()
    unavailable: bool = False
    """Whether keyvault could not be asked: which keys there are is not known."""


_HEALTHY = HealthMark(HealthState.ACTIVE)
_TIMED = frozenset({HealthState.COOLING, HealthState.NO_CREDIT})
_GRAVITY = {
    HealthState.ACTIVE: 0,
    HealthState.SUSPECT: 1,
    HealthState.COOLING: 2,
    HealthState.NO_CREDIT: 3,
    HealthState.REJECTED: 4,
    HealthState.NOT_BROUGHT: 5,
    HealthState.UNOPENED: 6,
}
