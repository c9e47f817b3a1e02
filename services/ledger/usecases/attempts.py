# SPDX-License-Identifier: Apache-2.0
"""
Run Authorize, Renew, Capture and Release, one or many at a time.

Commands on accounts of one bucket are one unit of work, in the order given; each fails alone. If
the database refuses a unit of many, each of them is run by itself, so that only the culprit fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from services.ledger.domain.accounts import bucket_of
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
from services.ledger.usecases.ports import LedgerStore, UnitRefusedError, Wanted
from services.ledger.usecases.settle import renew, settle
from services.shared.boundary import current_call
from services.shared.errors import DeadlineTooShortError, InternalError, ServiceError
from services.shared.logging import get_logger

UNITS_AT_ONCE_MAX = 8
"""Units of one batch that run at the same time; the rest wait."""

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
    """

    def __init__(self, *, store: LedgerStore, plans: PlanBook, lease: timedelta) -> None:
        self.lease = lease
        self._store = store
        self._plans = plans

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
        groups: dict[tuple[int, bool], list[int]] = {}
        for index, command in enumerate(commands):
            dry = isinstance(command, AuthorizeCommand) and command.dry_run
            groups.setdefault((bucket_of(command.account_id), dry), []).append(index)
        outcomes: dict[int, Outcome | ServiceError] = {}
        slots = asyncio.Semaphore(UNITS_AT_ONCE_MAX)

        async def run(indexes: list[int], *, dry: bool) -> None:
            async with slots:
                results = await self._group([commands[i] for i in indexes], dry=dry)
            outcomes.update(zip(indexes, results, strict=True))

        async with asyncio.TaskGroup() as group:
            for (_, dry), indexes in groups.items():
                group.create_task(run(indexes, dry=dry))
        return [outcomes[index] for index in range(len(commands))]

    async def _group(
        self, commands: list[AttemptCommand], *, dry: bool
    ) -> list[Outcome | ServiceError]:
        try:
            return await self._unit(commands, dry=dry)
        except ServiceError as fault:
            return [fault] * len(commands)
        except UnitRefusedError:
            if len(commands) > 1:
                alone = [await self._group([command], dry=dry) for command in commands]
                return [outcome for (outcome,) in alone]
            log.exception("unit_refused")
            return [InternalError("the ledger could not write this; nothing was changed")]

    async def _unit(
        self, commands: list[AttemptCommand], *, dry: bool
    ) -> list[Outcome | ServiceError]:
        wanted = [
            Wanted(command.account_id, request_id=command.request_id, claimant=command.claimant)
            for command in commands
        ]
        run: Callable[..., list[Outcome | ServiceError]] = lambda files: [  # noqa: E731
            self._apply(files, command) for command in commands
        ]
        return await (self._store.peek if dry else self._store.change)(wanted, run)

    def _apply(self, files: Files, command: AttemptCommand) -> Outcome | ServiceError:
        try:
            require_time()
            file = files.get(command.account_id)
            if file is None:
                raise AccountNotFoundError(command.account_id)
            file.book.retire_due()
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


def require_time() -> None:
    """
    Drop what is past its deadline before it changes anything.

    Raises:
        DeadlineTooShortError: If the caller's deadline has passed.
    """
    call = current_call()
    if call is not None and call.time_remaining() <= 0:
        message = "the deadline passed while the account was busy; nothing was changed, try again"
        raise DeadlineTooShortError(message)
