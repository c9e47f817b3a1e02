# SPDX-License-Identifier: Apache-2.0
"""A plan never holds a candidate whose key, host, account or payer the inputs do not allow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.price_library import PriceLibrary
from services.router.domain.conditions import Gate
from services.router.domain.keys import BroughtKey, HealthMark, HealthState, OwnKey
from services.router.domain.plan import Candidate, ExclusionReason, Funding, OwnKeyState, Plan
from services.router.domain.request import Preferences, Request, Sort, Source, TextInput
from services.router.domain.text import Message, Role, TextCall, TextPart
from services.router.providers.base import APIKeyCredential
from services.router.providers.registry import DIALECTS
from services.shared.secret import Secret
from tests.support.routing import (
    MODEL,
    PROVIDERS,
    Lately,
    account_keys,
    catalogue,
    own_key,
    planned,
    request,
)

NOW = 50.0
OTHER = "other/model"
SEEDED = TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),), seed=7)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """
    All that a plan is made of.
    """

    keys: tuple[OwnKey, ...]
    shared: tuple[OwnKey, ...]
    brought: frozenset[str]
    preferences: Preferences
    source: Source
    use_backups: bool
    rates: dict[str, int]
    seedless: frozenset[str]
    """Providers that take no seed."""
    closed: frozenset[str]
    """Providers behind an open breaker."""
    spread: int

    def request(self) -> Request:
        """Give the request, which has a seed."""
        return request(
            source=self.source,
            preferences=self.preferences,
            input=SEEDED,
            brought=tuple(
                BroughtKey(key=f"accounts/demo/keys/{name}", sealed_key=b"s", proof=b"p")
                for name in sorted(self.brought)
            ),
        )

    def unsupported(self, provider: str, call: TextCall) -> list[str]:
        """Name what a provider does not take."""
        return ["seed"] if provider in self.seedless and call.seed is not None else []

    def plan(self) -> Plan:
        """Lay it out."""
        return planned(
            self.request(),
            keys=account_keys(*self.keys, use_backups=self.use_backups),
            shared=account_keys(*self.shared, account="platform"),
            catalogue=catalogue(rates=self.rates),
            unsupported=self.unsupported,
            conditions=Lately(gates={name: Gate(closes=True) for name in self.closed}),
            now=NOW,
            spread=self.spread,
        )


providers = st.sampled_from(PROVIDERS)
models = st.sampled_from([frozenset(), frozenset({MODEL}), frozenset({OTHER})])
marks = st.builds(HealthMark, st.sampled_from(list(HealthState)), st.just(""), st.floats(0, 100))


def keys_of(account: str) -> st.SearchStrategy[tuple[OwnKey, ...]]:
    """Give up to six keys of an account."""
    key = st.builds(
        own_key,
        providers,
        st.sampled_from("abcdefgh"),
        account=st.just(account),
        enabled=st.booleans(),
        active=st.booleans(),
        always_use=st.booleans(),
        order=st.integers(0, 5),
        allowed_models=models,
        deployed_models=st.none() | models,
        client_held=st.booleans() if account == "demo" else st.just(value=False),
        health=st.lists(marks, max_size=2).map(tuple),
    )
    return st.lists(key, max_size=6, unique_by=lambda k: k.name).map(tuple)


inputs = st.builds(
    Inputs,
    keys=keys_of("demo"),
    shared=keys_of("platform"),
    brought=st.frozensets(st.sampled_from("abcdefgh"), max_size=4),
    preferences=st.builds(
        Preferences,
        order=st.lists(providers, unique=True).map(tuple),
        only=st.frozensets(providers),
        ignore=st.frozensets(providers),
        allow_fallbacks=st.booleans(),
        max_input_rate=st.none() | st.integers(0, 2_000_000),
        max_output_rate=st.none() | st.integers(0, 2_000_000),
        require_parameters=st.booleans(),
        sort=st.sampled_from(list(Sort)),
    ),
    source=st.sampled_from(list(Source)),
    use_backups=st.booleans(),
    rates=st.fixed_dictionaries({name: st.integers(0, 2_000_000) for name in PROVIDERS}),
    seedless=st.frozensets(providers),
    closed=st.frozensets(providers),
    spread=st.integers(0, 1000),
)


@pytest.mark.requirement("R8", "R9", "R16", "K6", "K10", "K11", "K16")
@given(given_=inputs)
def test_a_plan_never_holds_what_the_inputs_do_not_allow(given_: Inputs) -> None:
    """Key, provider, account, payer, price and parameters follow from the inputs; rule by rule."""
    laid_out = given_.plan()
    for candidate in (*laid_out.own, *laid_out.shared):
        check_both(given_, candidate)
    for candidate in laid_out.own:
        check_own(given_, candidate)
    for candidate in laid_out.shared:
        key = candidate.key
        assert candidate.funding is Funding.CREDITS
        assert given_.source is not Source.OWN_KEY
        assert key in given_.shared
        assert not key.is_unopened
    named = {e.key for e in laid_out.exclusions if e.reason is not ExclusionReason.SOURCE}
    served = {c.key.name for c in laid_out.own}
    if given_.source is not Source.CREDITS:
        assert {key.name for key in given_.keys} <= named | served
    if given_.keys and not laid_out.own:
        assert laid_out.without_own_key is not OwnKeyState.NONE_STORED
    # Own keys are never left out for a breaker: what others met must not make credits pay.
    assert not any(
        e.reason is ExclusionReason.BREAKER_OPEN and e.funding is Funding.OWN_KEY
        for e in laid_out.exclusions
    )
    assert laid_out.always_use is any(c.key.always_use for c in laid_out.own)


def check_both(given_: Inputs, candidate: Candidate) -> None:
    """What holds whoever pays."""
    provider, preferences = candidate.offer.provider, given_.preferences
    assert candidate.key.provider == provider
    assert candidate.call.model == f"{provider}-claude"
    assert candidate.key.enabled
    assert candidate.key.may_serve(MODEL)
    assert provider not in preferences.ignore
    assert not preferences.only or provider in preferences.only
    if preferences.order and not preferences.allow_fallbacks:
        assert provider in preferences.order
    assert candidate.offer.price is not None
    rate = given_.rates[provider]
    assert preferences.max_input_rate is None or rate <= preferences.max_input_rate
    assert preferences.max_output_rate is None or rate <= preferences.max_output_rate
    lacks = provider in given_.seedless
    assert candidate.dropped == (("seed",) if lacks else ())
    assert candidate.call.seed == (None if lacks else 7)
    assert not (lacks and preferences.require_parameters)
    # The output limit is always sent: the hold rests on it.
    assert candidate.call.max_output_tokens == 100


def check_own(given_: Inputs, candidate: Candidate) -> None:
    """What holds where the customer's own key pays."""
    key = candidate.key
    assert candidate.funding is Funding.OWN_KEY
    assert given_.source is not Source.CREDITS
    assert key in given_.keys
    assert key.active or given_.use_backups
    if key.client_held and key.name.rpartition("/")[2] not in given_.brought:
        assert candidate.health.state is HealthState.NOT_BROUGHT


HOSTS = {
    "anthropic": "api.anthropic.com",
    "deepseek": "api.deepseek.com",
    "gemini": "generativelanguage.googleapis.com",
    "openai": "api.openai.com",
    "openrouter": "openrouter.ai",
}
"""Providers of text whose host is not part of the key."""
SERVED = (
    "anthropic/claude-haiku-4-5",
    "deepseek/deepseek-v4-flash",
    "google/gemini-2.5-flash",
    "openai/gpt-4o-mini",
    "openai/a-model-of-tomorrow",
)
SHIPPED = load_catalogue(
    Path("services/router/catalogue.yaml"),
    PriceLibrary(),
    now=datetime(2026, 11, 21, tzinfo=UTC),
)


@pytest.mark.requirement("R16", "R8")
@settings(max_examples=40)
@given(
    own=st.lists(st.sampled_from(sorted(HOSTS)), unique=True),
    shared=st.lists(st.sampled_from(sorted(HOSTS)), unique=True),
    model=st.sampled_from(SERVED),
)
def test_a_key_goes_to_the_host_of_its_own_provider_and_to_no_other(
    own: list[str], shared: list[str], model: str
) -> None:
    """As it is shipped: catalogue, dialects, addresses; for each candidate of each plan."""
    laid_out = planned(
        request(model=model),
        keys=account_keys(*(own_key(name) for name in own)),
        shared=account_keys(
            *(own_key(name, account="platform") for name in shared), account="platform"
        ),
        catalogue=SHIPPED,
        unsupported=lambda provider, call: DIALECTS[provider].unsupported(call),
    )
    for candidate in (*laid_out.own, *laid_out.shared):
        dialect = DIALECTS[candidate.offer.provider]
        assert isinstance(candidate.call, TextCall)
        built = dialect.build_request(
            candidate.call,
            APIKeyCredential(Secret(candidate.key.name)),
            base_url=dialect.default_base_url,
        )
        address = urlsplit(built.url)
        assert (address.scheme, address.hostname) == ("https", HOSTS[candidate.key.provider])
        owner = "accounts/demo/" if candidate.funding is Funding.OWN_KEY else "accounts/platform/"
        assert candidate.key.name.startswith(owner)
