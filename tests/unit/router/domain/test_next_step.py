# SPDX-License-Identifier: Apache-2.0
"""What comes next after each outcome."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.domain.requests import SEQUENCE_MAX
from services.router.domain import next_step, turns
from services.router.domain.keys import HealthMark, HealthState
from services.router.domain.next_step import End, Failure, Refresh, Step, Try
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Funding, OwnKeyState, Plan
from services.router.domain.progress import Progress, Standing
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
        assert step.own_wait_seconds == 0

    @pytest.mark.requirement("R10")
    def test_a_short_hint_is_waited_out_once_then_credits_pay(self) -> None:
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=1.5)
        progress, step = step_after(begin(KEY), limited)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.READY
        assert step.own_wait_seconds == 1.5
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
        assert step.own_wait_seconds == 20.0
        assert step.shared is None

    @pytest.mark.requirement("R10", "R11")
    @pytest.mark.parametrize(("deadline", "waits"), [(600.0, True), (200.0, False)])
    def test_the_soonest_is_waited_for_up_to_the_deadline_or_its_time_is_told(
        self, deadline: float, waits: bool
    ) -> None:
        """However long the cooldown; complaint 5.12: the end names the soonest of several."""
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=450.0)
        progress = begin(KEY, own_key("google-vertex"), deadline=deadline, own_only=True)
        progress, _ = step_after(progress, limited)
        sooner = failure(Outcome.RATE_LIMITED, retry_after_seconds=300.0)
        _, step = step_after(progress, sooner)
        if waits:
            assert isinstance(step, Try)
            assert step.own_wait_seconds == 300.0
        else:
            assert isinstance(step, End)
            assert step.ready_at == 300.0
            assert step.failure == limited

    @pytest.mark.requirement("R10", "R9")
    @pytest.mark.parametrize("hint", [0.0, 0.4, 1.0, None, 30.0])
    def test_waits_in_place_go_on_until_the_deadline_whatever_the_hints(
        self, hint: float | None
    ) -> None:
        """Ten minutes is the longest request; the count of waits never ends it sooner."""
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=hint)
        progress, now, waited = begin(KEY, deadline=600.0, own_only=True), 0.0, [0.0]
        while isinstance(step := next_step.decide(progress, now=now), Try):
            assert step.own is not None
            now += step.own_wait_seconds
            waited.append(step.own_wait_seconds)
            assert now <= 600.0 - turns.ATTEMPT_SECONDS_MIN
            progress = next_step.granted(progress, step, OWN)
            progress = next_step.failed(progress, step.own, limited, now=now, chance=0.5)
        assert isinstance(step, End)
        assert step.ready_at is not None
        assert step.ready_at + turns.ATTEMPT_SECONDS_MIN > 600.0
        assert len(waited) <= turns.WAITS_MAX + 2
        # Each is longer than the one before, but for the last, which ends with the deadline.
        assert waited[2:-1] == sorted(waited[2:-1])

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
        assert step.own_wait_seconds == 0.5
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


class TestTransient:
    @pytest.mark.requirement("R10", "R11")
    @pytest.mark.parametrize(
        ("retries", "chance", "seconds"),
        [(0, 0.0, 0.4), (0, 0.5, 0.5), (0, 1.0, 0.6), (1, 0.0, 0.8), (1, 0.5, 1.0), (1, 1.0, 1.2)],
    )
    def test_the_pause_doubles_with_each_retry_and_is_spread_by_a_fifth(
        self, retries: int, chance: float, seconds: float
    ) -> None:
        """Semantics 6.9: half a second, doubled, a fifth more or less."""
        progress = dataclasses.replace(begin(KEY), transient_retries=retries)
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        assert step.own is not None
        progress = next_step.granted(progress, step, OWN)
        refused = failure(Outcome.OVERLOADED)
        progress = next_step.failed(progress, step.own, refused, now=0.0, chance=chance)
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        assert step.own_wait_seconds == pytest.approx(seconds)

    @pytest.mark.requirement("R10")
    @given(retries=st.integers(0, 60), chance=st.floats(0, 1))
    def test_no_pause_is_longer_than_its_bound(self, retries: int, chance: float) -> None:
        assert 0.4 <= next_step.backoff_seconds(retries, chance) < 6.01

    @pytest.mark.requirement("R10")
    @pytest.mark.parametrize(("hint", "repeats"), [(3.0, True), (5.0, True), (5.1, False)])
    def test_a_longer_hint_than_any_pause_sends_the_request_elsewhere(
        self, hint: float, repeats: bool
    ) -> None:
        """Complaint 5.14: nothing sleeps a hint out while another provider is idle."""
        overloaded = failure(Outcome.OVERLOADED, retry_after_seconds=hint)
        _, step = step_after(begin(KEY, own_key("google-vertex")), overloaded)
        assert isinstance(step, Try)
        assert step.own is not None
        assert (step.own.key == KEY) is repeats
        assert step.own_wait_seconds == (hint if repeats else 0.0)

    @pytest.mark.requirement("R10", "R11")
    def test_without_tokens_nothing_is_repeated(self) -> None:
        progress = begin(KEY)
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        assert step.own is not None
        progress = next_step.granted(progress, step, OWN)
        down = failure(Outcome.SERVER_ERROR)
        progress = next_step.failed(progress, step.own, down, now=0.0, chance=0.5, may_retry=False)
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        assert step.own_key_state is OwnKeyState.PROVIDER_FAILED


def shared_cooling(*seconds: float, keys: tuple[Any, ...] = ()) -> Progress:
    """Begin with shared keys that cool for so long."""
    laid_out = planned(keys=account_keys(*keys))
    cooling = tuple(
        dataclasses.replace(candidate, health=HealthMark(HealthState.COOLING, "", until))
        for candidate, until in zip(laid_out.shared, seconds, strict=False)
    )
    laid_out = dataclasses.replace(laid_out, shared=cooling)
    return next_step.begin(laid_out, deadline=DEADLINE, own_only=False)


class TestCoolingSharedKeys:
    """A shared key that cools is never taken at once, whoever asks for it."""

    @pytest.mark.requirement("R10", "R9")
    @pytest.mark.parametrize("state", [HealthState.REJECTED, HealthState.ACTIVE])
    @pytest.mark.parametrize(
        ("cooling", "place", "wait"),
        [((30.0, 1.5), 1, 1.5), ((2.0, 1.9, 30.0), 1, 1.9), ((30.0, 2.1), None, 0.0)],
    )
    def test_the_soonest_is_waited_for_if_it_is_ready_soon(
        self,
        state: HealthState,
        cooling: tuple[float, ...],
        place: int | None,
        wait: float,
    ) -> None:
        """As a fallback, and where the ledger lets credits pay although an own key is ready."""
        key = own_key("anthropic", health=(HealthMark(state),))
        progress = shared_cooling(*cooling, keys=(key,))
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        if place is None:
            assert step.shared is None
        else:
            assert step.shared is progress.shared[place].candidate
        assert step.shared_wait_seconds == wait

    @pytest.mark.requirement("R10", "R11")
    def test_on_credits_alone_the_ledger_is_asked_before_capacity_is_spoken_of(self) -> None:
        progress = shared_cooling(30.0, 20.0)
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        assert step.shared is None
        assert next_step.without_shared_key(progress).ready_at == 20.0

    @pytest.mark.requirement("R10")
    def test_one_that_is_ready_serves_before_one_that_cools(self) -> None:
        progress = shared_cooling(1.0, 0.0)
        ready = dataclasses.replace(progress.shared[1], standing=Standing.FRESH)
        progress = dataclasses.replace(progress, shared=(progress.shared[0], ready))
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        assert step.shared is ready.candidate
        assert step.shared_wait_seconds == 0.0


class TestBudgets:
    def _many(self, own: int, shared: int) -> Plan:
        laid_out = planned(keys=account_keys(KEY))
        return dataclasses.replace(
            laid_out,
            own=tuple(dataclasses.replace(laid_out.own[0]) for _ in range(own)),
            shared=tuple(dataclasses.replace(laid_out.shared[0]) for _ in range(shared)),
        )

    def _tried(self, progress: Progress, *, consents: bool) -> list[Funding]:
        """Try until the end; every key is out of money."""
        tried = []
        while isinstance(step := next_step.decide(progress, now=0.0), Try):
            ready = step.own_key_state is OwnKeyState.READY
            candidate = step.own if ready else step.shared
            if candidate is None or not (ready or consents):
                progress = next_step.credits_refused(progress)
                continue
            tried.append(candidate.funding)
            progress = next_step.granted(progress, step, candidate.funding)
            poor = failure(Outcome.INSUFFICIENT_CREDIT)
            progress = next_step.failed(progress, candidate, poor, now=0.0, chance=0.5)
        return tried

    @pytest.mark.requirement("R10", "R9", "K5")
    @pytest.mark.parametrize(
        ("own_only", "consents", "own", "shared"),
        [(True, False, 16, 0), (False, True, 12, 4), (False, False, 16, 0)],
    )
    def test_keys_have_a_budget_of_their_own_of_which_some_is_left_to_credits(
        self, own_only: bool, consents: bool, own: int, shared: int
    ) -> None:
        """Complaint 5.11: no healthy key goes unused for want of retries."""
        plan = self._many(20, 20)
        progress = next_step.begin(plan, deadline=DEADLINE, own_only=own_only)
        assert self._tried(progress, consents=consents) == [OWN] * own + [CREDITS] * shared

    @pytest.mark.requirement("R10")
    def test_an_account_on_credits_has_all_of_it(self) -> None:
        progress = next_step.begin(self._many(0, 20), deadline=DEADLINE, own_only=False)
        assert self._tried(progress, consents=True) == [CREDITS] * turns.KEYS_MAX

    @pytest.mark.requirement("R10", "K14")
    def test_keys_tried_again_at_a_newer_version_have_a_budget_too(self) -> None:
        progress = next_step.begin(self._many(9, 0), deadline=DEADLINE, own_only=True)
        newer = dataclasses.replace(KEY, version=2)
        asked = 0
        while not isinstance(step := next_step.decide(progress, now=0.0), End):
            if isinstance(step, Refresh):
                asked += 1
                progress = next_step.refreshed(progress, step.candidate, newer)
                continue
            assert step.own is not None
            progress = next_step.granted(progress, step, OWN)
            wrong = failure(Outcome.INVALID_KEY)
            progress = next_step.failed(progress, step.own, wrong, now=0.0, chance=0.5)
        assert asked == next_step.REFRESHES_MAX
        assert progress.keys == 9
        assert progress.attempts == 9 + next_step.REFRESHES_MAX

    @pytest.mark.requirement("R10", "L3")
    def test_together_they_stay_within_what_the_ledger_counts(self) -> None:
        """Keys, newer versions, retries, waits, and one refusal of credits."""
        budgets = (
            turns.KEYS_MAX,
            next_step.REFRESHES_MAX,
            next_step.TRANSIENT_RETRIES_MAX,
            turns.WAITS_MAX,
            1,
        )
        assert sum(budgets) <= SEQUENCE_MAX

    @pytest.mark.requirement("K15", "R10")
    def test_a_new_plan_gives_no_budget_back(self) -> None:
        """Where a key changed meanwhile; what the ledger refused stays refused."""
        progress = dataclasses.replace(
            next_step.credits_refused(begin(KEY)), keys=5, waits=2, transient_retries=1
        )
        same = planned(keys=account_keys(KEY))
        anew = next_step.begin_again(progress, same, granted=True)
        assert (anew.keys, anew.waits, anew.transient_retries) == (6, 2, 1)
        assert next_step.begin_again(progress, same, granted=False).keys == 5
        assert anew.credits_refused
        gone = next_step.begin_again(progress, planned(), granted=True)
        assert isinstance(next_step.decide(gone, now=0.0), End)

    @pytest.mark.requirement("K15", "R10")
    @pytest.mark.parametrize(
        ("fields", "tried_again"), [({}, False), ({"etag": "2"}, True), ({"version": 2}, True)]
    )
    def test_by_a_new_plan_only_a_key_that_changed_is_tried_again(
        self, fields: dict[str, Any], tried_again: bool
    ) -> None:
        progress, _ = step_after(begin(KEY), failure(Outcome.INSUFFICIENT_CREDIT))
        plan = planned(keys=account_keys(dataclasses.replace(KEY, **fields)))
        progress = next_step.begin_again(progress, plan, granted=True)
        step = next_step.decide(progress, now=0.0)
        assert isinstance(step, Try)
        assert (step.own is not None) is tried_again


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

    @pytest.mark.requirement("R7", "R11")
    def test_by_a_new_plan_credits_stay_the_payer_with_what_they_used_up(self) -> None:
        limited = failure(Outcome.RATE_LIMITED, retry_after_seconds=5.0)
        progress, _ = step_after(begin(KEY), limited, funding=CREDITS)
        progress = dataclasses.replace(progress, maybe_billed=1)
        anew = next_step.begin_again(progress, planned(keys=account_keys(KEY)), granted=True)
        step = next_step.decide(anew, now=0.0)
        assert isinstance(step, Try)
        assert next_step.granted(anew, step, CREDITS).maybe_billed == 1

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
        ready = step.own_key_state is OwnKeyState.READY
        wait = step.own_wait_seconds if ready else step.shared_wait_seconds
        assert now + wait <= DEADLINE
        assert ready == (step.own is not None)
        assert not own_only or step.shared is None
        candidate = step.own if ready else step.shared
        if candidate is None or (refuse and not ready):
            if not progress.own:
                break
            progress, refused = next_step.credits_refused(progress), True
            continue
        assert ready or not refused
        now += wait
        tried += 1
        assert candidate.key.name not in poor
        if outcome.billed is Billed.MAYBE_BILLED:
            billed[candidate.funding] += 1
        if outcome.outcome is Outcome.INSUFFICIENT_CREDIT:
            poor.add(candidate.key.name)
        progress = next_step.granted(progress, step, OWN if ready else CREDITS)
        progress = next_step.failed(progress, candidate, outcome, now=now, chance=chance)
    else:
        pytest.fail("the request went on and on")
    assert tried <= SEQUENCE_MAX
    assert progress.keys <= turns.KEYS_MAX
    assert progress.waits <= turns.WAITS_MAX
    assert progress.transient_retries <= next_step.TRANSIENT_RETRIES_MAX
    assert max(billed.values()) <= turns.MAYBE_BILLED_MAX
