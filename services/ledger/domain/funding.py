# SPDX-License-Identifier: Apache-2.0
"""
Who pays for one attempt: a pure decision, made anew by every authorization.

Rules, in order:
1. The billing mode CREDITS knows no own keys; asking for one is refused.
2. A request that asks for credits by name gets them in every mode, `always_use` or not.
3. Only an own key pays where the source or the mode says so.
4. Own key first: a key that serves pays. Where the account has none for this work, credits pay as
   for anyone. Every other state is a fallback: it needs the account's consent, and a matching
   `always_use` key forbids it.
5. Once an own key was tried in a run, no later attempt of that run is an ordinary credits one.
6. Not knowing is never read as "no own key".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from services.ledger.domain.modes import (
    BillingMode,
    FallbackConsent,
    Funding,
    OwnKeyState,
    Source,
)
from services.ledger.errors import (
    FallbackNotAllowedError,
    NoUsableOwnKeyError,
    OwnKeysUnknownError,
    SourceNotAllowedError,
)

CONSENT_NEEDED = {
    OwnKeyState.COOLING: FallbackConsent.RATE_LIMIT,
    OwnKeyState.REJECTED: FallbackConsent.KEY_FAILURE,
    OwnKeyState.NO_CREDIT: FallbackConsent.KEY_FAILURE,
    OwnKeyState.PROVIDER_FAILED: FallbackConsent.ANY,
    OwnKeyState.LIMIT_REACHED: FallbackConsent.ANY,
}
"""What falling back needs, by why the own key did not serve."""

REMEDIES = {
    OwnKeyState.NONE_STORED: "no key is stored: add one",
    OwnKeyState.NONE_FOR_MODEL: "no stored key serves this model: add one that does, or ask for "
    "another model",
    OwnKeyState.DISABLED: "every matching key is disabled: enable one",
    OwnKeyState.COOLING: "every matching key is rate-limited by its provider: wait, or raise its "
    "limits there",
    OwnKeyState.REJECTED: "every matching key is refused by its provider: replace it",
    OwnKeyState.NO_CREDIT: "every matching key is out of money at its provider: top it up there",
    OwnKeyState.PROVIDER_FAILED: "the key's provider is failing: try again later or another model",
    OwnKeyState.LIMIT_REACHED: "the key's monthly spending limit is reached: raise it",
}
"""What a person can do, by why the own key does not serve."""


class FundingRequest(NamedTuple):
    """
    What a decision depends on.

    Args:
        mode: The account's billing mode.
        consent: The account's consent to fall back.
        source: Who the caller wants to pay.
        own_key_state: Whether an own key serves this attempt.
        always_use: True if a matching own key forbids falling back.
        own_key_tried: True if an own key served an earlier attempt of this run.
    """

    mode: BillingMode
    consent: FallbackConsent
    source: Source
    own_key_state: OwnKeyState
    always_use: bool
    own_key_tried: bool


@dataclass(frozen=True, slots=True)
class FundingDecision:
    """
    Who pays.

    Args:
        funding: The side.
        fallback: True if credits stand in for an own key.
    """

    funding: Funding
    fallback: bool


ON_OWN_KEY = FundingDecision(Funding.OWN_KEY, fallback=False)
ON_CREDITS = FundingDecision(Funding.CREDITS, fallback=False)
ON_FALLBACK = FundingDecision(Funding.CREDITS, fallback=True)


def decide(request: FundingRequest) -> FundingDecision:
    """
    Decide who pays.

    Raises:
        SourceNotAllowedError: An own key was asked for in mode CREDITS.
        OwnKeysUnknownError: It depends on the own keys, which could not be asked about.
        NoUsableOwnKeyError: Only an own key may pay, and none serves.
        FallbackNotAllowedError: The account or an `always_use` key does not allow the fallback.
    """
    if request.source is Source.CREDITS:
        return ON_CREDITS
    if request.mode is BillingMode.CREDITS:
        if request.source is Source.OWN_KEY:
            raise _source_not_allowed(request)
        return ON_CREDITS
    if request.own_key_state is OwnKeyState.UNKNOWN:
        raise OwnKeysUnknownError
    if request.own_key_state is OwnKeyState.READY:
        return ON_OWN_KEY
    if request.source is Source.OWN_KEY or request.mode is BillingMode.OWN_KEY_ONLY:
        raise _no_usable_own_key(request)
    needed = CONSENT_NEEDED.get(request.own_key_state)
    if needed is None:
        if not request.own_key_tried:
            return ON_CREDITS
        # The key vanished between two attempts: why it failed is no longer known, so only the
        # widest consent covers it.
        needed = FallbackConsent.ANY
    if request.always_use or request.consent.breadth < needed.breadth:
        raise _fallback_not_allowed(request)
    return ON_FALLBACK


def _source_not_allowed(request: FundingRequest) -> SourceNotAllowedError:
    message = (
        "the account's billing mode is CREDITS, so own keys are not used; ask for AUTO or CREDITS, "
        "or change the mode with SetBillingMode"
    )
    return SourceNotAllowedError(
        message, metadata={"source": request.source.value, "billing_mode": request.mode.value}
    )


def _no_usable_own_key(request: FundingRequest) -> NoUsableOwnKeyError:
    why = (
        "credits are paused (billing mode OWN_KEY_ONLY)"
        if request.source is Source.AUTO
        else "the request asks for an own key"
    )
    message = (
        f"{why} and no own key serves it; {REMEDIES[request.own_key_state]}, or ask for CREDITS"
    )
    return NoUsableOwnKeyError(
        message,
        metadata={
            "own_key_state": request.own_key_state.value,
            "billing_mode": request.mode.value,
            "source": request.source.value,
        },
    )


def _fallback_not_allowed(request: FundingRequest) -> FallbackNotAllowedError:
    why = (
        "a matching key is marked always_use"
        if request.always_use
        else f"the account's consent to fall back is {request.consent}"
    )
    message = (
        f"no own key serves this request and it may not fall back to credits, because {why}; "
        f"{REMEDIES[request.own_key_state]}, or ask for CREDITS"
    )
    return FallbackNotAllowedError(
        message,
        metadata={
            "own_key_state": request.own_key_state.value,
            "fallback_consent": request.consent.value,
            "always_use": str(request.always_use).lower(),
        },
    )
