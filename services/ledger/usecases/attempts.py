# SPDX-License-Identifier: Apache-2.0
"""
Run Authorize, Renew, Capture and Release, one or many at a time.

Commands are run by lanes, a batch in one unit of work, in the order they came; each fails alone. If
the database refuses a batch, it is halved until only the culprit fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
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
        wanted = [
            Wanted(
                queued.command.account_id,
                request_id=queued.command.request_id,
                claimant=queued.command.claimant,
                refusals=isinstance(queued.command, AuthorizeCommand),
                key=_own_key(queued.command),
            )
            for queued in batch
        ]
        run: Callable[..., list[Outcome | ServiceError]] = lambda files: [  # noqa: E731
            self._apply(files, queued) for queued in batch
        ]
        return await (self._store.peek if dry else self._store.change)(wanted, run)

    def _apply(self, files: Files, queued: Queued) -> Outcome | ServiceError:
        command = queued.command
        try:
            queued.require_time()
            file = files.get(command.account_id)
            if file is None:
                raise AccountNotFoundError(command.account_id)
            bring_up_to_date(file, self._plans)
            match command:
                case AuthorizeCommand():
                    return authorize(file, command, plans=self._plans, lease=self.lease)
                case RenewCommand():
                    attempt = renew(file, command, lease=self.lease)
                case SettleCommand():
                    attempt = settle(file, command)
            return attempt, file.requests[command.request_id]
        except ServiceError as fault:
            return fault


def _is_dry(command: AttemptCommand) -> bool:
    return isinstance(command, AuthorizeCommand) and command.dry_run


def _own_key(command: AttemptCommand) -> str:
    """Return the own key that a command would use, empty for none."""
    if isinstance(command, AuthorizeCommand) and command.own_key is not None:
        return command.own_key.key
    return ""
