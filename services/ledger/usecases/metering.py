# SPDX-License-Identifier: Apache-2.0
"""
What people on call watch: what the house absorbs, which holds lapse, how many are open, and
whether a commit waits for a second server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.ledger.domain.entries import SubLedger
from services.ledger.domain.files import AccountFile
from services.ledger.domain.modes import Funding
from services.ledger.domain.requests import AuthorizationState
from services.ledger.usecases.ports import LapsedRun, LedgerStore, Wanted
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.logging import get_logger

WATCH_SECONDS = 15.0
"""Time between two looks at the database."""

T = TypeVar("T")

log = get_logger()


class Meter(Protocol):
    """Counts for people on call."""

    def absorbed(self, nano_credits: int) -> None:
        """Count what the house bears of work that was done."""
        ...

    def absorbed_back(self, nano_credits: int) -> None:
        """Count what a correction took off that again."""
        ...

    def lapsed(self, count: int) -> None:
        """Count holds whose lease ran out."""
        ...

    def settled(self, funding: Funding, attempts: int, nano_credits: int) -> None:
        """Count attempts that were settled, by who paid, and what they were charged at first."""
        ...

    def condition(self, condition: Condition) -> None:
        """Show how the database stands."""
        ...


@dataclass(frozen=True, slots=True)
class Condition:
    """
    How the database stands.

    Args:
        open_holds: Attempts that are authorized and not settled.
        synchronous_standby: Whether a commit waits for a standby: one that the server names.
    """

    open_holds: int
    synchronous_standby: bool


class ConditionReader(Protocol):
    """Reads how the database stands. Every failure to reach it is a StoreUnavailableError."""

    async def read(self) -> Condition:
        """Return how it stands."""
        ...


class MeteredStore:
    """
    Implements LedgerStore on another one, and counts what was written by it.

    What was written by a unit whose COMMIT was lost is in the books and not in the counts.

    Args:
        store: Keeps the ledger.
        meter: Counts.
    """

    def __init__(self, store: LedgerStore, meter: Meter) -> None:
        self._store = store
        self._meter = meter

    async def change(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run one unit of work and count what it wrote; see LedgerStore."""
        written: Mapping[str, AccountFile] = {}

        def noted(files: Mapping[str, AccountFile]) -> T:
            nonlocal written
            written = files
            return work(files)

        result = await self._store.change(wanted, noted)
        self._count_settled(written.values())
        for file in written.values():
            self._count(file)
        return result

    async def peek(
        self, wanted: Sequence[Wanted], work: Callable[[Mapping[str, AccountFile]], T]
    ) -> T:
        """Run a unit of work that is not written back; see LedgerStore."""
        return await self._store.peek(wanted, work)

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Return lapsed runs; see LedgerStore."""
        return await self._store.lapsed_runs(limit)

    def _count_settled(self, files: Iterable[AccountFile]) -> None:
        """Count first settlements; late captures and refunds correct them, and are left out."""
        found = [
            (attempt.funding, settlement.charge.customer)
            for file in files
            for attempt, number, settlement in file.changes.settlements
            if number == 1
        ]
        for funding in Funding:
            charged = [amount for paid_by, amount in found if paid_by is funding]
            if charged:
                self._meter.settled(funding, len(charged), sum(charged))

    def _count(self, file: AccountFile) -> None:
        for entry in file.book.entries:
            if entry.debit is SubLedger.ABSORBED:
                self._meter.absorbed(entry.amount)
            elif entry.credit is SubLedger.ABSORBED:
                self._meter.absorbed_back(entry.amount)
        settled = (settlement.state for _, _, settlement in file.changes.settlements)
        lapsed = sum(state is AuthorizationState.LAPSED for state in settled)
        if lapsed:
            self._meter.lapsed(lapsed)


class Watch:
    """
    Looks at the database again and again, shows how it stands, and warns when it changes.

    Args:
        reader: Reads how it stands.
        meter: Shows it.
        clock: Time between two looks.
    """

    def __init__(self, *, reader: ConditionReader, meter: Meter, clock: Clock) -> None:
        self._reader = reader
        self._meter = meter
        self._clock = clock
        self._synchronous = True

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except ServiceError as fault:
                log.warning("database_not_looked_at", error=fault.message)
            except Exception:
                # The root of a task: without it the gauges would stand still for good.
                log.exception("database_not_looked_at_unexpectedly")
            await self._clock.sleep(WATCH_SECONDS)

    async def look(self) -> None:
        """Look once."""
        condition = await self._reader.read()
        self._meter.condition(condition)
        if self._synchronous and not condition.synchronous_standby:
            log.warning(
                "no_synchronous_standby",
                advice="commits wait for one server only: a lost disk loses credits; name a "
                "standby in synchronous_standby_names and keep synchronous_commit on",
            )
        elif condition.synchronous_standby and not self._synchronous:
            log.info("synchronous_standby_named")
        self._synchronous = condition.synchronous_standby
