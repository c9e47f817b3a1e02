# SPDX-License-Identifier: Apache-2.0
"""What calls found out about a key, told to keyvault: a burst that finds the same, in few words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc.aio
import pytest
from ownkey.keyvault.v1 import resolution_pb2 as pb

from services.router.adapters.keyvault_client import GrpcKeys
from services.router.domain.outcomes import Outcome
from tests.support.clock import ManualClock
from tests.support.routing import own_key

KEY = own_key("openai", "main")
BURST = 50

pytestmark = pytest.mark.requirement("K14")


class Keyvault:
    """A channel to a keyvault that keeps reports, and answers each once it is let."""

    def __init__(self) -> None:
        self.reports: list[pb.ReportKeyHealthRequest] = []
        self._told = asyncio.Event()
        self._may_answer = asyncio.Semaphore(0)

    def unary_unary(self, method: str, *_: object, **__: object) -> Callable[..., Any]:
        """Give the call of a method; only reports are asked for."""
        del method
        return self._report

    unary_stream = stream_stream = unary_unary

    async def _report(
        self, request: pb.ReportKeyHealthRequest, **_: object
    ) -> pb.ReportKeyHealthResponse:
        self.reports.append(request)
        self._told.set()
        await self._may_answer.acquire()
        return pb.ReportKeyHealthResponse(applied=True)

    def answer(self) -> None:
        """Answer one report."""
        self._may_answer.release()

    async def told(self) -> None:
        """Wait for the next report."""
        await self._told.wait()
        self._told.clear()

    def hints(self) -> list[float]:
        """Give for how many seconds each report says to wait."""
        return [report.retry_after.ToTimedelta().total_seconds() for report in self.reports]


@asynccontextmanager
async def reporting() -> AsyncIterator[tuple[GrpcKeys, Keyvault]]:
    """Yield keyvault's client and what it calls."""
    keyvault = Keyvault()
    channel = cast("grpc.aio.Channel", keyvault)
    keys = GrpcKeys(channel, token=None, clock=ManualClock())
    yield keys, keyvault
    await keys.close()


def limited(keys: GrpcKeys, hint: float | None, *, model: str = "m") -> None:
    """Report a 429."""
    keys.report(KEY, Outcome.RATE_LIMITED, model=model, retry_after_seconds=hint)


async def turns() -> None:
    """Let everything run that waits for nothing."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_burst_is_one_report_and_one_more_for_the_longest_hint() -> None:
    async with reporting() as (keys, keyvault):
        for hint in range(1, BURST + 1):
            limited(keys, float(hint))
        limited(keys, 7.0)
        await keyvault.told()
        limited(keys, 2.0)
        keyvault.answer()
        await keyvault.told()
        keyvault.answer()
        await turns()
        assert keyvault.hints() == [1.0, float(BURST)]


async def test_a_burst_without_a_longer_hint_is_one_report() -> None:
    async with reporting() as (keys, keyvault):
        for hint in (9.0, None, *[3.0] * BURST, 9.0):
            limited(keys, hint)
        await keyvault.told()
        keyvault.answer()
        await turns()
        assert keyvault.hints() == [9.0]


async def test_what_is_found_once_keyvault_was_told_is_told_again() -> None:
    async with reporting() as (keys, keyvault):
        for _ in range(2):
            limited(keys, 3.0)
            await keyvault.told()
            keyvault.answer()
            await turns()
        assert keyvault.hints() == [3.0, 3.0]


async def test_another_model_or_outcome_is_another_finding() -> None:
    async with reporting() as (keys, keyvault):
        for _ in range(BURST):
            limited(keys, 3.0)
            limited(keys, 3.0, model="n")
            keys.report(KEY, None, model="m")
        await turns()
        told = {(report.model, report.outcome) for report in keyvault.reports}
        assert (len(told), len(keyvault.reports)) == (3, 3)
