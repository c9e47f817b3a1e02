# SPDX-License-Identifier: Apache-2.0
"""
Chaining the audit trail behind the writes, and verifying it (K13).

Rules:
1. Writers never wait for a chain: one replica at a time chains what was written since, in bounded
   batches.
2. A chain whose end does not agree with its signed head is not continued, so that nothing new hides
   what was done to it; the other accounts' chains go on.
3. Signed heads go to the log, each account's newest now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.keyvault.domain.audit_chain import (
    ChainCheck,
    ChainEnd,
    ChainFault,
    Head,
    WrittenEvent,
    extend_chain,
    parse_head,
)
from services.keyvault.usecases.ports import AuditChains, ChainExtension, ChainRound
from services.shared.clock import Clock
from services.shared.errors import InvalidArgumentError, ServiceError
from services.shared.logging import get_logger
from services.shared.secret import Secret

BATCH_MAX = 1_000
INTERVAL_SECONDS = 1.0
HEADS_LOGGED_SECONDS = 60.0
HEADS_WAITING_MAX = 10_000
REFUSED_MAX = 1_000

log = get_logger()


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """
    What a verification found.

    Args:
        checked: Entries that were checked and fit.
        fault: The first that does not; None if all do.
        head: The chain's signed head as it is stored; None if there is none.
        waiting: Entries that are not chained.
    """

    checked: int
    fault: ChainFault | None
    head: Head | None
    waiting: int


class AuditChainer:
    """
    Chains what is written, in the background.

    Args:
        chains: Where they are.
        key: The audit key.
        clock: Time.
    """

    def __init__(self, chains: AuditChains, *, key: Secret, clock: Clock) -> None:
        self._chains = chains
        self._key = key
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._unlogged: dict[str, Head] = {}
        self._log_at = clock.monotonic() + HEADS_LOGGED_SECONDS
        self._refused: set[str] = set()

    def broken(self) -> int:
        """Return how many accounts' chains were found not to agree with their signed heads."""
        return len(self._refused)

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End; the newest heads go to the log."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._log_heads()

    async def catch_up(self) -> None:
        """
        Chain what waits, unless another replica is at it.

        Raises:
            StoreUnavailableError: If the database is away; what was chained stays so.
        """
        while True:
            done = await self._chains.extend(self._link, limit=BATCH_MAX, skipping=self._refused)
            if done is None:
                return
            self._take(done)
            if done.seen < BATCH_MAX:
                return

    async def catch_up_one(self, account: str) -> None:
        """
        Chain what waits of one account.

        Raises:
            StoreUnavailableError: If the database is away.
        """
        while True:
            done = await self._chains.extend_one(account, self._link, limit=BATCH_MAX)
            self._take(done)
            if done.seen < BATCH_MAX or done.refused:
                return

    def _link(self, end: ChainEnd, events: Sequence[WrittenEvent]) -> ChainExtension | None:
        if not end.fits(self._key):
            return None
        links, head = extend_chain(self._key, end.head, events)
        return ChainExtension(links, head)

    def _take(self, done: ChainRound) -> None:
        for account in done.refused:
            log.error("audit_chain_broken", account=account, advice="run VerifyAudit")
        if len(self._refused) < REFUSED_MAX:
            self._refused.update(done.refused)
        self._unlogged.update({head.account: head for head in done.heads})
        now = self._clock.monotonic()
        if now >= self._log_at or len(self._unlogged) >= HEADS_WAITING_MAX:
            self._log_heads()
            self._log_at = now + HEADS_LOGGED_SECONDS

    def _log_heads(self) -> None:
        for account, head in self._unlogged.items():
            log.info("audit_head", account=account, head=str(head))
        self._unlogged.clear()

    async def _run(self) -> None:
        while True:
            try:
                await self.catch_up()
            except ServiceError as fault:
                # The next round does it.
                log.warning("audit_chaining_failed", error=type(fault).__name__)
            await self._clock.sleep(INTERVAL_SECONDS)


class VerifyAudit:
    """
    Verifies an account's chain.

    Args:
        chains: Where it is.
        chainer: Chains what waits first.
        key: The audit key.
    """

    def __init__(self, chains: AuditChains, *, chainer: AuditChainer, key: Secret) -> None:
        self._chains = chains
        self._chainer = chainer
        self._key = key

    async def __call__(self, account: str, *, known_head: str) -> AuditVerdict:
        """
        Check every entry of an account.

        Args:
            account: Account id.
            known_head: A head that was kept elsewhere; "" for none.

        Raises:
            InvalidArgumentError: If the known head is not genuine.
            StoreUnavailableError: If the database is away.
        """
        known = parse_head(account, known_head) if known_head else None
        if known_head and (known is None or not known.is_genuine(self._key)):
            advice = "must be a head of this account, as the log or an earlier answer showed it"
            raise InvalidArgumentError.of("known_head", advice)
        await self._chainer.catch_up_one(account)
        check = ChainCheck(self._key, known=known)
        head, waiting = await self._chains.walk(account, check.add)
        check.finish(head)
        return AuditVerdict(check.checked, check.fault, head, waiting)
