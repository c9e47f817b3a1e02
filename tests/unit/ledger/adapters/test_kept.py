# SPDX-License-Identifier: Apache-2.0
"""Files at rest: what is handed out again, what is not, and how much is kept."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from services.ledger.adapters.kept import NO_STAMP, KeptFiles, Run
from services.ledger.domain.accounts import Grant, GrantKind
from services.ledger.domain.book import Book
from services.ledger.domain.budgets import KeyBudget
from services.ledger.domain.files import AccountFile
from services.ledger.domain.requests import EndedBy, Request, RequestState
from tests.support.ledger_accounts import NOW, new_account


def file_of(account_id: str = "demo", *requests: Request, remaining: int = 5) -> AccountFile:
    """Return a file with one grant and requests."""
    account = new_account()
    account.account_id = account_id
    grant = Grant("g1", GrantKind.PURCHASED, 5, remaining, 0, None, timedelta(), "", NOW, 1)
    file = AccountFile(account, Book(account, {"g1": grant}, NOW), NOW)
    file.requests = {request.request_id: request for request in requests}
    return file


def request_of(request_id: str, state: RequestState = RequestState.RUNNING) -> Request:
    """Return a request."""
    ended = EndedBy.NOTHING if state is RequestState.RUNNING else EndedBy.CALLER
    return Request(
        request_id, b"f" * 32, 1, "claimant", 1, state, ended, 1, NOW, False, False, None, b""
    )


@pytest.mark.requirement("L3", "L13")
class TestKeptFiles:
    def test_what_lies_under_the_stamp_comes_back_once(self) -> None:
        kept, file = KeptFiles(), file_of()
        kept.put(file, 7, runs={})
        found = kept.take("demo", 7)
        assert found is not None
        assert found.account is file.account
        assert kept.take("demo", 7) is None

    @pytest.mark.parametrize("stamp", [8, NO_STAMP])
    def test_what_another_has_written_over_is_dropped(self, stamp: int) -> None:
        kept = KeptFiles()
        kept.put(file_of(), 7, runs={})
        assert kept.take("demo", stamp) is None
        assert kept.take("demo", 7) is None

    def test_a_row_without_a_stamp_is_not_kept(self) -> None:
        kept = KeptFiles()
        kept.put(file_of(), 7, runs={})
        kept.put(file_of(), NO_STAMP, runs={})
        assert kept.take("demo", NO_STAMP) is None
        assert kept.take("demo", 7) is None

    def test_only_running_requests_stay(self) -> None:
        kept, running = KeptFiles(), request_of("running")
        ended = request_of("ended", RequestState.SUCCEEDED)
        before = {name: Run(request_of(name), []) for name in ("elsewhere", "ended")}
        file = file_of("demo", running, ended)
        kept.put(file, 7, runs=before)
        found = kept.take("demo", 7)
        assert found is not None
        assert set(found.runs) == {"running", "elsewhere"}

    def test_spent_grants_are_left_out(self) -> None:
        kept = KeptFiles()
        kept.put(file_of(remaining=0), 7, runs={})
        found = kept.take("demo", 7)
        assert found is not None
        assert found.grants == {}

    def test_what_was_used_longest_ago_leaves_first(self) -> None:
        # An account and its grant.
        kept = KeptFiles(weight_max=4)
        for name in ("first", "second"):
            kept.put(file_of(name), 7, runs={})
        again = kept.take("first", 7)
        assert again is not None
        kept.put(file_of("first"), 7, runs={})
        kept.put(file_of("third"), 7, runs={})
        assert [kept.take(name, 7) is not None for name in ("first", "second", "third")] == [
            True,
            False,
            True,
        ]

    def test_a_file_too_large_is_not_kept(self) -> None:
        kept, file = KeptFiles(weight_max=4), file_of()
        months = [(f"k{number}", date(2026, 11, 1)) for number in range(3)]
        file.budgets = {month: KeyBudget(*month) for month in months}
        kept.put(file_of("small"), 7, runs={})
        kept.put(file, 7, runs={})
        assert kept.take("demo", 7) is None
        kept.put(file_of("small"), 7, runs={})
        assert kept.take("small", 7) is not None
