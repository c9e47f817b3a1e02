# SPDX-License-Identifier: Apache-2.0
"""
An operation given up at each point where it waits, in the caller's task or in one that it started:
what is committed always opens, and the same request sent again brings the operation to its end.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from ownkey.router.v1 import router_service_pb2_grpc

import services
from services.keyvault.bootstrap import keyvault
from services.keyvault.config import read_config
from services.shared.errors import ServiceError
from tests.integration.keyvault import test_crash_points as crash
from tests.support.clock import RestingClock
from tests.support.keyvault import OPENAI_KEY, FakeRouter, RunningKeyvault, write_environ

pytestmark = pytest.mark.requirement("K7", "K9", "K12")

AWAITS_MAX = 300
"""More than any operation here waits."""
OURS = str(Path(services.__path__[0]).parent)
"""Where the code stands whose waits are counted, these tests included."""


class Servicer:
    """Keyvault's methods as callables, each in the task of whoever calls it: no server between."""

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Take the handlers by name alone."""

    def add_registered_method_handlers(self, _service: str, handlers: dict[str, Any]) -> None:
        """Offer each method under its name."""
        for name, handler in handlers.items():
            setattr(self, name, _method(handler.unary_unary or handler.unary_stream))


def _method(serve: Callable[[Any, Any], Any] | None) -> Any:
    def call(request: Any, **_: Any) -> Any:
        assert serve is not None, "the method takes no stream"
        return serve(request, None)

    return call


@pytest.fixture
async def direct(tmp_path: Path, keyvault_dsn: str) -> AsyncIterator[RunningKeyvault]:
    """A keyvault that is called in the test's own tasks."""
    router = FakeRouter()
    peer = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    router_service_pb2_grpc.add_RouterServiceServicer_to_server(router, peer)
    port = peer.add_insecure_port("127.0.0.1:0")
    await peer.start()
    environ = write_environ(tmp_path, keyvault_dsn, router_port=port)
    try:
        async with keyvault(read_config(environ), clock=RestingClock()) as spec:
            servicer: Any = Servicer()
            spec.register(servicer)
            yield RunningKeyvault(servicer, router, keyvault_dsn, environ)
    finally:
        await peer.stop(None)


class Waits:
    """
    Counts where an operation waits, in its own task and in those it starts, and gives up the task
    that is the n-th to wait.

    Args:
        number: The n-th, from 1.
    """

    def __init__(self, number: int) -> None:
        self.reached = False
        self._number = number
        self._count = 0

    def task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **settings: Any
    ) -> asyncio.Task[Any]:
        """Make a task, as an event loop's task factory does; gRPC's own are left alone."""
        code = getattr(work, "cr_code", None)
        ours = code is not None and OURS in code.co_filename
        return asyncio.Task(self._counted(work) if ours else work, loop=loop, **settings)

    async def _counted(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await self._passing(work)

    @types.coroutine
    def _passing(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        fault, value = None, None
        while True:
            try:
                waited_for = work.throw(fault) if fault is not None else work.send(value)
            except StopIteration as end:
                return end.value
            self._count += 1
            task = asyncio.current_task()
            assert task is not None, "it runs in a task"
            if self._count == self._number:
                self.reached = True
                task.get_loop().call_soon(task.cancel)
            fault, value = None, None
            try:
                value = yield waited_for
            except BaseException as caught:  # noqa: BLE001 - passed on to the coroutine
                fault = caught


async def given_up_at(number: int, work: crash.Work) -> bool:
    """Do some work that is given up at the n-th wait; tell whether there is one."""
    loop, waits = asyncio.get_running_loop(), Waits(number)

    async def whole() -> None:
        await work()

    loop.set_task_factory(waits.task)
    try:
        [end] = await asyncio.gather(waits.task(loop, whole()), return_exceptions=True)
    finally:
        loop.set_task_factory(None)
    expected = (asyncio.CancelledError, ServiceError)
    assert end is None or (waits.reached and isinstance(end, expected)), repr(end)
    return waits.reached


async def secrets(direct: RunningKeyvault, account: str) -> list[str]:
    """Return an account's secrets; a key that does not open has none."""
    [found] = (await direct.resolve(account)).accounts
    return [item.secret for item in found.keys]


@pytest.mark.parametrize(
    ("begin", "before", "after"),
    [
        (crash.creating, [], [OPENAI_KEY]),
        (crash.replacing, [OPENAI_KEY], [crash.NEW_KEY]),
        (crash.deleting, [OPENAI_KEY], []),
        (crash.rewrapping, [OPENAI_KEY], [OPENAI_KEY]),
        (crash.reencrypting, [OPENAI_KEY], [OPENAI_KEY]),
    ],
)
async def test_wherever_it_is_given_up_what_is_committed_opens_and_a_repeat_ends_it(
    direct: RunningKeyvault,
    begin: Callable[[RunningKeyvault, str], Awaitable[crash.Work]],
    before: list[str],
    after: list[str],
) -> None:
    accounts: list[str] = []
    for number in range(1, AWAITS_MAX):
        accounts.append(f"account-{number}")
        work = await begin(direct, accounts[-1])
        reached = await given_up_at(number, work)
        assert await secrets(direct, accounts[-1]) in (before, after)

        await work()
        assert await secrets(direct, accounts[-1]) == after
        if not reached:
            break
    assert number > 3
    assert not reached
    # What was done to one account left every other one's keys readable.
    for account in accounts:
        assert await secrets(direct, account) == after
