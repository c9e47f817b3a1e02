# SPDX-License-Identifier: Apache-2.0
"""
Generates text: plan, authorize, attempt, decide, settle.

One engine for whole answers and streams. The work runs in a task of its own; the caller reads its
events. A caller that leaves does not stop the settlement: at a provider that stops billing the call
is cancelled, at one that does not it is drained, with a cap, and either way settled.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from services.router.domain.operation import Operation
from services.router.domain.request import Request
from services.router.usecases.engine import Engine, Event
from services.router.usecases.outbox import Outbox
from services.router.usecases.run import Run


class GenerateText:
    """
    The use case.

    Args:
        engine: What every run works with.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, request: Request, *, deadline: float) -> AsyncGenerator[Event, None]:
        """
        Generate; yields one `Started`, deltas, then exactly one `Ended`, or raises.

        Args:
            request: The checked request.
            deadline: Monotonic seconds.

        Raises:
            ServiceError: Nothing was served, or the answer broke off.
        """
        # An answer in one piece is made of few events, which nobody reads before the last.
        in_one_piece = request.input.operation is Operation.TEXT and not request.stream
        outbox: Outbox[Event] = Outbox(whole=in_one_piece)
        run = Run(self._engine, request, deadline=deadline, outbox=outbox)
        task = self._engine.work.start(run.execute())
        try:
            async for event in outbox:
                yield event
        finally:
            outbox.leave()
            if not task.done():
                run.leave()
