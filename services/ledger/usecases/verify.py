# SPDX-License-Identifier: Apache-2.0
"""Verify the ledger while it serves: every invariant, account by account, in short snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from services.ledger.domain.accounts import BUCKET_COUNT
from services.ledger.errors import AccountNotFoundError
from services.ledger.usecases.chain import Chains
from services.ledger.usecases.ports import LedgerReader, Violation

PAGE_ACCOUNTS = 100
PAGE_ENTRIES = 100_000
"""Few enough that the snapshot of a page is short, however much its accounts have done."""
BUCKETS_AT_ONCE = 128
VIOLATIONS_SHOWN_MAX = 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """
    How far verification has come.

    Args:
        verified: Accounts verified so far.
        total: Accounts there were at the start.
        found: What was found since the last progress, at most VIOLATIONS_SHOWN_MAX.
        found_count: What was found so far.
        done: True at the end.
    """

    verified: int
    total: int
    found: tuple[Violation, ...]
    found_count: int
    done: bool


async def verify(
    reader: LedgerReader, chains: Chains, account_id: str | None
) -> AsyncIterator[Progress]:
    """
    Verify one account, or all.

    Yields:
        Progress after each page, and once at the end.

    Raises:
        AccountNotFoundError: If the one account does not exist.
    """
    if account_id is not None and await reader.account(account_id) is None:
        raise AccountNotFoundError(account_id)
    total = 1 if account_id is not None else await reader.account_count()
    verified = found_count = 0
    async for page in _pages(reader, account_id):
        found = [*await reader.violations(page), *await chains.broken(page)]
        verified += len(page)
        found_count += len(found)
        shown = tuple(found[:VIOLATIONS_SHOWN_MAX])
        yield Progress(verified, total, shown, found_count, done=False)
    strays = [] if account_id is not None else await _strays(reader)
    found_count += len(strays)
    shown = tuple(strays[:VIOLATIONS_SHOWN_MAX])
    yield Progress(verified, total, shown, found_count, done=True)


async def _strays(reader: LedgerReader) -> list[Violation]:
    """Return what belongs to no account, a range of buckets at a time."""
    found: list[Violation] = []
    for first in range(0, BUCKET_COUNT, BUCKETS_AT_ONCE):
        found += await reader.strays(range(first, first + BUCKETS_AT_ONCE))
    return found


async def _pages(reader: LedgerReader, account_id: str | None) -> AsyncIterator[list[str]]:
    if account_id is not None:
        yield [account_id]
        return
    async for accounts in reader.account_pages(size=PAGE_ACCOUNTS):
        for page in in_pages(accounts, entries=PAGE_ENTRIES):
            yield page


def in_pages(accounts: Sequence[tuple[str, int]], *, entries: int) -> Iterator[list[str]]:
    """
    Cut accounts into pages, each of so many entries at most, or of one account.

    Args:
        accounts: Ids in order, each with how many entries the account has.
        entries: Entries of a page at most.
    """
    page: list[str] = []
    held = 0
    for account_id, count in accounts:
        if page and held + count > entries:
            yield page
            page, held = [], 0
        page.append(account_id)
        held += count
    if page:
        yield page
