# SPDX-License-Identifier: Apache-2.0
"""A ledger's store in memory, for tests of use cases; `tests/contract` holds it to its port."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from services.ledger.domain.accounts import Account
from services.ledger.domain.book import Book
from services.ledger.domain.files import AccountFile, Changes
from services.ledger.domain.requests import RequestState
from services.ledger.usecases.ports import LapsedRun, Wanted
from services.shared.clock import Clock
from tests.support.ledger_accounts import new_account

T = TypeVar("T")


class InMemoryLedgerStore:
    """
    Implements LedgerStore: units run one after another on copies that are kept if they succeed.

    As on a database, a unit that has begun ends whether or not its caller still waits.

    Args:
        clock: The store's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._files: dict[str, AccountFile] = {}
        self._lock = asyncio.Lock()
        self._units: set[asyncio.Task[object]] = set()

    async def change(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run one unit of work; see LedgerStore."""
        unit = asyncio.ensure_future(self._unit(wanted, work))
        self._units.add(unit)
        unit.add_done_callback(self._units.discard)
        return await asyncio.shield(unit)

    async def peek(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run a unit of work on copies that are dropped; see LedgerStore."""
        await asyncio.sleep(0)
        return work(self._opened(wanted))

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Return lapsed runs; see LedgerStore."""
        now = self._clock.now()
        found = [
            LapsedRun(account_id, request.request_id)
            for account_id, file in self._files.items()
            for request in file.requests.values()
            if request.state is RequestState.RUNNING and request.lease_expire_time <= now
        ]
        return found[:limit]

    async def quiet(self) -> None:
        """Wait until no unit runs any more."""
        while self._units:
            await asyncio.wait(self._units)

    async def _unit(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        async with self._lock:
            await asyncio.sleep(0)
            files = self._opened(wanted)
            result = work(files)
            await asyncio.sleep(0)
            self._files |= files
            return result

    def _opened(self, wanted: Sequence[Wanted]) -> dict[str, AccountFile]:
        files = {}
        for one in wanted:
            known = self._files.get(one.account_id)
            if known is not None:
                files[one.account_id] = self._copy(known)
            elif one.create:
                files[one.account_id] = self._new(one.account_id)
        for one in wanted:
            if one.open_holds and one.account_id in files:
                files[one.account_id].open_holds = _open_holds(files[one.account_id])
        return files

    def _copy(self, known: AccountFile) -> AccountFile:
        file = copy.deepcopy(known)
        file.clock = self._clock.now()
        file.account.last_time = max(file.account.last_time, file.clock)
        file.book = Book(file.account, file.book.grants, file.account.last_time)
        file.changes, file.created, file.open_holds = Changes(), False, []
        return file

    def _new(self, account_id: str) -> AccountFile:
        account: Account = new_account(now=self._clock.now())
        account.account_id = account_id
        return AccountFile(
            account, Book(account, {}, account.last_time), account.last_time, created=True
        )


def _open_holds(file: AccountFile) -> list[tuple[str, int]]:
    return [
        (attempt.authorization_id, attempt.held)
        for attempt in file.attempts.values()
        if attempt.settlement is None
    ]
