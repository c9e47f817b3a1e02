# SPDX-License-Identifier: Apache-2.0
"""What a request is refused with names the field at fault, and what would do."""

from __future__ import annotations

import pytest

from services.router import errors
from services.router.domain.keys import OwnKey
from services.router.domain.plan import Plan
from services.router.domain.request import Preferences, Source
from services.router.usecases.refusals import fault_of
from tests.support.routing import MODEL, PROVIDERS, account_keys, catalogue, own_key, planned
from tests.support.routing import request as request_of

RATES = {"amazon-bedrock": 3_000_000, "anthropic": 2_000_000, "google-vertex": 1_000_000}
CATALOGUE = catalogue(rates=RATES)


def fault(source: Source, preferences: Preferences, *keys: OwnKey) -> errors.NoCandidateError:
    """Give what a request is refused with."""
    request = request_of(source=source, preferences=preferences)
    found = fault_of(request, laid_out(source, preferences, *keys), CATALOGUE)
    assert isinstance(found, errors.NoCandidateError)
    return found


def laid_out(source: Source, preferences: Preferences, *keys: OwnKey) -> Plan:
    """Lay a request out."""
    request = request_of(source=source, preferences=preferences)
    return planned(request, keys=account_keys(*keys), catalogue=CATALOGUE)


@pytest.mark.requirement("R8", "R11")
@pytest.mark.parametrize(
    ("source", "held", "cheapest"),
    [
        (Source.OWN_KEY, ("anthropic", "amazon-bedrock"), "anthropic"),
        (Source.OWN_KEY, ("amazon-bedrock",), "amazon-bedrock"),
        (Source.AUTO, ("anthropic",), "google-vertex"),
        (Source.CREDITS, ("anthropic",), "google-vertex"),
    ],
)
def test_a_price_limit_that_excludes_all_names_the_cheapest_whoever_is_to_pay(
    source: Source, held: tuple[str, ...], cheapest: str
) -> None:
    """On the own key alone, the cheapest that one of the account's keys opens."""
    told = fault(source, Preferences(max_input_rate=999_999), *(own_key(name) for name in held))
    assert told.metadata["cheapest_provider"] == cheapest
    assert told.metadata["cheapest_model"] == MODEL
    assert "route.max_price" in told.metadata["field"].split(",")
    assert f"at {cheapest}, at {RATES[cheapest]} nano-USD" in told.message


@pytest.mark.requirement("R8", "R11")
def test_all_fields_that_leave_somebody_out_are_named() -> None:
    preferences = Preferences(ignore=frozenset({"anthropic"}), max_output_rate=1)
    told = fault(Source.AUTO, preferences)
    assert told.metadata["field"] == "route.ignore,route.max_price"
    assert "relax route.ignore, route.max_price" in told.message


@pytest.mark.requirement("R7", "R11")
@pytest.mark.parametrize("fields", [{"enabled": False}, {"allowed_models": frozenset({"a/b"})}])
def test_what_the_request_does_not_rule_out_is_the_ledger_s_to_refuse(
    fields: dict[str, object],
) -> None:
    """It knows the billing mode, so it says how to mend it."""
    plan = laid_out(Source.OWN_KEY, Preferences(), own_key("anthropic", **fields))
    request = request_of(source=Source.OWN_KEY)
    assert plan.own == ()
    assert fault_of(request, plan, CATALOGUE) is None


@pytest.mark.requirement("R7", "R11")
def test_a_source_that_the_account_may_not_use_names_its_field() -> None:
    refusal = errors.SourceNotAllowedError("not in this mode", metadata={"billing_mode": "CREDITS"})
    assert refusal.metadata == {"field": "source", "billing_mode": "CREDITS"}


@pytest.mark.requirement("R8")
def test_every_provider_of_the_catalogue_is_a_preference() -> None:
    """The negative space: what excludes nothing is no fault."""
    preferences = Preferences(order=PROVIDERS, only=frozenset(PROVIDERS), max_input_rate=10**9)
    plan = laid_out(Source.AUTO, preferences)
    assert fault_of(request_of(preferences=preferences), plan, CATALOGUE) is None
