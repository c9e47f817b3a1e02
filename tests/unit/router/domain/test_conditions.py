# SPDX-License-Identifier: Apache-2.0
"""What breakers, speeds and trials make of a plan; tokens and averages by themselves."""

from __future__ import annotations

import dataclasses

import pytest

from services.router.domain.conditions import Gate
from services.router.domain.keys import HealthMark, HealthState
from services.router.domain.plan import ExclusionReason, Plan
from services.router.domain.request import Preferences, Sort
from services.router.domain.retry_tokens import TOKENS_MAX, RetryTokens
from services.router.domain.speed import Average, Speed
from tests.support.routing import PROVIDERS, Lately, account_keys, own_key, planned, request

CLOSED = Gate(closes=True, until=9.0)


def own(laid_out: Plan) -> list[str]:
    """Give the providers of own keys in order."""
    return [candidate.offer.provider for candidate in laid_out.own]


def shared(laid_out: Plan) -> list[str]:
    """Give the providers of shared keys in order."""
    return [candidate.offer.provider for candidate in laid_out.shared]


class TestBreakers:
    @pytest.mark.requirement("R8", "R13")
    def test_a_shared_key_behind_one_is_left_out_with_its_reason(self) -> None:
        laid_out = planned(conditions=Lately(gates={"anthropic": CLOSED}))
        assert shared(laid_out) == ["amazon-bedrock", "google-vertex"]
        reasons = [(e.provider, e.reason) for e in laid_out.exclusions]
        assert ("anthropic", ExclusionReason.BREAKER_OPEN) in reasons

    @pytest.mark.requirement("R8", "R9")
    def test_an_own_key_behind_one_comes_last_and_is_never_left_out(self) -> None:
        """Others' failures never make an account pay with credits."""
        keys = account_keys(own_key("anthropic"), own_key("google-vertex"))
        laid_out = planned(keys=keys, conditions=Lately(gates={"anthropic": CLOSED}))
        assert own(laid_out) == ["google-vertex", "anthropic"]
        assert any("anthropic" in note for note in laid_out.notes)
        alone = planned(
            keys=account_keys(own_key("anthropic")),
            conditions=Lately(gates={"anthropic": CLOSED}),
        )
        assert own(alone) == ["anthropic"]
        assert any("tried anyway" in note for note in alone.notes)

    @pytest.mark.requirement("R8", "R13")
    def test_where_all_are_open_the_least_bad_is_tried_and_said(self) -> None:
        gates = {name: Gate(closes=True, until=9.0) for name in PROVIDERS}
        gates["google-vertex"] = Gate(closes=True, until=3.0)
        laid_out = planned(conditions=Lately(gates=gates))
        assert shared(laid_out) == ["google-vertex"]
        assert any("google-vertex is tried" in note for note in laid_out.notes)

    @pytest.mark.requirement("R8")
    def test_without_fallbacks_it_opens_no_way_to_another_provider(self) -> None:
        text = request(preferences=Preferences(order=("anthropic",), allow_fallbacks=False))
        laid_out = planned(text, conditions=Lately(gates={"anthropic": CLOSED}))
        assert shared(laid_out) == ["anthropic"]


class TestTrials:
    @pytest.mark.requirement("K14")
    def test_a_key_on_probation_is_a_trial_unless_another_request_is(self) -> None:
        """A mark whose time has come no longer bars, but for all but one."""
        mark = HealthMark(HealthState.NO_CREDIT, "", 0.0)
        key = dataclasses.replace(own_key("anthropic"), health=(mark,))
        free = planned(keys=account_keys(key), now=1.0).own[0]
        assert free.trials == {key.name}
        assert free.health.state is HealthState.ACTIVE
        taken = planned(keys=account_keys(key), now=1.0, conditions=Lately(trials={key.name}))
        assert taken.own[0].health.state is HealthState.NO_CREDIT


class TestSort:
    @pytest.mark.requirement("R8")
    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            (Sort.LATENCY, ["google-vertex", "anthropic", "amazon-bedrock"]),
            (Sort.THROUGHPUT, ["anthropic", "google-vertex", "amazon-bedrock"]),
        ],
    )
    def test_measured_ones_come_first_the_fastest_at_the_head(
        self, sort: Sort, expected: list[str]
    ) -> None:
        speeds = {
            "anthropic": Speed(first_content_seconds=0.9, tokens_per_second=80.0),
            "google-vertex": Speed(first_content_seconds=0.3, tokens_per_second=40.0),
        }
        laid_out = planned(
            request(preferences=Preferences(sort=sort)), conditions=Lately(speeds=speeds)
        )
        assert shared(laid_out) == expected


class TestAverage:
    @pytest.mark.requirement("R8")
    def test_new_samples_outweigh_old_ones_and_all_fade(self) -> None:
        average = Average().observed(1.0, 0.0).observed(3.0, 0.0)
        assert average.known(0.0) == 2.0
        later = average.observed(10.0, 3000.0)
        assert later.known(3000.0) == pytest.approx(10.0, abs=0.1)
        assert average.known(3600.0) is None
        assert Average().known(0.0) is None


class TestRetryTokens:
    @pytest.mark.requirement("R10")
    def test_a_burst_empties_it_and_time_and_success_fill_it(self) -> None:
        tokens = RetryTokens()
        for _ in range(int(TOKENS_MAX)):
            assert tokens.may_retry(0.0)
            tokens = tokens.taken(0.0)
        assert not tokens.may_retry(0.0)
        assert tokens.may_retry(11.0)
        for _ in range(11):
            tokens = tokens.given(0.0)
        assert tokens.may_retry(0.0)
        assert tokens.left(10_000.0) == TOKENS_MAX
