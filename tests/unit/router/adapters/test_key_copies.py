# SPDX-License-Identifier: Apache-2.0
"""Copies of keys are usable only under a fresh lease."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.adapters.key_copies import LEASE_SECONDS, KeyCopies, Position

A, B = "accounts/a", "accounts/b"


def at(sequence: int, lineage: str = "db/1") -> Position:
    """Give a position."""
    return Position(lineage, sequence)


def answer(
    copies: KeyCopies[str],
    *,
    sent: float,
    changed: tuple[str, ...] = (),
    position: Position | None = None,
    resync: bool = False,
) -> None:
    """Ask and have it answered."""
    nonce = copies.question_sent(now=sent)
    copies.answered(nonce, changed, resync=resync, position=position or at(1))


def watched(now: float = 0.0, *, accounts_max: int = 100) -> KeyCopies[str]:
    """Give copies whose watch has answered once."""
    copies: KeyCopies[str] = KeyCopies(accounts_max=accounts_max)
    copies.watch_opened()
    answer(copies, sent=now)
    return copies


def resolve(copies: KeyCopies[str], account: str, keys: str, *, now: float) -> None:
    """Resolve an account, answered at once."""
    copies.resolved(copies.resolving(account, now=now), keys, at(1))


@pytest.mark.requirement("K15")
class TestLease:
    def test_a_copy_lives_until_nine_tenths_after_its_question_was_sent(self) -> None:
        """Not after the answer came: the time in between counts against the lease."""
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        assert copies.get(A, now=LEASE_SECONDS - 0.01) is not None
        assert copies.get(A, now=LEASE_SECONDS) is None

    def test_an_answered_question_extends_it_from_when_it_was_sent(self) -> None:
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        nonce = copies.question_sent(now=0.5)
        copies.answered(nonce, (), resync=False, position=at(1))
        assert copies.get(A, now=1.39) is not None
        assert copies.get(A, now=1.41) is None

    def test_an_unanswered_question_extends_nothing(self) -> None:
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        copies.question_sent(now=0.8)
        assert copies.get(A, now=0.95) is None

    def test_a_process_that_was_paused_finds_its_lease_over(self) -> None:
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        nonce = copies.question_sent(now=0.1)
        copies.answered(nonce, (), resync=False, position=at(1))
        assert copies.get(A, now=30.0) is None

    def test_a_lost_stream_answers_no_earlier_question(self) -> None:
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        nonce = copies.question_sent(now=0.5)
        copies.watch_lost()
        copies.answered(nonce, (), resync=False, position=at(1))
        assert copies.get(A, now=1.0) is None

    def test_without_a_watch_a_copy_serves_its_own_request_and_is_not_kept(self) -> None:
        copies: KeyCopies[str] = KeyCopies()
        copy = copies.resolved(copies.resolving(A, now=0.0), "keys", at(1))
        assert copies.usable(copy, now=0.5)
        assert copies.get(A, now=0.5) is None


@pytest.mark.requirement("K15")
class TestChanges:
    def test_a_changed_account_is_forgotten_also_by_who_holds_it(self) -> None:
        """A request that already holds the copy learns of it right before sending."""
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        resolve(copies, B, "keys", now=0.0)
        held = copies.get(A, now=0.1)
        assert held is not None
        answer(copies, sent=0.2, changed=(A,), position=at(2))
        assert copies.get(A, now=0.3) is None
        assert not copies.usable(held, now=0.3)
        assert copies.get(B, now=0.3) is not None

    def test_a_resolve_under_way_while_its_account_changes_is_not_kept(self) -> None:
        copies = watched()
        ticket = copies.resolving(A, now=0.1)
        answer(copies, sent=0.2, changed=(A,), position=at(2))
        copies.resolved(ticket, "old", at(1))
        assert copies.get(A, now=0.3) is None

    def test_a_read_older_than_the_watch_is_not_kept(self) -> None:
        copies = watched()
        answer(copies, sent=0.1, position=at(5))
        copies.resolved(copies.resolving(A, now=0.2), "stale", at(3))
        assert copies.get(A, now=0.3) is None

    @pytest.mark.parametrize("how", ["resync", "lineage", "begun anew"])
    def test_what_the_watch_cannot_vouch_for_is_forgotten(self, how: str) -> None:
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        if how == "begun anew":
            copies = KeyCopies()
            copies.watch_opened()
            resolve(copies, A, "keys", now=0.0)
        answer(
            copies,
            sent=0.1,
            resync=how == "resync",
            position=at(2, "db/2") if how == "lineage" else at(2),
        )
        assert copies.get(A, now=0.2) is None

    def test_a_copy_that_another_took_the_place_of_is_vouched_for_no_longer(self) -> None:
        """Whoever still holds it would hear of no change."""
        copies = watched()
        resolve(copies, A, "first", now=0.0)
        first = copies.get(A, now=0.1)
        assert first is not None
        resolve(copies, A, "second", now=0.2)
        copies.answered(copies.question_sent(now=0.8), (), resync=False, position=at(1))
        assert not copies.usable(first, now=1.0)
        second = copies.get(A, now=1.0)
        assert second is not None
        assert second.keys == "second"

    def test_a_watch_that_resumes_goes_on_vouching(self) -> None:
        copies = watched()
        resolve(copies, A, "keys", now=0.0)
        copies.watch_lost()
        copies.watch_opened()
        assert copies.position == at(1)
        answer(copies, sent=0.5, position=at(2))
        assert copies.get(A, now=1.3) is not None


steps = st.lists(
    st.tuples(
        st.sampled_from(["change", "ask", "answer", "begin", "end", "lose", "tick"]),
        st.floats(0.01, 0.6),
    ),
    max_size=60,
)


@pytest.mark.requirement("K15")
class TestRoom:
    def test_where_there_is_no_room_one_that_was_not_used_lately_goes(self) -> None:
        copies = watched(accounts_max=4)
        for account in "abcd":
            resolve(copies, account, account, now=0.0)
        resolve(copies, "e", "e", now=0.0)  # One goes, and a turn begins.
        held = [account for account in "abcd" if copies.get(account, now=0.1) is not None]
        assert len(held) == 3
        resolve(copies, "f", "f", now=0.0)
        resolve(copies, "g", "g", now=0.0)
        assert copies.get("g", now=0.1) is not None
        assert sum(copies.get(account, now=0.1) is not None for account in "abcdefg") == 4

    def test_a_copy_that_was_dropped_is_vouched_for_no_longer(self) -> None:
        copies = watched(accounts_max=1)
        resolve(copies, A, "keys", now=0.0)
        dropped = copies.get(A, now=0.0)
        assert dropped is not None
        resolve(copies, B, "keys", now=0.0)
        copies.answered(copies.question_sent(now=0.5), (), resync=False, position=at(1))
        assert not copies.usable(dropped, now=1.0)

    def test_one_used_in_this_turn_stays_as_long_as_there_are_others(self) -> None:
        copies = watched(accounts_max=3)
        for account in "abc":
            resolve(copies, account, account, now=0.0)
        resolve(copies, "d", "d", now=0.0)
        used = next(account for account in "abc" if copies.get(account, now=0.1) is not None)
        resolve(copies, "e", "e", now=0.0)
        assert copies.get(used, now=0.1) is not None


@pytest.mark.requirement("K15")
@given(steps)
def test_nothing_is_used_a_second_after_it_changed(script: list[tuple[str, float]]) -> None:
    """Any interleaving of changes, questions, answers, resolves, cuts and pauses."""
    copies: KeyCopies[int] = KeyCopies()
    copies.watch_opened()
    now, version, told, superseded_at = 0.0, 1, 0, {1: float("inf")}
    questions: list[tuple[int, int]] = []
    resolves: list[tuple[object, int]] = []
    for what, wait in script:
        now += wait
        if what == "change":
            superseded_at[version] = now
            version += 1
            superseded_at[version] = float("inf")
        elif what == "ask":
            questions.append((copies.question_sent(now=now), version))
        elif what == "answer" and questions:
            nonce, seen = questions.pop(0)
            changed = (A,) if seen > told else ()
            told = max(told, seen)
            copies.answered(nonce, changed, resync=False, position=at(seen))
        elif what == "begin":
            resolves.append((copies.resolving(A, now=now), version))
        elif what == "end" and resolves:
            ticket, seen = resolves.pop(0)
            copies.resolved(ticket, seen, at(seen))  # type: ignore[arg-type]
        elif what == "lose":
            copies.watch_lost()
            copies.watch_opened()
            questions.clear()
        held = copies.get(A, now=now)
        if held is not None:
            assert now < superseded_at[held.keys] + 1.0
