# SPDX-License-Identifier: Apache-2.0
"""
Run Authorize, Renew, Capture and Release, one or many at a time.

Commands are run by lanes, a batch in one unit of work, in the order they came; each fails alone. If
the database refuses a batch, it is halved until only the culprit fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

from services.ledger.domain.files import AccountFile
from services.ledger.domain.plans import PlanBook
from services.ledger.domain.requests import Authorization, Request
from services.ledger.errors import AccountNotFoundError
from services.ledger.usecases.authorize import Granted, Recorded, authorize
from services.ledger.usecases.commands import (
    AttemptCommand,
    AuthorizeCommand,
    RenewCommand,
    SettleCommand,
)
from services.ledger.usecases.due import bring_up_to_date
from services.ledger.usecases.lanes import LaneLimits, LaneMeter, Lanes, Queued
from services.ledger.usecases.ports import LedgerStore, Wanted
from services.ledger.usecases.settle import renew, settle
from services.shared.boundary import current_call
from services.shared.errors import InternalError, ServiceError
from services.shared.logging import get_logger

DRY_RUNS_AT_ONCE_MAX = 2
"""Dry runs that hold a connection at the same time; the rest wait."""

log = get_logger()

Settled = tuple[Authorization, Request]
Outcome = Granted | Recorded | Settled
Files = Mapping[str, AccountFile]


class Attempts:
    """
    Runs commands on attempts.

    Args:
        store: Keeps the ledger.
        plans: The plans.
        lease: How long a claim lasts unless renewed.
        limits: How batches are made.
        meter: Counts them; None for nobody.
    """

    def __init__(
        self,
        *,
        store: LedgerStore,
        plans: PlanBook,
        lease: timedelta,
        limits: LaneLimits = LaneLimits(),  # noqa: B008 - a frozen value
        meter: LaneMeter | None = None,
    ) -> None:
        self.lease = lease
        self._store = store
        self._plans = plans
        self._lanes: Lanes[Outcome] = Lanes(self._batch, limits, meter=meter)
        self._dry_slots = asyncio.Semaphore(DRY_RUNS_AT_ONCE_MAX)

    async def one(self, command: AttemptCommand) -> Outcome:
        """
        Run one command.

        Raises:
            ServiceError: Why it failed.
        """
        (outcome,) = await self.each([command])
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    async def each(self, commands: Sequence[AttemptCommand]) -> list[Outcome | ServiceError]:
        """Run commands and return what came of each, in order."""
        wet = [command for command in commands if not _is_dry(command)]
        if len(wet) == len(commands):
            return await self._lanes.each(commands)
        dry = [command for command in commands if _is_dry(command)]
        ran, tried = await asyncio.gather(self._lanes.each(wet), self._try(dry))
        ran_outcomes, tried_outcomes = iter(ran), iter(tried)
        return [
            next(tried_outcomes) if _is_dry(command) else next(ran_outcomes) for command in commands
        ]

    async def _try(self, commands: list[AttemptCommand]) -> list[Outcome | ServiceError]:
        """Run dry runs, each on its own snapshot, without a lock or a place in a lane."""
        call = current_call()
        outcomes: list[Outcome | ServiceError] = []
        for command in commands:
            async with self._dry_slots:
                outcomes += await self._batch([Queued(command, call)], dry=True)
        return outcomes

    async def _batch(
        self, batch: Sequence[Queued], *, dry: bool = False
    ) -> list[Outcome | ServiceError]:
        """Run a batch; halve it while it fails as a whole for a reason of its own."""
        try:
            return await self._unit(batch, dry=dry)
        except ServiceError as fault:
            return [fault] * len(batch)
        except Exception:
            # The root of a lane: the database refused what was written, or a rule has a bug.
            if len(batch) > 1:
                half = len(batch) // 2
                return [*await self._batch(batch[:half]), *await self._batch(batch[half:])]
            log.exception("unit_refused", request_id=batch[0].command.request_id)
            return [InternalError("the ledger could not write this; nothing was changed")]

    async def _unit(self, batch: Sequence[Queued], *, dry: bool) -> list[Outcome | ServiceError]:
        wanted = [_wanted(queued.command) for queued in batch]

        def run(files: Files) -> list[Outcome | ServiceError]:
            # Within a unit time stands still: what is due is done once for each account.
            for file in files.values():
                bring_up_to_date(file, self._plans)
            return [self._apply(files, queued) for queued in batch]

        return await (self._store.peek if dry else self._store.change)(wanted, run)

    def _apply(self, files: Files, queued: Queued) -> Outcome | ServiceError:
        command = queued.command
        account_id, request_id = command.account_id, command.request_id
        try:
            queued.require_time()
            file = files.get(account_id)
            if file is None:
                raise AccountNotFoundError(account_id)
            match command:
                case AuthorizeCommand():
                    return authorize(file, command, plans=self._plans, lease=self.lease)
                case RenewCommand():
                    attempt = renew(file, command, lease=self.lease)
                case SettleCommand():
                    attempt = settle(file, command)
            return attempt, file.requests[request_id]
        except ServiceError as fault:
            return fault


def _is_dry(command: AttemptCommand) -> bool:
    return isinstance(command, AuthorizeCommand) and command.dry_run


def _wanted(command: AttemptCommand) -> Wanted:
    account_id, request_id, claimant = command[:3]
    if not isinstance(command, AuthorizeCommand):
        return Wanted(account_id, request_id, claimant)
    own_key = command.own_key
    return Wanted(
        account_id, request_id, claimant, refusals=True, key=own_key.key if own_key else ""
    )
