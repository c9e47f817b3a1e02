# SPDX-License-Identifier: Apache-2.0
"""The health of a key's version, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.keyvault.domain.health import (
    COOLING_DEFAULT,
    COOLING_MAX,
    ENTRIES_MAX,
    NO_CREDIT_MAX,
    Decision,
    Health,
    HealthState,
    LiveTest,
    Outcome,
    TestResult,
    after_report,
    after_test,
    of_new_version,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REFUSALS = [Outcome.INVALID_KEY, Outcome.EXPIRED_CREDENTIALS, Outcome.PERMISSION_DENIED]
SILENT = [
    Outcome.OVERLOADED,
    Outcome.SERVER_ERROR,
    Outcome.NETWORK,
    Outcome.TIMEOUT,
    Outcome.INVALID_REQUEST,
]
REJECTED = (Health("", HealthState.REJECTED, "refused", since=NOW),)
SUSPECT = (Health("", HealthState.SUSPECT, "refused once", since=NOW),)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def report(
    entries: tuple[Health, ...],
    outcome: Outcome,
    *,
    at: float = 0,
    model: str = "",
    hint: float | None = None,
    shared: bool = False,
) -> Decision:
    return after_report(
        entries,
        outcome,
        model=model,
        retry_after=None if hint is None else seconds(hint),
        now=NOW + seconds(at),
        shared=shared,
    )


def found(result: TestResult, *, credit: bool = True, hint: float | None = None) -> LiveTest:
    return LiveTest(
        result=result,
        credit_checked=credit,
        cost_nano_usd=0,
        detail="",
        missing_permission="",
        retry_after=None if hint is None else seconds(hint),
        test_time=NOW,
    )


def states(entries: tuple[Health, ...], *, at: float = 0) -> dict[str, HealthState]:
    return {entry.model: entry.at(NOW + seconds(at)).state for entry in entries}


@pytest.mark.requirement("K14")
class TestRefusals:
    @pytest.mark.parametrize("outcome", REFUSALS)
    def test_the_first_makes_it_suspect_and_asks_for_a_probe(self, outcome: Outcome) -> None:
        decision = report((), outcome)

        assert states(decision.entries) == {"": HealthState.SUSPECT}
        assert decision.changed
        assert decision.probe

    @pytest.mark.parametrize("outcome", REFUSALS)
    def test_another_asks_again_and_changes_nothing(self, outcome: Outcome) -> None:
        assert report(SUSPECT, outcome, at=5) == Decision(SUSPECT, changed=False, probe=True)

    @pytest.mark.parametrize("result", [TestResult.INVALID, TestResult.FORBIDDEN])
    def test_only_a_live_test_rejects(self, result: TestResult) -> None:
        decision = after_test(SUSPECT, found(result), now=NOW)

        assert states(decision.entries) == {"": HealthState.REJECTED}

    def test_a_live_test_that_finds_it_valid_clears_it(self) -> None:
        """So a moderation refusal read as 401 or 403 never condemns a key."""
        assert after_test(SUSPECT, found(TestResult.VALID), now=NOW) == Decision((), changed=True)

    def test_a_live_test_that_reached_nobody_changes_nothing(self) -> None:
        for entries in (SUSPECT, REJECTED, ()):
            decision = after_test(entries, found(TestResult.UNREACHABLE), now=NOW)
            assert decision == Decision(entries, changed=False)

    @pytest.mark.parametrize("outcome", Outcome)
    def test_no_report_lets_it_leave_rejected(self, outcome: Outcome) -> None:
        decision = report(REJECTED, outcome, at=7200)

        assert states(decision.entries)[""] is HealthState.REJECTED
        assert not decision.probe

    def test_a_live_test_lets_it_leave_rejected(self) -> None:
        assert after_test(REJECTED, found(TestResult.VALID), now=NOW).entries == ()


@pytest.mark.requirement("K14")
class TestNoCredit:
    def test_the_first_waits_a_minute_and_asks_for_a_probe(self) -> None:
        decision = report((), Outcome.INSUFFICIENT_CREDIT)

        [entry] = decision.entries
        assert entry.state is HealthState.NO_CREDIT
        assert entry.until == NOW + seconds(60)
        assert decision.probe

    def test_the_wait_doubles_to_an_hour_without_further_probes(self) -> None:
        decision = report((), Outcome.INSUFFICIENT_CREDIT)
        now, waits = 0.0, []
        for _ in range(8):
            [entry] = decision.entries
            assert entry.until is not None
            waits.append((entry.until - NOW).total_seconds() - now)
            now = (entry.until - NOW).total_seconds()
            decision = report(decision.entries, Outcome.INSUFFICIENT_CREDIT, at=now)
            assert not decision.probe

        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
        assert seconds(3600) == NO_CREDIT_MAX

    def test_a_report_before_the_time_is_late_and_changes_nothing(self) -> None:
        entries = report((), Outcome.INSUFFICIENT_CREDIT).entries

        for outcome in (Outcome.INSUFFICIENT_CREDIT, Outcome.OK, Outcome.RATE_LIMITED):
            assert report(entries, outcome, at=59).entries == entries

    def test_a_success_at_its_time_ends_it(self) -> None:
        entries = report((), Outcome.INSUFFICIENT_CREDIT).entries

        assert report(entries, Outcome.OK, at=60).entries == ()

    @pytest.mark.requirement("K16")
    def test_a_shared_key_goes_on_serving_until_a_live_test_says_the_same(self) -> None:
        """What one request met is no reason to send every customer elsewhere."""
        decision = report((), Outcome.INSUFFICIENT_CREDIT, shared=True)
        assert states(decision.entries) == {"": HealthState.SUSPECT}
        assert decision.probe
        again = report(decision.entries, Outcome.INSUFFICIENT_CREDIT, shared=True)
        assert again == Decision(decision.entries, changed=False, probe=True)

        confirmed = after_test(decision.entries, found(TestResult.NO_CREDIT), now=NOW).entries
        assert states(confirmed) == {"": HealthState.NO_CREDIT}
        [entry] = report(confirmed, Outcome.INSUFFICIENT_CREDIT, at=60, shared=True).entries
        assert entry.until == NOW + seconds(180)

    def test_a_test_ends_it_at_once_where_it_saw_credit_and_only_there(self) -> None:
        entries = report((), Outcome.INSUFFICIENT_CREDIT).entries

        assert after_test(entries, found(TestResult.VALID), now=NOW).entries == ()
        unseen = after_test(entries, found(TestResult.VALID, credit=False), now=NOW)
        assert unseen == Decision(entries, changed=False)


@pytest.mark.requirement("K14")
class TestCooling:
    def test_it_lasts_as_long_as_the_hint_for_the_model_alone(self) -> None:
        entries = report((), Outcome.RATE_LIMITED, model="gpt-4o", hint=30).entries

        assert states(entries, at=29.9) == {"gpt-4o": HealthState.COOLING}
        assert states(entries, at=30) == {"gpt-4o": HealthState.ACTIVE}

    @pytest.mark.parametrize(
        ("hint", "lasts"),
        [(None, COOLING_DEFAULT), (0, seconds(0)), (86_400 * 3, COOLING_MAX)],
    )
    def test_the_time_is_bounded(self, hint: float | None, lasts: timedelta) -> None:
        [entry] = report((), Outcome.RATE_LIMITED, hint=hint).entries

        assert entry.until == NOW + lasts

    @pytest.mark.parametrize(("later", "until"), [(100, 110), (10, 60), (None, 60)])
    def test_a_later_hint_extends_and_never_shortens(
        self, later: float | None, until: float
    ) -> None:
        entries = report((), Outcome.RATE_LIMITED, hint=60).entries
        [entry] = report(entries, Outcome.RATE_LIMITED, at=10, hint=later).entries

        assert entry.until == NOW + seconds(until)
        assert entry.since == NOW

    def test_a_success_from_before_changes_nothing(self) -> None:
        entries = report((), Outcome.RATE_LIMITED, hint=60).entries

        assert report(entries, Outcome.OK, at=1) == Decision(entries, changed=False)

    def test_it_never_covers_a_refusal(self) -> None:
        assert report(REJECTED, Outcome.RATE_LIMITED).entries == REJECTED

    def test_entries_are_bounded_and_the_one_that_ends_first_gives_way(self) -> None:
        entries: tuple[Health, ...] = SUSPECT
        for number in range(ENTRIES_MAX + 5):
            entries = report(
                entries, Outcome.RATE_LIMITED, model=f"model-{number:02}", hint=100 + number
            ).entries

        assert len(entries) == ENTRIES_MAX
        assert "" in states(entries)
        assert "model-00" not in states(entries)
        assert "model-54" in states(entries)


@pytest.mark.requirement("K14")
@pytest.mark.parametrize("outcome", SILENT)
@pytest.mark.parametrize("entries", [(), SUSPECT, REJECTED])
def test_what_says_nothing_about_the_key_changes_nothing(
    entries: tuple[Health, ...], outcome: Outcome
) -> None:
    assert report(entries, outcome) == Decision(entries, changed=False)


@pytest.mark.requirement("K3", "K14")
@pytest.mark.parametrize(
    ("result", "state"),
    [
        (TestResult.VALID, None),
        (TestResult.NO_CREDIT, HealthState.NO_CREDIT),
        (TestResult.RATE_LIMITED, HealthState.COOLING),
        (TestResult.UNREACHABLE, HealthState.SUSPECT),
    ],
)
def test_a_new_version_begins_with_what_its_test_found(
    result: TestResult, state: HealthState | None
) -> None:
    entries = of_new_version(found(result), now=NOW)

    assert [entry.state for entry in entries] == ([] if state is None else [state])


@pytest.mark.requirement("K14")
def test_every_state_but_active_says_why_and_what_to_do() -> None:
    shown = [
        *report((), Outcome.INVALID_KEY).entries,
        *report((), Outcome.INSUFFICIENT_CREDIT).entries,
        *report((), Outcome.RATE_LIMITED).entries,
        *after_test((), found(TestResult.INVALID), now=NOW).entries,
    ]

    assert {entry.state for entry in shown} == set(HealthState) - {HealthState.ACTIVE}
    assert all(entry.cause and entry.next_step for entry in shown)
