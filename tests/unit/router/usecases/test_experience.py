# SPDX-License-Identifier: Apache-2.0
"""What one process learns from its calls."""

from __future__ import annotations

import dataclasses

import pytest

from services.router.domain.breaker import Phase
from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Candidate
from services.router.usecases.experience import Experience, Timing
from tests.support.routing import account_keys, own_key, planned

SHARED = planned().shared[0]
OWN = planned(keys=account_keys(own_key("anthropic"))).own[0]
GATE = (SHARED.key, SHARED.offer)


def failure(outcome: Outcome) -> Failure:
    """Give a failure."""
    return Failure(outcome=outcome, billed=Billed.REFUSED, message="")


def fail(
    experience: Experience,
    outcome: Outcome = Outcome.SERVER_ERROR,
    *,
    candidate: Candidate = SHARED,
    seconds: float = 1.0,
    times: int = 5,
) -> None:
    """Let calls fail at time zero."""
    for _ in range(times):
        experience.failed("accounts/demo", candidate, failure(outcome), seconds=seconds, now=0.0)


@pytest.mark.requirement("R11")
@pytest.mark.parametrize(
    ("outcome", "seconds", "closes"),
    [
        (Outcome.SERVER_ERROR, 1.0, True),
        (Outcome.OVERLOADED, 1.0, True),
        (Outcome.NETWORK, 1.0, True),
        (Outcome.TIMEOUT, 60.0, True),
        (Outcome.TIMEOUT, 1.0, False),
        (Outcome.RATE_LIMITED, 1.0, False),
        (Outcome.INVALID_KEY, 1.0, False),
        (Outcome.INVALID_REQUEST, 1.0, False),
    ],
)
def test_only_outages_count_against_a_provider(
    outcome: Outcome, seconds: float, closes: bool
) -> None:
    """Not a caller in haste, not what is the key's or the request's own fault."""
    experience = Experience(lambda _: "host")
    fail(experience, outcome, seconds=seconds)
    assert experience.at(1.0, chance=0.5).gate(*GATE).closes is closes


@pytest.mark.requirement("R11", "R16")
def test_a_key_with_a_host_of_its_own_has_its_own_breaker() -> None:
    experience = Experience(lambda _: "")
    fail(experience)
    assert experience.at(1.0, chance=0.5).gate(*GATE).closes
    assert not experience.at(1.0, chance=0.5).gate(OWN.key, SHARED.offer).closes


@pytest.mark.requirement("R11")
def test_each_model_at_a_provider_has_a_breaker_of_its_own() -> None:
    """One model's outage says nothing about the next, nor one provider's about another."""
    experience = Experience(lambda _: "host")
    fail(experience)
    view = experience.at(1.0, chance=0.5)
    other = dataclasses.replace(SHARED.offer, model="anthropic/other")
    elsewhere = dataclasses.replace(SHARED.offer, provider="google-vertex")
    assert view.gate(*GATE).closes
    assert not view.gate(SHARED.key, other).closes
    assert not view.gate(SHARED.key, elsewhere).closes


@pytest.mark.requirement("R11")
def test_one_account_cannot_open_it_for_the_others() -> None:
    experience = Experience(lambda _: "host")
    fail(experience, candidate=OWN, times=50)
    assert not experience.at(1.0, chance=0.5).gate(OWN.key, OWN.offer).closes


@pytest.mark.requirement("R11")
def test_half_open_it_lets_one_trial_pass_then_a_share() -> None:
    experience = Experience(lambda _: "host")
    fail(experience)
    gate = experience.at(6.0, chance=0.5).gate(*GATE)
    assert not gate.closes
    assert gate.trial
    holder = object()
    experience.claim([gate.trial], holder)
    assert experience.at(6.0, chance=0.5).gate(*GATE).closes
    experience.release(holder)
    experience.served("accounts/demo", SHARED, Timing(seconds=1.0), 6.0)
    assert experience.at(7.0, chance=0.5).gate(*GATE).closes
    assert not experience.at(7.0, chance=0.05).gate(*GATE).closes
    assert not experience.at(40.0, chance=0.99).gate(*GATE).closes


@pytest.mark.requirement("R8")
def test_speed_is_measured_by_provider_and_model() -> None:
    """A short answer says nothing about throughput, a whole one nothing about its first content."""
    experience = Experience(lambda _: "host")
    whole = Timing(seconds=2.0, output_tokens=4)
    streamed = Timing(seconds=2.0, first_content_seconds=0.25, output_tokens=100)
    experience.served("accounts/demo", SHARED, whole, 0.0)
    assert experience.speed(SHARED.offer, 0.0).tokens_per_second is None
    experience.served("accounts/demo", SHARED, streamed, 0.0)
    speed = experience.speed(SHARED.offer, 0.0)
    assert speed.tokens_per_second == 50.0
    assert speed.first_content_seconds == 0.25


class TestReplicas:
    """Breakers are shared: times as durations, each replica on its own clock."""

    NAME = ("anthropic", "host", "anthropic/claude")

    def _closes(self, experience: Experience, now: float) -> bool:
        candidate = next(c for c in planned().shared if c.offer.provider == "anthropic")
        return experience.at(now, chance=0.5).gate(candidate.key, candidate.offer).closes

    @pytest.mark.requirement("R10", "R11")
    def test_an_outage_is_given_once_to_be_told(self) -> None:
        experience = Experience(lambda _: "host")
        fail(experience)
        [outage] = experience.outages_found(10)
        assert outage.until > 0
        assert experience.outages_found(10) == []
        experience.outages_untold([outage])
        assert experience.outages_found(10) == [outage]

    @pytest.mark.requirement("R10", "R11")
    def test_what_another_found_closes_the_way_here_until_its_time(self) -> None:
        experience = Experience(lambda _: "host")
        experience.outage_told(self.NAME, 10.0, 0.0)
        assert self._closes(experience, 9.0)
        assert not self._closes(experience, 11.0)
        assert experience.outages_found(10) == []

    @pytest.mark.requirement("R10", "R11")
    def test_the_same_outage_told_again_does_not_close_what_a_trial_opened(self) -> None:
        """Told every two seconds, a little later each time by the way it took."""
        experience = Experience(lambda _: "host")
        experience.outage_told(self.NAME, 10.0, 0.0)
        candidate = next(c for c in planned().shared if c.offer.provider == "anthropic")
        experience.served("accounts/demo", candidate, Timing(seconds=1.0), 10.5)
        experience.outage_told(self.NAME, 10.9, 10.6)
        assert not experience.at(45.0, chance=0.9).gate(candidate.key, candidate.offer).closes
        assert experience.at(10.7, chance=0.05).gate(candidate.key, candidate.offer).closes is False

    @pytest.mark.requirement("R10", "R11")
    def test_without_breakers_nothing_told_closes_anything(self) -> None:
        experience = Experience(lambda _: "host", failures_to_open=0)
        experience.outage_told(self.NAME, 10.0, 0.0)
        assert not self._closes(experience, 1.0)


@pytest.mark.requirement("R11", "O6")
def test_a_turn_is_told_once_with_its_provider_and_phase() -> None:
    turns: list[tuple[str, Phase]] = []
    experience = Experience(
        lambda _: "host", turned=lambda provider, phase: turns.append((provider, phase))
    )
    fail(experience, times=9)
    assert turns == [(SHARED.offer.provider, Phase.OPEN)]
