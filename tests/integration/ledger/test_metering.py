# SPDX-License-Identifier: Apache-2.0
"""What people on call watch: figures in the process's registry, and a warning in its log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.ledger.adapters.condition import PostgresCondition
from services.ledger.usecases.metering import Condition
from services.shared.postgres import Database
from tests.support.clock import RestingClock
from tests.support.ledger import (
    RunningLedger,
    captured,
    running_ledger,
)


def figure(name: str) -> float:
    """Return a figure of this process; it takes no labels, whatever happens."""
    value = REGISTRY.get_sample_value(f"ownkey_ledger_{name}")
    assert value is not None, name
    return value


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that happens in the background."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.requirement("L13", "O6")
class TestFigures:
    async def test_what_the_house_absorbs_is_metered_once(self, books: RunningLedger) -> None:
        account = await books.account(owns=100)
        run = books.run(account)
        await run.authorize()
        before = figure("absorbed_nano_credits_total")
        attempt = await run.capture(130)
        await run.capture(130)
        assert attempt.absorbed_nano_credits == 30
        assert figure("absorbed_nano_credits_total") - before == 30

    async def test_what_comes_back_is_metered_apart(self, tmp_path: Path, ledger_dsn: str) -> None:
        async with running_ledger(tmp_path, ledger_dsn, sweep_seconds="0.1") as books:
            account = await books.account(owns=100)
            run = books.run(account)
            await run.authorize()
            await run.renew(checkpoint=captured(130))
            lapsed, absorbed = figure("lapsed_holds_total"), figure("absorbed_nano_credits_total")
            back = figure("absorbed_back_nano_credits_total")
            await books.run_out(run)
            await eventually(lambda: figure("lapsed_holds_total") - lapsed == 1)
            assert figure("absorbed_nano_credits_total") - absorbed == 30
            await run.capture(90)
            assert figure("absorbed_back_nano_credits_total") - back == 30

    async def test_open_holds_are_those_not_settled(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        runs = [books.run(account) for _ in range(3)]
        for run in runs:
            await run.authorize()
        await runs[0].capture(5)
        database = Database(books.dsn, application_name="test", pool_size=1)
        await database.open()
        try:
            found = await PostgresCondition(database).read()
        finally:
            await database.close()
        # The servers of tests stand alone.
        assert found == Condition(open_holds=2, synchronous_standby=False)


@pytest.mark.requirement("O6", "O8")
async def test_a_database_without_a_standby_is_warned_of_at_start(
    tmp_path: Path, ledger_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []

    def told() -> int:
        printed.append(capsys.readouterr().out)
        return "".join(printed).count("no_synchronous_standby")

    async with running_ledger(tmp_path, ledger_dsn, clock=RestingClock()):
        await eventually(lambda: told() > 0)
    assert told() == 1
    assert figure("synchronous_standby") == 0
