# SPDX-License-Identifier: Apache-2.0
"""What comes next after each outcome."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.domain import next_step
from services.router.domain.keys import HealthMark, HealthState
from services.router.domain.next_step import End, Failure, Progress, Refresh, Step, Try
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Funding, OwnKeyState
from tests.support.routing import account_keys, own_key, planned

DEADLINE = 60.0
OWN, CREDITS = Funding.OWN_KEY, Funding.CREDITS


def failure(outcome: Outcome, billed: Billed = Billed.REFUSED, **fields: Any) -> Failure:
    """Give a failure."""
    return Failure(outcome=outcome, billed=billed, message="it failed", **fields)


def begin(
    *keys: Any, deadline: float = DEADLINE, own_only: bool = False, shared: int = 3
) -> Progress:
    """Begin a request with these own keys and so many shared ones."""
    laid_out = planned(keys=account_keys(*keys))
    laid_out = dataclasses.replace(laid_out, shared=laid_out.shared[:shared])
    return next_step.begin(laid_out, deadline=deadline, own_only=own_only)


def step_after(
    progress: Progress, outcome: Failure, *, now: float = 0.0, funding: Funding | None = None
) -> tuple[Progress, Step]:
    """Try as decided, fail as said, and decide again."""
    step = next_step.decide(progress, now=now)
    assert isinstance(step, Try)
    paid_by = funding or (OWN if step.own_key_state is OwnKeyState.READY else CREDITS)
    candidate = step.own if paid_by is OWN else step.shared
    assert candidate is not None
    progress = next_step.granted(progress, step, paid_by)
    progress = next_step.failed(progress, candidate, outcome, now=now, chance=0.5)
    return progress, next_step.decide(progress, now=now)


KEY = own_key("anthropic")


class TestOwnKeyFailures:
    @pytest.mark.requirement("R9", "R10")
    @pytest.mark.parametrize(
        ("outcome", "state"),
        [
            (failure(Outcome.RATE_LIMITED, retry_after_seconds=30.0), OwnKeyState.COOLING),
            (failure(Outcome.INSUFFICIENT_CREDIT), OwnKeyState.NO_CREDIT),
            (failure(Outcome.PERMISSION_DENIED), OwnKeyState.REJECTED),
            (failure(Outcome.TIMEOUT, Billed.MAYBE_BILLED), OwnKeyState.PROVIDER_FAILED),
        ],
    )
    def test_the_ledger_is_told_why_the_key_does_not_serve(
        self, outcome: Failure, state: OwnKeyState
    ) -> None:
        _, step = step_after(begin(KEY), outcome)
        assert isinstance(step, Try)
        assert step.own_key_state is state
        assert step.own is None
        assert step.shared is not None

    @pytest.mark.requirement("R9")
    @pytest.mark.parametrize("outcome", sorted(next_step.REQUEST_FAULTS))
    def test_the_requests_own_fault_ends_it_at_once(self, outcome: Outcome) -> None:
        _, step = step_after(begin(KEY, own_key("google-vertex")), failure(outcome))
        assert isinstance(step, End)
        assert step.failure is not None
        assert step.failure.outcome is outcome

    @pytest.mark.requirement("R2")
    def test_after_the_first_content_nothing_more_is_tried(self) -> None:
        cut = failure(Outcome.NETWORK, Billed.MAYBE_BILLED, content_sent=True)
        _, step = step_after(begin(KEY), cut)
        assert isinstance(step, End)

    @pytest.mark.requirement("K14", "R9")
    def test_a_401_asks_once_for_a_newer_version(self) -> None:
        """The newer version is tried; if it is refused too, the key counts as rejected."""
        progress, step = step_after(begin(KEY), failure(Outcome.INVALID_KEY))
        assert isinstance(step, Refresh)
        newer = dataclasses.replace(KEY, version=2)
        progress = next_step.refreshed(progress, step.candidate, newer)
        progress, step = step_after(progress, failure(Outcome.INVALID_KEY))
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.REJECTED

    @pytest.mark.requirement("K14", "R9")
    def test_a_401_without_a_newer_version_rejects_the_key(self) -> None:
        progress, step = step_after(begin(KEY), failure(Outcome.INVALID_KEY))
        assert isinstance(step, Refresh)
        step = next_step.decide(next_step.refreshed(progress, step.candidate, None), now=0.0)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.REJECTED

    @pytest.mark.requirement("R10")
    def test_other_own_keys_come_before_waiting_and_credits(self) -> None:
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=1.0)
        _, step = step_after(begin(KEY, own_key("google-vertex")), limited)
        assert isinstance(step, Try)
        assert step.own is not None
        assert step.own.offer.provider == "google-vertex"
        assert step.delay_seconds == 0

    @pytest.mark.requirement("R10")
    def test_a_short_hint_is_waited_out_once_then_credits_pay(self) -> None:
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=1.5)
        progress, step = step_after(begin(KEY), limited)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.READY
        assert step.delay_seconds == 1.5
        _, step = step_after(progress, limited, now=1.5)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.COOLING

    @pytest.mark.requirement("R10", "R9")
    def test_where_credits_are_refused_a_long_hint_is_waited_out_within_the_deadline(self) -> None:
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=20.0)
        progress, step = step_after(begin(KEY), limited)
        assert isinstance(step, Try)
        step = next_step.decide(next_step.credits_refused(progress), now=0.0)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.READY
        assert step.delay_seconds == 20.0
        assert step.shared is None

    @pytest.mark.requirement("R10", "R11")
    def test_a_wait_in_place_has_a_bound_and_its_end_says_when_to_try(self) -> None:
        """However long the deadline; of several cooling keys the soonest counts."""
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=300.0)
        progress = begin(KEY, own_key("google-vertex"), deadline=3600.0, own_only=True)
        progress, _ = step_after(progress, limited)
        sooner = failure(Outcome.RATE_LIMITED, retry_after_seconds=61.0)
        _, step = step_after(progress, sooner)
        assert isinstance(step, End)
        assert step.ready_at == 61.0
        assert step.failure == limited

    @pytest.mark.requirement("R10")
    def test_a_hint_beyond_the_deadline_is_not_waited_for(self) -> None:
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=80.0)
        _, step = step_after(begin(KEY, own_only=True), limited)
        assert isinstance(step, End)

    @pytest.mark.requirement("R10", "R9")
    def test_a_server_error_is_retried_on_the_same_key_then_falls_back(self) -> None:
        """What may have been billed is repeated once; then only credits by consent are left."""
        broken = failure(Outcome.SERVER_ERROR, Billed.MAYBE_BILLED)
        progress, step = step_after(begin(KEY, own_key("google-vertex")), broken)
        assert isinstance(step, Try)
        assert step.own is not None
        assert step.own.key == KEY
        assert step.delay_seconds == 0.5
        _, step = step_after(progress, broken, now=1.0)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.PROVIDER_FAILED

    @pytest.mark.requirement("R9")
    def test_the_widest_consent_is_asked_for(self) -> None:
        """One key limited, another rejected: consent to rate limits alone is not enough."""
        rejected = own_key("google-vertex", health=(HealthMark(HealthState.REJECTED),))
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=30.0)
        _, step = step_after(begin(KEY, rejected), limited)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.REJECTED


class TestStart:
    @pytest.mark.requirement("R9")
    @pytest.mark.parametrize(
        ("state", "until", "told"),
        [
            (HealthState.COOLING, 30.0, OwnKeyState.COOLING),
            (HealthState.REJECTED, 0.0, OwnKeyState.REJECTED),
            (HealthState.NO_CREDIT, 30.0, OwnKeyState.NO_CREDIT),
            (HealthState.SUSPECT, 0.0, OwnKeyState.READY),
            (HealthState.ACTIVE, 0.0, OwnKeyState.READY),
        ],
    )
    def test_the_keys_health_decides_the_first_ask(
        self, state: HealthState, until: float, told: OwnKeyState
    ) -> None:
        """A request on an unhealthy key is a fallback whichever authorization it is."""
        key = own_key("anthropic", health=(HealthMark(state, "", until),))
        step = next_step.decide(begin(key), now=0.0)
        assert isinstance(step, Try)
        assert step.own_key_state is told

    @pytest.mark.requirement("R7")
    def test_without_any_key_the_ledger_is_still_asked(self) -> None:
        """It knows the mode, so it words the refusal."""
        for own_only in (False, True):
            step = next_step.decide(begin(own_only=own_only, shared=0), now=0.0)
            assert isinstance(step, Try)
            assert step.own_key_state is OwnKeyState.NONE_STORED
            assert step.own is None
            assert step.shared is None

    @pytest.mark.requirement("R7")
    def test_own_only_never_offers_a_shared_key(self) -> None:
        step = next_step.decide(begin(KEY, own_only=True), now=0.0)
        assert isinstance(step, Try)
        assert step.shared is None


class TestCredits:
    @pytest.mark.requirement("R10")
    def test_a_limited_shared_key_is_moved_on_from(self) -> None:
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=5.0)
        progress, step = step_after(begin(), limited)
        assert isinstance(step, Try)
        assert step.shared is not None
        assert step.shared is not progress.shared[0].candidate

    @pytest.mark.requirement("R7")
    def test_a_grant_on_credits_keeps_the_request_on_credits(self) -> None:
        """The mode is CREDITS although an own key is ready."""
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=5.0)
        progress, step = step_after(begin(KEY), limited, funding=CREDITS)
        assert progress.on_credits
        assert isinstance(step, Try)
        assert step.shared is not None

    @pytest.mark.requirement("R11")
    def test_when_every_shared_key_fails_the_end_is_on_credits(self) -> None:
        progress = begin(shared=1)
        _, step = step_after(progress, failure(Outcome.INSUFFICIENT_CREDIT))
        assert isinstance(step, End)
        assert step.funding is CREDITS


FORMS = tuple(
    failure(outcome, billed, retry_after_seconds=hint, retryable=retryable)
    for outcome in Outcome
    for billed in Billed
    for hint in (None, 0.0, 0.7, 2.0, 30.0, 100.0)
    for retryable in (True, False)
)
"""Every outcome in every form, with hints on both sides of each bound."""
STEPS_MAX = 80
OWN_KEYS = tuple(own_key(name) for name in ("anthropic", "google-vertex", "amazon-bedrock"))
BEGUN = {
    (count, own_only): begin(*OWN_KEYS[:count], own_only=own_only)
    for count in range(len(OWN_KEYS) + 1)
    for own_only in (True, False)
}
"""Requests with so many own keys; values, so each example goes on from the same ones."""


@pytest.mark.requirement("R10", "R9", "R7")
@given(
    whatever=st.lists(
        st.tuples(st.integers(0, len(FORMS) - 1), st.booleans()), min_size=1, max_size=40
    ),
    begun=st.sampled_from(sorted(BEGUN)),
    chance=st.sampled_from((0.0, 0.5, 1.0)),
)
def test_every_request_ends_within_its_budgets(
    whatever: list[tuple[int, bool]], begun: tuple[int, bool], chance: float
) -> None:
    """
    Whatever happens: bounded attempts, repeats, waits and calls that may be billed, each by its own
    budget; within the deadline; never credits once refused, nor a key once it had no credit.
    """
    progress, own_only = BEGUN[begun], begun[1]
    now, tried, refused = 0.0, 0, False
    billed, poor = dict.fromkeys((OWN, CREDITS), 0), set[str]()
    # What was drawn goes on again and again: the machine ends, not the list.
    for form, refuse in itertools.islice(itertools.cycle(whatever), STEPS_MAX):
        outcome = FORMS[form]
        step = next_step.decide(progress, now=now)
        if isinstance(step, End):
            break
        if isinstance(step, Refresh):
            progress = next_step.refreshed(progress, step.candidate, None)
            continue
        now += step.delay_seconds
        assert now <= DEADLINE
        ready = step.own_key_state is OwnKeyState.READY
        assert ready == (step.own is not None)
        assert not own_only or step.shared is None
        candidate = step.own if ready else step.shared
        if candidate is None or (refuse and not ready):
            if not progress.own:
                break
            progress, refused = next_step.credits_refused(progress), True
            continue
        assert ready or not refused
        tried += 1
        assert candidate.key.name not in poor
        assert step.delay_seconds <= next_step.WAIT_SECONDS_MAX
        if outcome.billed is Billed.MAYBE_BILLED:
            billed[candidate.funding] += 1
        if outcome.outcome is Outcome.INSUFFICIENT_CREDIT:
            poor.add(candidate.key.name)
        progress = next_step.granted(progress, step, OWN if ready else CREDITS)
        progress = next_step.failed(progress, candidate, outcome, now=now, chance=chance)
    else:
        pytest.fail("the request went on and on")
    assert tried <= next_step.ATTEMPTS_MAX
    assert progress.waits <= next_step.WAITS_MAX
    assert progress.transient_retries <= next_step.TRANSIENT_RETRIES_MAX
    assert max(billed.values()) <= next_step.MAYBE_BILLED_MAX
