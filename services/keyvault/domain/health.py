# SPDX-License-Identifier: Apache-2.0
"""
Health of a key's version: a pure state machine over what calls and live tests found out.

Theory of operation. Entries are kept per model, the model "" standing for the whole key. A version
without an entry is ACTIVE. `after_report` takes what a call came to, `after_test` what a live test
found; both give the new entries, and a report may ask for a confirming probe.

Rules:
1. A refusal (401, 403) makes the key SUSPECT and asks for a probe; only a live test makes it
   REJECTED, and only a live test or a replacement lets it leave REJECTED.
2. Out of money makes it NO_CREDIT, to be tried by one request after 60 s, doubling to an hour, and
   asks for a probe the first time. A shared key becomes SUSPECT instead until a live test has said
   the same: every customer would feel what one request met.
3. A rate limit makes it COOLING until the hint's time; a later hint extends, never shortens.
4. A success ends SUSPECT, and NO_CREDIT or COOLING once their time has come; before that it is
   from a call that began earlier and says nothing.
5. What says nothing about the key (5xx, network, a refused request) changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

WHOLE_KEY = ""
ENTRIES_MAX = 50
COOLING_DEFAULT = timedelta(seconds=5)
COOLING_MAX = timedelta(days=1)
NO_CREDIT_FIRST = timedelta(seconds=60)
NO_CREDIT_MAX = timedelta(hours=1)


class HealthState(StrEnum):
    """What is known of a version, or of one model on it."""

    ACTIVE = "ACTIVE"
    SUSPECT = "SUSPECT"
    REJECTED = "REJECTED"
    NO_CREDIT = "NO_CREDIT"
    COOLING = "COOLING"


class Outcome(StrEnum):
    """What an attempt on a key came to, in the words all services share."""

    OK = "ok"
    INVALID_KEY = "invalid_key"
    EXPIRED_CREDENTIALS = "expired_credentials"
    PERMISSION_DENIED = "permission_denied"
    INSUFFICIENT_CREDIT = "insufficient_credit"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    NETWORK = "network"
    TIMEOUT = "timeout"
    INVALID_REQUEST = "invalid_request"


class TestResult(StrEnum):
    """What a live test found."""

    __test__ = False

    VALID = "VALID"
    INVALID = "INVALID"
    NO_CREDIT = "NO_CREDIT"
    RATE_LIMITED = "RATE_LIMITED"
    FORBIDDEN = "FORBIDDEN"
    UNREACHABLE = "UNREACHABLE"


@dataclass(frozen=True, slots=True)
class LiveTest:
    """
    One live test.

    Args:
        result: What was found.
        credit_checked: Whether it could tell if the key has credit.
        cost_nano_usd: What it cost at the provider.
        detail: A sentence for people.
        missing_permission: For FORBIDDEN, where known.
        retry_after: For RATE_LIMITED, where known.
        test_time: When it was made.
    """

    __test__ = False

    result: TestResult
    credit_checked: bool
    cost_nano_usd: int
    detail: str
    missing_permission: str
    retry_after: timedelta | None
    test_time: datetime


@dataclass(frozen=True, slots=True)
class Health:
    """
    State of the whole key or of one model on it.

    Args:
        model: The provider's model name; "" for the whole key.
        state: The state.
        cause: Why, as a sentence for people.
        since: When the state was entered.
        until: End of COOLING, next try of NO_CREDIT.
        backoff: NO_CREDIT's current waiting time.
    """

    model: str
    state: HealthState
    cause: str
    since: datetime
    until: datetime | None = None
    backoff: timedelta | None = None

    def at(self, now: datetime) -> Health:
        """Return what holds now: a cooldown that is over is ACTIVE."""
        if self.state is HealthState.COOLING and (self.until is None or self.until <= now):
            return Health(self.model, HealthState.ACTIVE, "", since=self.until or self.since)
        return self

    @property
    def next_step(self) -> str:
        """What to do, as a sentence for people."""
        return _NEXT_STEPS[self.state]


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What follows from a report.

    Args:
        entries: Every entry that is not plain ACTIVE.
        changed: Whether anything differs from before.
        probe: Whether a shared live test must confirm it.
    """

    entries: tuple[Health, ...]
    changed: bool
    probe: bool = False


_NEXT_STEPS = {
    HealthState.ACTIVE: "",
    HealthState.SUSPECT: "Test the key; requests go on using it until a test refuses it.",
    HealthState.REJECTED: "Create a new key at the provider and replace this one, then test it.",
    HealthState.NO_CREDIT: (
        "Add credit at the provider; the key is tried again by itself, or at once by a test."
    ),
    HealthState.COOLING: "Wait; the key serves again by itself when the time is over.",
}
_REFUSALS = {
    Outcome.INVALID_KEY: "The provider refused the key (401); a test is to confirm it.",
    Outcome.EXPIRED_CREDENTIALS: "The provider says the credentials expired; a test is to confirm.",
    Outcome.PERMISSION_DENIED: "The provider denied a permission (403); a test is to confirm it.",
}
_CONDEMNING = frozenset({*_REFUSALS, Outcome.INSUFFICIENT_CREDIT})
_NO_CREDIT_CAUSE = "The provider says the account is out of credit."
_NO_CREDIT_TOLD = "The provider says the account is out of credit; a test is to confirm it."
_COOLING_CAUSE = "The provider's rate limit was reached."
_UNVERIFIED_CAUSE = "The provider could not be asked whether the key works."
_REJECTED_CAUSE = "The provider does not accept the key."


def after_report(
    entries: tuple[Health, ...],
    outcome: Outcome,
    *,
    model: str,
    retry_after: timedelta | None,
    now: datetime,
    shared: bool = False,
) -> Decision:
    """
    Decide what a call's outcome means.

    Args:
        entries: The version's entries so far.
        outcome: What the call came to.
        model: The provider's model the call was about; "" for the whole key.
        retry_after: The provider's hint, for RATE_LIMITED.
        now: The time of the report.
        shared: Whether it is one of the product's own keys.
    """
    if outcome is Outcome.OK:
        return _after_success(entries, model, now)
    if outcome is Outcome.RATE_LIMITED:
        return _with(entries, _cooling(_find(entries, model, now), model, retry_after, now), now)
    whole = _find(entries, WHOLE_KEY, now)
    if outcome not in _CONDEMNING or whole.state is HealthState.REJECTED:
        return Decision(entries, changed=False)
    first = whole.state is not HealthState.NO_CREDIT
    if outcome is Outcome.INSUFFICIENT_CREDIT and not (shared and first):
        return replace(_with(entries, _out_of_credit(whole, now), now), probe=first)
    if whole.state is HealthState.SUSPECT:
        return Decision(entries, changed=False, probe=True)
    cause = _REFUSALS.get(outcome, _NO_CREDIT_TOLD)
    suspect = Health(WHOLE_KEY, HealthState.SUSPECT, cause, since=now)
    return replace(_with(entries, suspect, now), probe=True)


def after_test(entries: tuple[Health, ...], test: LiveTest, *, now: datetime) -> Decision:
    """
    Decide what a live test means; it acts at once.

    Args:
        entries: The version's entries so far.
        test: What was found.
        now: The time of the test's end.
    """
    whole = _find(entries, WHOLE_KEY, now)
    if test.result is TestResult.VALID:
        # Credit that was not looked at cannot contradict a provider that said there was none.
        if whole.state is HealthState.NO_CREDIT and not test.credit_checked:
            return Decision(entries, changed=False)
        return _with(entries, Health(WHOLE_KEY, HealthState.ACTIVE, "", since=now), now)
    if test.result is TestResult.UNREACHABLE:
        return Decision(entries, changed=False)
    if test.result is TestResult.RATE_LIMITED:
        return _with(entries, _cooling(whole, WHOLE_KEY, test.retry_after, now), now)
    if test.result is TestResult.NO_CREDIT:
        return _with(entries, _out_of_credit(whole, now), now)
    cause = test.detail or _REJECTED_CAUSE
    return _with(entries, Health(WHOLE_KEY, HealthState.REJECTED, cause, since=now), now)


def of_new_version(test: LiveTest, *, now: datetime) -> tuple[Health, ...]:
    """
    Return the entries a version begins with.

    Args:
        test: The live test it was stored after; UNREACHABLE makes it SUSPECT.
        now: The time it is stored.
    """
    if test.result is TestResult.UNREACHABLE:
        return (Health(WHOLE_KEY, HealthState.SUSPECT, _UNVERIFIED_CAUSE, since=now),)
    return after_test((), test, now=now).entries


def _after_success(entries: tuple[Health, ...], model: str, now: datetime) -> Decision:
    kept = tuple(
        entry
        for entry in entries
        if entry.model not in {WHOLE_KEY, model} or not _ends_by_success(entry, now)
    )
    return Decision(kept, changed=kept != entries)


def _ends_by_success(entry: Health, now: datetime) -> bool:
    if entry.state is HealthState.SUSPECT:
        return True
    timed = entry.state in {HealthState.NO_CREDIT, HealthState.COOLING}
    return timed and (entry.until is None or entry.until <= now)


def _cooling(before: Health, model: str, retry_after: timedelta | None, now: datetime) -> Health:
    # A key that is refused or out of money stays so; a rate limit says nothing about that.
    if before.state in {HealthState.REJECTED, HealthState.NO_CREDIT}:
        return before
    wait = COOLING_DEFAULT if retry_after is None else retry_after
    until = now + max(timedelta(0), min(wait, COOLING_MAX))
    if before.state is HealthState.COOLING and before.until is not None:
        return replace(before, until=max(before.until, until))
    return Health(model, HealthState.COOLING, _COOLING_CAUSE, since=now, until=until)


def _out_of_credit(before: Health, now: datetime) -> Health:
    if before.state is not HealthState.NO_CREDIT or before.backoff is None:
        return Health(
            WHOLE_KEY,
            HealthState.NO_CREDIT,
            _NO_CREDIT_CAUSE,
            since=now,
            until=now + NO_CREDIT_FIRST,
            backoff=NO_CREDIT_FIRST,
        )
    if before.until is not None and now < before.until:
        return before
    backoff = min(before.backoff * 2, NO_CREDIT_MAX)
    return replace(before, until=now + backoff, backoff=backoff)


def _find(entries: tuple[Health, ...], model: str, now: datetime) -> Health:
    for entry in entries:
        if entry.model == model:
            return entry.at(now)
    return Health(model, HealthState.ACTIVE, "", since=now)


def _with(entries: tuple[Health, ...], entry: Health, now: datetime) -> Decision:
    """Put an entry in the place of its model's, dropping what is over and what is too much."""
    others = [
        other
        for other in entries
        if other.model != entry.model and other.at(now).state is not HealthState.ACTIVE
    ]
    # The one that ends first is the smallest loss.
    others.sort(key=lambda other: (other.model != WHOLE_KEY, -_end(other)))
    kept = others[: ENTRIES_MAX - 1]
    if entry.state is not HealthState.ACTIVE:
        kept.append(entry)
    kept.sort(key=lambda other: other.model)
    result = tuple(kept)
    return Decision(result, changed=result != entries)


def _end(entry: Health) -> float:
    return entry.until.timestamp() if entry.until is not None else float("inf")
