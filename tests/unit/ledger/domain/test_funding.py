# SPDX-License-Identifier: Apache-2.0
"""Who pays: the whole table of mode, source, own-key state, consent and always_use."""

from __future__ import annotations

import itertools

import pytest

from services.ledger.domain.funding import FundingRequest, decide
from services.ledger.domain.modes import (
    BillingMode,
    FallbackConsent,
    OwnKeyState,
    Source,
)
from services.ledger.errors import (
    FallbackNotAllowedError,
    NoUsableOwnKeyError,
    OwnKeysUnknownError,
    SourceNotAllowedError,
)
from services.shared.errors import ServiceError

PLAIN = {OwnKeyState.NONE_STORED, OwnKeyState.NONE_FOR_MODEL, OwnKeyState.DISABLED}

# The consents that cover each failure, as the product states them.
COVERED_BY = {
    OwnKeyState.COOLING: {"RATE_LIMIT", "KEY_FAILURE", "ANY"},
    OwnKeyState.REJECTED: {"KEY_FAILURE", "ANY"},
    OwnKeyState.NO_CREDIT: {"KEY_FAILURE", "ANY"},
    OwnKeyState.PROVIDER_FAILED: {"ANY"},
    OwnKeyState.LIMIT_REACHED: {"ANY"},
}


def outcome(
    mode: str,
    source: str,
    state: str,
    *,
    consent: str = "ANY",
    always_use: bool = False,
    own_key_tried: bool = False,
) -> str:
    """Return who pays, or the class of the refusal."""
    request = FundingRequest(
        mode=BillingMode(mode),
        consent=FallbackConsent(consent),
        source=Source(source),
        own_key_state=OwnKeyState(state),
        always_use=always_use,
        own_key_tried=own_key_tried,
    )
    try:
        decision = decide(request)
    except ServiceError as refusal:
        return type(refusal).__name__
    return "FALLBACK" if decision.fallback else decision.funding.value


SOURCE_NOT_ALLOWED = SourceNotAllowedError.__name__
NO_USABLE = NoUsableOwnKeyError.__name__
UNKNOWN = OwnKeysUnknownError.__name__
NOT_ALLOWED = FallbackNotAllowedError.__name__


@pytest.mark.requirement("L5", "R7")
class TestModeAndSource:
    @pytest.mark.parametrize("state", list(OwnKeyState))
    def test_mode_credits_never_looks_at_own_keys(self, state: OwnKeyState) -> None:
        assert outcome("CREDITS", "AUTO", state) == "CREDITS"
        assert outcome("CREDITS", "CREDITS", state) == "CREDITS"
        assert outcome("CREDITS", "OWN_KEY", state) == SOURCE_NOT_ALLOWED

    @pytest.mark.parametrize(
        ("mode", "state", "always_use"),
        list(itertools.product(BillingMode, OwnKeyState, [False, True])),
    )
    def test_credits_asked_for_by_name_pay_in_every_mode(
        self, mode: BillingMode, state: OwnKeyState, always_use: bool
    ) -> None:
        assert outcome(mode, "CREDITS", state, always_use=always_use) == "CREDITS"

    @pytest.mark.parametrize(
        ("mode", "source"),
        [("OWN_KEY_ONLY", "AUTO"), ("OWN_KEY_ONLY", "OWN_KEY"), ("OWN_KEY_FIRST", "OWN_KEY")],
    )
    @pytest.mark.parametrize("state", list(OwnKeyState))
    def test_only_an_own_key_pays_where_mode_or_source_say_so(
        self, mode: str, source: str, state: OwnKeyState
    ) -> None:
        expected = {OwnKeyState.READY: "OWN_KEY", OwnKeyState.UNKNOWN: UNKNOWN}
        assert outcome(mode, source, state) == expected.get(state, NO_USABLE)


@pytest.mark.requirement("R9", "L5")
class TestFallback:
    @pytest.mark.parametrize(
        ("state", "consent", "always_use"),
        list(itertools.product(OwnKeyState, FallbackConsent, [False, True])),
    )
    def test_every_consent_against_every_state(
        self, state: OwnKeyState, consent: FallbackConsent, always_use: bool
    ) -> None:
        if state is OwnKeyState.READY:
            expected = "OWN_KEY"
        elif state is OwnKeyState.UNKNOWN:
            expected = UNKNOWN
        elif state in PLAIN:
            expected = "CREDITS"
        elif always_use or consent.value not in COVERED_BY[state]:
            expected = NOT_ALLOWED
        else:
            expected = "FALLBACK"
        found = outcome("OWN_KEY_FIRST", "AUTO", state, consent=consent, always_use=always_use)
        assert found == expected

    @pytest.mark.parametrize("state", sorted(PLAIN))
    def test_once_an_own_key_was_tried_no_attempt_is_plain(self, state: OwnKeyState) -> None:
        tried = {"own_key_tried": True}
        assert outcome("OWN_KEY_FIRST", "AUTO", state, **tried) == "FALLBACK"
        narrow = outcome("OWN_KEY_FIRST", "AUTO", state, consent="KEY_FAILURE", **tried)
        assert narrow == NOT_ALLOWED
        assert outcome("OWN_KEY_FIRST", "AUTO", state, always_use=True, **tried) == NOT_ALLOWED

    def test_a_refusal_says_what_to_do_and_names_its_parts(self) -> None:
        request = FundingRequest(
            mode=BillingMode.OWN_KEY_FIRST,
            consent=FallbackConsent.RATE_LIMIT,
            source=Source.AUTO,
            own_key_state=OwnKeyState.REJECTED,
            always_use=False,
            own_key_tried=True,
        )
        with pytest.raises(FallbackNotAllowedError, match="replace it") as caught:
            decide(request)
        assert caught.value.metadata == {
            "own_key_state": "REJECTED",
            "fallback_consent": "RATE_LIMIT",
            "always_use": "false",
        }
