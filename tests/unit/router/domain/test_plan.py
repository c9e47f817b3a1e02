# SPDX-License-Identifier: Apache-2.0
"""Who may serve a request, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.price_library import PriceLibrary
from services.router.domain.keys import AccountKeys, HealthMark, HealthState, OwnKey
from services.router.domain.plan import (
    ExclusionReason,
    Funding,
    OwnKeyState,
    Plan,
)
from services.router.domain.preferences import check_preferences
from services.router.domain.request import Preferences, Sort, Source
from services.router.domain.text import TextCall
from services.shared.errors import InvalidArgumentError
from tests.support.routing import (
    MODEL,
    PROVIDERS,
    account_keys,
    catalogue,
    own_key,
    planned,
    request,
)

BEDROCK_FIRST = ("amazon-bedrock", "google-vertex", "anthropic")


def names(laid_out: Plan) -> list[str]:
    """Give the candidates as `own anthropic`, `shared anthropic`, in order."""
    own = [f"own {candidate.offer.provider}" for candidate in laid_out.own]
    return own + [f"shared {candidate.offer.provider}" for candidate in laid_out.shared]


class TestTheCatalogueItself:
    @pytest.mark.requirement("R8", "R5")
    @pytest.mark.parametrize("model", ["claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-4-6"])
    def test_claude_is_served_by_all_three_own_keys_before_any_shared_one(self, model: str) -> None:
        """The worked examples, with the models, names and prices that are shipped."""
        name = f"anthropic/{model}"
        moment = datetime(2026, 11, 21, tzinfo=UTC)
        shipped = load_catalogue(Path("services/router/catalogue.yaml"), PriceLibrary(now=moment))
        asked = request(model=name, preferences=Preferences(order=BEDROCK_FIRST, only=PROVIDERS))
        shared = account_keys(
            *(own_key(item, account="platform") for item in PROVIDERS), account="platform"
        )
        for own, expected in (
            (BEDROCK_FIRST, [f"own {item}" for item in BEDROCK_FIRST]),
            (("google-vertex",), ["own google-vertex"]),
        ):
            keys = account_keys(*(own_key(item) for item in own))
            laid_out = planned(asked, keys=keys, shared=shared, catalogue=shipped)
            assert names(laid_out) == expected + [f"shared {item}" for item in BEDROCK_FIRST]


class TestDeployments:
    @pytest.mark.requirement("K11")
    @pytest.mark.parametrize(("deployed", "served"), [({MODEL}, True), ({"a/b"}, False)])
    def test_a_key_serves_what_it_has_deployments_of(
        self, deployed: set[str], *, served: bool
    ) -> None:
        keys = account_keys(own_key("anthropic", deployed_models=frozenset(deployed)))
        laid_out = planned(keys=keys)
        assert [c.offer.provider for c in laid_out.own] == (["anthropic"] if served else [])
        reasons = [item.reason for item in laid_out.exclusions if item.funding is Funding.OWN_KEY]
        assert (ExclusionReason.MODEL_NOT_SERVED in reasons) is not served


class TestOrder:
    @pytest.mark.requirement("R8")
    def test_with_own_keys_everywhere_all_own_keys_come_first(self) -> None:
        """The first worked example: own in the order, then shared in the order."""
        keys = account_keys(*(own_key(name) for name in PROVIDERS))
        laid_out = planned(request(preferences=Preferences(order=BEDROCK_FIRST)), keys=keys)
        assert names(laid_out) == [
            "own amazon-bedrock",
            "own google-vertex",
            "own anthropic",
            "shared amazon-bedrock",
            "shared google-vertex",
            "shared anthropic",
        ]

    @pytest.mark.requirement("R8")
    def test_with_one_own_key_it_comes_before_every_shared_one(self) -> None:
        """The second worked example: own Vertex, shared Bedrock, shared Vertex, and so on."""
        keys = account_keys(own_key("google-vertex"))
        laid_out = planned(request(preferences=Preferences(order=BEDROCK_FIRST)), keys=keys)
        assert names(laid_out) == [
            "own google-vertex",
            "shared amazon-bedrock",
            "shared google-vertex",
            "shared anthropic",
        ]

    @pytest.mark.requirement("K5")
    def test_the_active_provider_then_active_keys_then_backups_in_order(self) -> None:
        keys = account_keys(
            own_key("anthropic", "b2", active=False, order=2),
            own_key("anthropic", "b1", active=False, order=1),
            own_key("anthropic", "a"),
            own_key("google-vertex", "v"),
            active_provider="google-vertex",
            use_backups=True,
        )
        ids = [c.key.name.rpartition("/")[2] for c in planned(keys=keys).own]
        assert ids == ["v", "a", "b1", "b2"]

    @pytest.mark.requirement("R8")
    def test_sorted_by_price_the_cheapest_comes_first(self) -> None:
        rates = {"amazon-bedrock": 3_000_000, "anthropic": 2_000_000, "google-vertex": 1_000_000}
        laid_out = planned(
            request(preferences=Preferences(sort=Sort.PRICE)), catalogue=catalogue(rates=rates)
        )
        assert names(laid_out) == [
            "shared google-vertex",
            "shared anthropic",
            "shared amazon-bedrock",
        ]

    @pytest.mark.requirement("R8")
    def test_without_fallbacks_only_the_order_or_the_first_is_used(self) -> None:
        """It says which providers, nothing about who pays."""
        keys = account_keys(own_key("google-vertex"))
        first = Preferences(allow_fallbacks=False)
        assert names(planned(request(preferences=first), keys=keys)) == [
            "own google-vertex",
            "shared amazon-bedrock",
        ]
        ordered = Preferences(allow_fallbacks=False, order=("anthropic",))
        assert names(planned(request(preferences=ordered))) == ["shared anthropic"]

    @pytest.mark.requirement("R10", "K16")
    def test_shared_keys_of_a_provider_are_spread(self) -> None:
        shared = account_keys(
            *(own_key("anthropic", name, account="platform") for name in "abc"),
            account="platform",
        )
        first = [planned(shared=shared, spread=n).shared[0].key.name[-1] for n in range(3)]
        assert first == ["a", "b", "c"]


class TestExclusions:
    @pytest.mark.requirement("R13", "K1", "K6")
    @pytest.mark.parametrize(
        ("key", "reason", "state"),
        [
            (own_key("anthropic", enabled=False), "disabled", OwnKeyState.DISABLED),
            (
                own_key("anthropic", allowed_models=frozenset({"other/model"})),
                "model_not_allowed",
                OwnKeyState.NONE_FOR_MODEL,
            ),
            (
                own_key("anthropic", active=False),
                "backup_not_used",
                OwnKeyState.NONE_FOR_MODEL,
            ),
        ],
    )
    def test_a_key_left_out_is_named_with_its_reason(
        self, key: OwnKey, reason: str, state: OwnKeyState
    ) -> None:
        laid_out = planned(keys=account_keys(key))
        assert laid_out.own == ()
        assert laid_out.without_own_key is state
        assert (laid_out.exclusions[0].key, laid_out.exclusions[0].reason) == (key.name, reason)

    @pytest.mark.requirement("R9")
    def test_an_unhealthy_key_stays_a_match_so_that_consent_is_asked(self) -> None:
        mark = HealthMark(HealthState.REJECTED)
        key = own_key("anthropic", health=(mark,), always_use=True)
        laid_out = planned(keys=account_keys(key))
        assert laid_out.own[0].health.state is HealthState.REJECTED
        assert laid_out.always_use

    @pytest.mark.requirement("R9")
    def test_a_disabled_always_use_key_forbids_nothing(self) -> None:
        key = own_key("anthropic", enabled=False, always_use=True)
        assert not planned(keys=account_keys(key)).always_use

    @pytest.mark.requirement("R1", "R8")
    def test_what_tunes_is_dropped_and_what_matters_excludes(self) -> None:
        """A provider without seeds still serves; with `require_parameters` it does not."""

        def no_seed(provider: str, call: TextCall) -> list[str]:
            lacks = provider == "anthropic" and call.seed is not None
            return ["seed"] if lacks else []

        def ask(**fields: bool) -> Plan:
            base = request()
            seeded = type(base.input)(messages=base.input.messages, seed=7)
            text_request = request(input=seeded, preferences=Preferences(**fields))  # type: ignore[arg-type]
            return planned(text_request, unsupported=no_seed)

        dropped = {c.offer.provider: c.dropped for c in ask().shared}
        assert dropped["anthropic"] == ("seed",)
        assert dropped["google-vertex"] == ()
        assert "shared anthropic" not in names(ask(require_parameters=True))

    @pytest.mark.requirement("R8")
    def test_unknown_and_contradictory_preferences_are_refused(self) -> None:
        for preferences, field in (
            (Preferences(order=("nobody",)), "route.order"),
            (
                Preferences(only=frozenset({"anthropic"}), ignore=frozenset({"anthropic"})),
                "route.ignore",
            ),
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                check_preferences(preferences, catalogue())
            assert caught.value.metadata["field"] == field


class TestHealthMarks:
    @pytest.mark.requirement("K14")
    def test_a_cooldown_over_and_a_probe_due_no_longer_stand_in_the_way(self) -> None:
        key = own_key(
            "anthropic",
            health=(
                HealthMark(HealthState.COOLING, "m", until=5.0),
                HealthMark(HealthState.NO_CREDIT, "", until=10.0),
            ),
        )
        assert key.health_for("m", now=1.0).state is HealthState.NO_CREDIT
        assert key.health_for("other", now=11.0).state is HealthState.ACTIVE
        assert key.health_for("m", now=11.0).state is HealthState.ACTIVE


providers = st.sampled_from(PROVIDERS)
marks = st.builds(HealthMark, st.sampled_from(list(HealthState)), st.just(""), st.floats(0, 100))
keys_strategy = st.lists(
    st.builds(
        own_key,
        providers,
        st.integers(0, 99).map(lambda n: f"k{n}"),
        enabled=st.booleans(),
        active=st.booleans(),
        always_use=st.booleans(),
        order=st.integers(0, 5),
        allowed_models=st.sampled_from(
            [frozenset(), frozenset({MODEL}), frozenset({"other/model"})]
        ),
        health=st.lists(marks, max_size=2).map(tuple),
    ),
    max_size=6,
    unique_by=lambda key: key.name,
)
preferences_strategy = st.builds(
    Preferences,
    order=st.lists(providers, unique=True).map(tuple),
    only=st.frozensets(providers),
    ignore=st.frozensets(providers),
    allow_fallbacks=st.booleans(),
    max_output_rate=st.none() | st.integers(0, 2_000_000),
    sort=st.sampled_from(list(Sort)),
)


@pytest.mark.requirement("R8", "R16", "K6", "K16")
@given(
    keys=keys_strategy,
    shared=keys_strategy,
    preferences=preferences_strategy,
    source=st.sampled_from(list(Source)),
    use_backups=st.booleans(),
    spread=st.integers(0, 1000),
)
def test_a_plan_never_holds_what_the_inputs_do_not_allow(
    keys: list[OwnKey],
    shared: list[OwnKey],
    preferences: Preferences,
    source: Source,
    *,
    use_backups: bool,
    spread: int,
) -> None:
    """Key, provider, account and payer of every candidate follow from the inputs."""
    own = account_keys(*keys, use_backups=use_backups)
    platform = AccountKeys(
        account="accounts/platform",
        keys=tuple(own_key(k.provider, k.name[-2:], account="platform") for k in shared),
    )
    laid_out = planned(
        request(source=source, preferences=preferences),
        keys=own,
        shared=platform,
        spread=spread,
    )
    for candidate in (*laid_out.own, *laid_out.shared):
        provider = candidate.offer.provider
        assert candidate.key.provider == provider
        assert candidate.key.enabled
        assert provider not in preferences.ignore
        assert not preferences.only or provider in preferences.only
        limit = preferences.max_output_rate
        assert candidate.offer.price is not None
        assert limit is None or candidate.offer.price.base.output <= limit
        assert candidate.call.max_output_tokens == 100
    for candidate in laid_out.own:
        assert candidate.funding is Funding.OWN_KEY
        assert source is not Source.CREDITS
        assert candidate.key in own.keys
        assert candidate.key.active or use_backups
        assert not candidate.key.allowed_models or MODEL in candidate.key.allowed_models
    for candidate in laid_out.shared:
        assert candidate.funding is Funding.CREDITS
        assert source is not Source.OWN_KEY
        assert candidate.key in platform.keys
    if keys and not laid_out.own:
        assert laid_out.without_own_key is not OwnKeyState.NONE_STORED
    named = {e.key for e in laid_out.exclusions if e.reason is not ExclusionReason.SOURCE}
    served = {c.key.name for c in laid_out.own}
    if source is not Source.CREDITS:
        assert {key.name for key in keys} <= named | served
