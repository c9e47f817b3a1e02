# SPDX-License-Identifier: Apache-2.0
"""A caller that leaves at any await: what it began has one outcome, which asking again tells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from services.ledger.domain.modes import BillingMode
from services.ledger.usecases.attempts import Attempts
from services.shared.clock import SystemClock
from tests.support.ledger_commands import (
    PLANS,
    authorize_command,
    capture_command,
    create,
    grant,
    owned,
    release_command,
    renew_command,
    set_mode,
)
from tests.support.ledger_memory import InMemoryLedgerStore

STEPS_MAX = 60
Call = Callable[[InMemoryLedgerStore, Attempts], Awaitable[Any]]

CALLS: dict[str, tuple[Call, tuple[int, int]]] = {
    "authorize": (lambda _, run: run.one(authorize_command("two")), (1000, 200)),
    "renew": (lambda _, run: run.one(renew_command("one", 5)), (1000, 100)),
    "capture": (lambda _, run: run.one(capture_command("one", 60)), (940, 0)),
    "release": (lambda _, run: run.one(release_command("one")), (1000, 0)),
    "grant": (lambda store, _: grant(store, "three", 7), (1007, 100)),
    "set_mode": (
        lambda store, _: set_mode(store, "four", BillingMode.OWN_KEY_ONLY),
        (1000, 100),
    ),
}
"""What is called, and what the account owns and reserves once it was done."""


async def left_after(steps: int, name: str) -> bool:
    """Leave a call after some turns of the loop; return whether it had ended by then."""
    call, effect = CALLS[name]
    store = InMemoryLedgerStore(SystemClock())
    run = Attempts(store=store, plans=PLANS, lease=timedelta(seconds=60))
    await create(store, "c")
    await grant(store, "g", 1000)
    await run.one(authorize_command("one"))
    before = await owned(store)
    caller = asyncio.ensure_future(call(store, run))
    for _ in range(steps):
        await asyncio.sleep(0)
    ended = caller.done()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await store.quiet()
    # It was done or it was not, and asking again makes it done once.
    assert await owned(store) in {before, effect}
    first = await call(store, run)
    assert await owned(store) == effect
    if name != "renew":
        assert await call(store, run) == first
    assert await owned(store) == effect
    return ended


@pytest.mark.requirement("L11", "L13")
@pytest.mark.parametrize("name", CALLS)
async def test_a_caller_that_leaves_at_any_await_finds_one_outcome(name: str) -> None:
    steps = 0
    while not await left_after(steps, name):
        steps += 1
        assert steps < STEPS_MAX
    assert steps > 1
