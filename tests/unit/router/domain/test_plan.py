# SPDX-License-Identifier: Apache-2.0
"""Who may serve a request, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.price_library import PriceLibrary
from services.router.domain.keys import HealthMark, HealthState, OwnKey
from services.router.domain.plan import (
    ExclusionReason,
    Funding,
    OwnKeyState,
    Plan,
)
from services.router.domain.preferences import check_preferences
from services.router.domain.request import Preferences, Sort
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
        shipped = load_catalogue(Path("services/router/catalogue.yaml"), PriceLibrary(), now=moment)
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
            (Preferences(order=("anthropic",), ignore=frozenset({"anthropic"})), "route.order"),
            (
                Preferences(order=("anthropic",), only=frozenset({"google-vertex"})),
                "route.order",
            ),
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                check_preferences(preferences, catalogue())
            assert caught.value.metadata["field"] == field
            [violation] = caught.value.fields
            assert violation.field == field

    @pytest.mark.requirement("R8", "R11")
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("antropic", "did you mean 'anthropic'? "),
            ("Google-Vertex", "'google-vertex'"),
            ("x", ""),
        ],
    )
    def test_an_unknown_provider_is_told_the_nearest_and_all_that_are_known(
        self, written: str, meant: str
    ) -> None:
        with pytest.raises(InvalidArgumentError) as caught:
            check_preferences(Preferences(only=frozenset({written})), catalogue())
        assert meant in caught.value.message
        assert ("did you mean" in caught.value.message) is bool(meant)
        assert ", ".join(PROVIDERS) in caught.value.message

    @pytest.mark.requirement("R8")
    def test_empty_preferences_ask_for_nothing(self) -> None:
        check_preferences(Preferences(), catalogue())

    @pytest.mark.requirement("R8", "R13")
    @pytest.mark.parametrize(
        ("preferences", "field"),
        [
            (Preferences(only=frozenset({"anthropic"})), "route.only"),
            (Preferences(ignore=frozenset({"google-vertex"})), "route.ignore"),
            (Preferences(max_input_rate=1), "route.max_price"),
            (Preferences(max_output_rate=1), "route.max_price"),
            (
                Preferences(allow_fallbacks=False, order=("anthropic",)),
                "route.allow_fallbacks",
            ),
            (Preferences(require_parameters=True), "route.require_parameters"),
        ],
    )
    def test_what_is_left_out_names_the_field_that_does_so(
        self, preferences: Preferences, field: str
    ) -> None:
        def no_seed(provider: str, call: TextCall) -> list[str]:
            return ["seed"] if call.seed is not None and provider == "google-vertex" else []

        asked = request(preferences=preferences)
        seeded = type(asked.input)(messages=asked.input.messages, seed=7)  # type: ignore[union-attr]
        laid_out = planned(
            request(preferences=preferences, input=seeded),
            keys=account_keys(own_key("google-vertex")),
            unsupported=no_seed,
        )
        left_out = [e for e in laid_out.exclusions if e.provider == "google-vertex"]
        assert {e.field for e in left_out} == {field}
        assert {e.funding for e in left_out} == set(Funding)


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
