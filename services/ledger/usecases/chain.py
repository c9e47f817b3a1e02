# SPDX-License-Identifier: Apache-2.0
"""
Hash chains of entries, made behind the writes and checked by VerifyLedger.

Rules:
1. A link is written once and never changed. Two processes that chain the same entries write the
   same links, so neither waits for the other.
2. Work is bounded: one bucket at a time, a page of entries at a time, a pause between buckets.
3. A check goes as far as the links went when it began, in pages, each its own short snapshot.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.ledger.domain.accounts import BUCKET_COUNT
from services.ledger.domain.chains import CHAIN_START, link
from services.ledger.domain.entries import Entry
from services.ledger.usecases.ports import Violation
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.logging import get_logger
from services.shared.secret import Secret

PAGE_ENTRIES = 1000
HEADS_PER_PASS_MAX = 500
WALK_SECONDS = 60.0
"""Pauses of one walk over all buckets."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class ChainHead:
    """
    How far an account is chained.

    Args:
        account_id: The account.
        sequence: Number of the last entry with a link, 0 for none.
        digest: That link.
        entry_count: Entries of the account.
    """

    account_id: str
    sequence: int
    digest: bytes
    entry_count: int


@dataclass(frozen=True, slots=True)
class Chained:
    """
    A link on record.

    Args:
        sequence: The entry's number.
        digest: The link.
        entry: The entry; None if it is gone.
    """

    sequence: int
    digest: bytes
    entry: Entry | None


class ChainStore(Protocol):
    """Keeps links."""

    async def heads(self, bucket: int, *, after: str, limit: int) -> list[ChainHead]:
        """Return heads of a bucket's accounts in order of their ids, after one of them."""
        ...

    async def head_sequence(self, account_id: str) -> int:
        """Return the number of an account's last link, 0 for none."""
        ...

    async def entries(self, account_id: str, *, after: int, up_to: int, limit: int) -> list[Entry]:
        """Return entries numbered after `after` and up to `up_to`, ascending."""
        ...

    async def add(self, account_id: str, links: Sequence[tuple[int, bytes]]) -> None:
        """Write links, by their entry's number; those on record stay as they are."""
        ...

    async def chained(self, account_id: str, *, after: int, limit: int) -> list[Chained]:
        """Return links with their entries, after a number, ascending."""
        ...


class Chains:
    """
    Makes and checks the chains.

    Args:
        store: Keeps links.
        key: Keys them; shared by all replicas.
        clock: Time between two buckets.
    """

    def __init__(self, *, store: ChainStore, key: Secret, clock: Clock) -> None:
        self._store = store
        self._key = key
        self._clock = clock

    async def run(self) -> None:
        """Chain all buckets in turn until cancelled."""
        while True:
            for bucket in range(BUCKET_COUNT):
                try:
                    await self.extend(bucket)
                except ServiceError as fault:
                    log.warning("chaining_failed", bucket=bucket, error=fault.message)
                except Exception:
                    # The root of a task: without it nothing would be chained any more.
                    log.exception("chaining_failed_unexpectedly", bucket=bucket)
                await self._clock.sleep(WALK_SECONDS / BUCKET_COUNT)

    async def extend(self, bucket: int) -> int:
        """Chain what a bucket's accounts have written since, and return how many entries."""
        count, after = 0, ""
        while heads := await self._store.heads(bucket, after=after, limit=HEADS_PER_PASS_MAX):
            for head in heads:
                count += await self._extend(head)
            after = heads[-1].account_id
        return count

    async def _extend(self, head: ChainHead) -> int:
        sequence, digest = head.sequence, head.digest
        while sequence < head.entry_count:
            page = await self._store.entries(
                head.account_id, after=sequence, up_to=head.entry_count, limit=PAGE_ENTRIES
            )
            if not page or page[0].sequence != sequence + 1:
                # Verification names the gap; a chain over it would hide it.
                return sequence - head.sequence
            links = []
            for entry in page:
                digest = link(self._key, digest, head.account_id, entry)
                links.append((entry.sequence, digest))
            await self._store.add(head.account_id, links)
            sequence = page[-1].sequence
        return sequence - head.sequence

    async def broken(self, account_ids: Sequence[str]) -> list[Violation]:
        """Return, of each account whose chain is broken, the first entry that breaks it."""
        found = [await self._first_broken(account_id) for account_id in account_ids]
        return [violation for violation in found if violation is not None]

    async def _first_broken(self, account_id: str) -> Violation | None:
        last = await self._store.head_sequence(account_id)
        sequence, digest = 0, CHAIN_START
        while sequence < last:
            page = await self._store.chained(account_id, after=sequence, limit=PAGE_ENTRIES)
            for chained in page:
                sequence += 1
                why = ""
                if chained.sequence != sequence:
                    why = f"the link of entry {sequence} is gone"
                elif chained.entry is None:
                    why = f"entry {sequence} is gone"
                else:
                    digest = link(self._key, digest, account_id, chained.entry)
                    if not hmac.compare_digest(digest, chained.digest):
                        why = f"entry {sequence} is not what was written"
                if why:
                    return Violation(account_id, "entries_are_chained", why)
            if not page:
                return Violation(account_id, "entries_are_chained", "links are gone at the end")
        return None
