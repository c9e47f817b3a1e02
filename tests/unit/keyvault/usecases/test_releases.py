# SPDX-License-Identifier: Apache-2.0
"""Releases on record before the secret leaves: shared commits, and failures that reach everyone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.keyvault.domain.audit import AuditAction, AuditEntry, AuditEvent
from services.keyvault.usecases.releases import Releases
from services.shared.errors import StoreUnavailableError

pytestmark = pytest.mark.requirement("K13")

CALLERS = 500
COMMITS_MAX = 2
"""Those that came at once, and those that came while the first were written."""


class Trail:
    """
    An audit trail that is durable when a test says so.

    Args:
        fault: What a commit fails with.
    """

    def __init__(self, fault: Exception | None = None) -> None:
        self.batches: list[list[AuditEntry]] = []
        self.writing = asyncio.Event()
        self.durable = asyncio.Event()
        self._fault = fault

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Write a batch."""
        self.batches.append(list(entries))
        self.writing.set()
        await self.durable.wait()
        if self._fault is not None:
            raise self._fault

    async def page(self, account: str, *, before: int | None, limit: int) -> list[AuditEvent]:
        """Read nothing."""
        return []


def entry(number: int) -> AuditEntry:
    return AuditEntry(f"account-{number}", "router", AuditAction.RELEASE, "main", 1)


def calls(releases: Releases, numbers: range) -> list[asyncio.Task[None]]:
    """Begin a call for each number."""
    return [asyncio.create_task(releases.record([entry(number)])) for number in numbers]


async def test_a_burst_shares_few_commits_and_nobody_is_answered_before_their_own() -> None:
    trail = Trail()
    releases = Releases(trail)
    waiting = calls(releases, range(1))
    await trail.writing.wait()
    waiting += calls(releases, range(1, CALLERS))
    await asyncio.sleep(0)
    assert not any(call.done() for call in waiting)

    trail.durable.set()
    await asyncio.gather(*waiting)
    assert [item for batch in trail.batches for item in batch] == [
        entry(number) for number in range(CALLERS)
    ]
    assert len(trail.batches) <= COMMITS_MAX


async def test_what_is_not_on_record_fails_everyone_whose_release_it_was() -> None:
    trail = Trail(StoreUnavailableError("away"))
    trail.durable.set()
    ends = await asyncio.gather(*calls(Releases(trail), range(3)), return_exceptions=True)
    assert {type(end) for end in ends} == {StoreUnavailableError}


async def test_one_who_went_away_gets_no_secret_and_no_record() -> None:
    trail = Trail()
    releases = Releases(trail)
    first = calls(releases, range(1))
    await trail.writing.wait()
    gone, stays = calls(releases, range(1, 3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    trail.durable.set()
    await asyncio.gather(*first, stays)
    assert trail.batches == [[entry(0)], [entry(2)]]
