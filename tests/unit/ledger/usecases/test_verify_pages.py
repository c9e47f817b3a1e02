# SPDX-License-Identifier: Apache-2.0
"""A page of verification is one snapshot, and must be short however much its accounts have done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.usecases.verify import in_pages

pytestmark = pytest.mark.requirement("L12")


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_every_account_is_on_one_page_of_so_many_entries_or_alone(
    counts: list[int], entries: int
) -> None:
    accounts = [(f"a{number}", count) for number, count in enumerate(counts)]
    pages = list(in_pages(accounts, entries=entries))

    held = dict(accounts)
    assert [account for page in pages for account in page] == list(held)
    assert all(len(page) == 1 or sum(held[one] for one in page) <= entries for page in pages)


def test_a_page_is_filled_before_the_next_begins() -> None:
    pages = in_pages([("a", 3), ("b", 4), ("c", 90), ("d", 1), ("e", 6)], entries=7)
    assert list(pages) == [["a", "b"], ["c"], ["d", "e"]]
