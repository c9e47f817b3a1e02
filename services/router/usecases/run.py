# SPDX-License-Identifier: Apache-2.0
"""
One run of one request: its walk, then its end, told to caller and ledger alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.usecases import replay
from services.router.usecases.engine import Ended, Started
from services.router.usecases.ports import Recorded
from services.router.usecases.walk import Walk
from services.shared.errors import ServiceError

if TYPE_CHECKING:
    from services.router.domain.plan import Candidate
    from services.router.domain.request import Request
    from services.router.usecases.engine import Engine, Event
    from services.router.usecases.granted import Service
    from services.router.usecases.outbox import Outbox


class Run:
    """
    One run.

    Args:
        engine: What every run works with.
        request: The checked request.
        deadline: Monotonic seconds.
        outbox: Takes the events.
    """

    def __init__(
        self, engine: Engine, request: Request, *, deadline: float, outbox: Outbox[Event]
    ) -> None:
        self._request = request
        self._outbox = outbox
        self._walk = Walk(engine, request, deadline=deadline, outbox=outbox)

    async def execute(self) -> None:
        """
        Run to the end; the outbox is closed whatever happens.
        """
        try:
            result = await self._walk()
            if isinstance(result, Recorded):
                await self._replay(result)
            else:
                await self._end(result)
        except ServiceError as error:
            await self._walk.books.end_failed(error)
            self._outbox.close(error)
        except BaseException as fault:
            self._outbox.close(fault)
            if not isinstance(fault, Exception):
                raise
        else:
            self._outbox.close()

    def leave(self) -> None:
        """
        Say that the caller has left.
        """
        self._walk.leave()

    async def _end(self, service: Service) -> None:
        """
        Settle the attempt that served, and tell the caller what it came to.
        """
        books = self._walk.books
        receipt = books.served(
            service.candidate,
            service.grant,
            service.delivered,
            service.served,
            seconds=service.seconds,
            notes=[*self._walk.notes, *_dropped(service.candidate), *service.notes],
        )
        settled = await books.end_served(receipt, heard=not self._walk.left)
        await self._outbox.put(Ended(settled, self._walk.resealed))

    async def _replay(self, recorded: Recorded) -> None:
        """
        Answer a repeat of a request that had ended.
        """
        receipt = replay.replayed(recorded, self._request.request_id)
        served = receipt.served
        started = Started(
            payer=served.funding,
            provider=served.provider,
            model=served.model,
            key_hint=served.key_hint,
            fallback=served.fallback,
            attempts=receipt.attempts[:-1],
        )
        await self._outbox.put(started)
        await self._outbox.put(Ended(receipt))


def _dropped(candidate: Candidate) -> list[str]:
    offer = candidate.offer
    return [
        f"{field} was dropped: {offer.provider} does not take it for {offer.model}"
        for field in candidate.dropped
    ]
