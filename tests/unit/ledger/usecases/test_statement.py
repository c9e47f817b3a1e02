# SPDX-License-Identifier: Apache-2.0
"""A statement of any length is written in the memory of a short one, and adds up."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from services.ledger.domain.accounts import Account
from services.ledger.domain.entries import Cause, Entry, EntryKind, SubLedger
from services.ledger.usecases.statement import (
    CHUNK_BYTES_MAX,
    CsvFormat,
    JsonLinesFormat,
    StatementFormat,
    export,
)
from services.shared.errors import InternalError
from tests.support.ledger_accounts import NOW, new_account

SHORT, LONG = 2_000, 10_000
MEGABYTE = 1_000_000


class EndlessReader:
    """
    Makes up entries as they are asked for and keeps none.

    Args:
        count: How many there are.
        wrong: Number of the entry whose balance does not add up; 0 for none.
    """

    def __init__(self, count: int, *, wrong: int = 0) -> None:
        self.count, self.wrong = count, wrong
        self.largest_page = 0

    async def account(self, account_id: str) -> Account:
        """Return the account."""
        account = new_account()
        account.account_id, account.entry_count = account_id, self.count
        return account

    async def entries(self, _account_id: str, *, after: int, up_to: int, limit: int) -> list[Entry]:
        """Return a page."""
        self.largest_page = max(self.largest_page, limit)
        numbers = range(after + 1, min(up_to, after + limit) + 1)
        return [self._entry(number) for number in numbers]

    def _entry(self, number: int) -> Entry:
        return Entry(
            sequence=number,
            kind=EntryKind.GRANT,
            debit=SubLedger.ISSUED,
            credit=SubLedger.CREDITS,
            amount=7,
            posted_after=7 * number + (number == self.wrong),
            grant_id=f"g{number}",
            cause=Cause(mode_epoch=1, reason="a reason of some length " * 4),
            create_time=NOW,
        )


def statement(reader: EndlessReader, format_: StatementFormat) -> AsyncIterator[bytes]:
    """Return the whole statement of an account."""
    return export(reader, "demo", format_=format_, start=None, end=None)  # type: ignore[arg-type]


async def weighed(count: int, format_: StatementFormat) -> tuple[int, int, bytes]:
    """Write a statement; return its bytes, the most memory it took, and its last chunk."""
    written, chunk = 0, b""
    tracemalloc.start()
    try:
        async for chunk in statement(EndlessReader(count), format_):
            assert len(chunk) <= CHUNK_BYTES_MAX
            written += len(chunk)
        return written, tracemalloc.get_traced_memory()[1], chunk
    finally:
        tracemalloc.stop()


@pytest.mark.requirement("L10")
class TestExport:
    @pytest.mark.parametrize("format_", [CsvFormat(), JsonLinesFormat()], ids=["csv", "json"])
    async def test_five_times_the_length_takes_the_same_memory(
        self, format_: StatementFormat
    ) -> None:
        _, short_peak, _ = await weighed(SHORT, format_)
        written, long_peak, last = await weighed(LONG, format_)
        assert written > MEGABYTE
        assert long_peak < short_peak + MEGABYTE // 4
        assert str(7 * LONG).encode() in last.splitlines()[-1]

    async def test_it_ends_where_it_does_not_add_up(self) -> None:
        async with aclosing(statement(EndlessReader(50, wrong=20), CsvFormat())) as chunks:  # type: ignore[type-var]
            with pytest.raises(InternalError, match="entry 20"):
                [chunk async for chunk in chunks]
