# SPDX-License-Identifier: Apache-2.0
"""Monthly spending limits of own keys: by holds, in vendor cost, over all versions of a key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.shared.status import RichStatus, read_status
from tests.support.ledger import (
    Run,
    RunningLedger,
    captured,
    consistent,
    own_key,
    refused,
    rewrite,
    running_ledger,
)

READY = pb.OWN_KEY_STATE_READY
REACHED = "OWN_KEY_LIMIT_REACHED"


def limited(account: str, worst_case: int | None = 100, limit: int = 1000, **fields: Any) -> Any:
    """Return what authorizes an attempt on a key with a limit."""
    key = own_key(account, worst_case)
    key.monthly_limit_nano_usd = limit
    for name, value in fields.items():
        setattr(key, name, value)
    return {"own_key_state": READY, "own_key": key}


async def own_key_account(books: RunningLedger, name: str = "demo", owns: int = 0) -> str:
    """Make an account whose own keys come first."""
    account = await books.account(name, owns=owns)
    await books.set_mode(account, "OWN_KEY_FIRST")
    return account


async def reached(run: Run, **fields: Any) -> RichStatus:
    """Authorize an attempt that its key's limit refuses."""
    status = await refused(run.authorize(**fields))
    assert (status.code, status.reason) == (grpc.StatusCode.FAILED_PRECONDITION, REACHED)
    return status


@pytest.mark.requirement("L8")
class TestLimit:
    async def test_of_a_thousand_at_once_a_limit_for_ten_admits_exactly_ten(
        self, books: RunningLedger
    ) -> None:
        account = await own_key_account(books)
        runs = [books.run(account) for _ in range(1000)]

        async def admitted(batch: list[Run]) -> int:
            requests = [run.authorize_request(**limited(account)) for run in batch]
            response = await books.router.BatchAuthorize(
                pb.BatchAuthorizeRequest(requests=requests)
            )
            errors = [r.error for r in response.results if r.HasField("error")]
            assert {read_status(error).reason for error in errors} <= {REACHED}
            return len(batch) - len(errors)

        batches = [runs[i : i + 25] for i in range(0, 1000, 25)]
        assert sum(await asyncio.gather(*map(admitted, batches))) == 10
        assert await consistent(books)

    async def test_the_worst_case_is_held_and_the_exact_cost_stays(
        self, books: RunningLedger
    ) -> None:
        account = await own_key_account(books)
        first = books.run(account)
        await first.authorize(**limited(account, 900))
        status = await reached(books.run(account), **limited(account, 101))
        assert status.metadata == {
            "key": f"{account}/keys/main",
            "own_key_state": "LIMIT_REACHED",
            "limit_nano_usd": "1000",
            "used_nano_usd": "900",
            "needed_nano_usd": "101",
            "month": status.metadata["month"],
        }
        await first.capture(250)
        second = books.run(account)
        await second.authorize(**limited(account, 750))
        await second.release()
        await books.run(account).authorize(**limited(account, 750))
        await reached(books.run(account), **limited(account, 1))
        assert await consistent(books)

    async def test_it_counts_all_versions_and_what_came_before_it_was_set(
        self, books: RunningLedger
    ) -> None:
        account = await own_key_account(books)
        run = books.run(account)
        await run.authorize(own_key_state=READY, worst_case=600)
        await run.capture(600)
        await books.run(account).authorize(**limited(account, 300, key_version=4))
        await reached(books.run(account), **limited(account, 101, key_version=5))
        await books.run(account).authorize(**limited(account, 101, limit=1001, key_version=5))
        assert await consistent(books)

    async def test_each_key_and_each_account_has_its_own(self, books: RunningLedger) -> None:
        account = await own_key_account(books)
        await books.run(account).authorize(**limited(account, 1000))
        other = limited(account, 1000, key=f"{account}/keys/other")
        await books.run(account).authorize(**other)
        neighbour = await own_key_account(books, "neighbour")
        await books.run(neighbour).authorize(**limited(neighbour, 1000))
        await reached(books.run(account), **limited(account, 1))

    async def test_what_may_have_been_billed_stays(self, books: RunningLedger) -> None:
        account = await own_key_account(books)
        run = books.run(account)
        await run.authorize(**limited(account, 900))
        await run.capture(900, delivered=False, basis=pb.USAGE_BASIS_ESTIMATED)
        await reached(books.run(account), **limited(account, 101))
        assert await consistent(books)

    async def test_a_new_month_begins_anew_and_late_costs_go_to_their_own(
        self, books: RunningLedger
    ) -> None:
        account = await own_key_account(books)
        earlier = books.run(account)
        await earlier.authorize(**limited(account, 900))
        # As if it had been authorized last month.
        await rewrite(
            books.dsn,
            "UPDATE key_budgets SET month = month - interval '1 month'",
            "UPDATE authorizations SET create_time = create_time - interval '1 month'",
        )
        await books.run(account).authorize(**limited(account, 1000))
        await earlier.capture(800)
        connection = await asyncpg.connect(books.dsn)
        rows = await connection.fetch(
            "SELECT held_nano_usd, spent_nano_usd FROM key_budgets ORDER BY month"
        )
        await connection.close()
        assert [tuple(row) for row in rows] == [(0, 800), (1000, 0)]
        assert await consistent(books)

    async def test_an_unpriced_model_is_refused_under_a_limit_only(
        self, books: RunningLedger
    ) -> None:
        account = await own_key_account(books)
        status = await refused(books.run(account).authorize(**limited(account, None)))
        assert status.reason == "PRICE_REQUIRED"
        assert status.metadata["key"] == f"{account}/keys/main"
        run = books.run(account)
        await run.authorize(own_key_state=READY, own_key=own_key(account, None))
        await run.capture(None)
        assert await consistent(books)

    @pytest.mark.parametrize("limit", [0, -1, 10**18 + 1])
    async def test_a_limit_out_of_range_is_malformed(
        self, books: RunningLedger, limit: int
    ) -> None:
        account = await own_key_account(books)
        status = await refused(books.run(account).authorize(**limited(account, 1, limit)))
        assert status.metadata["field"] == "own_key.monthly_limit_nano_usd"


@pytest.mark.requirement("L8", "R9")
class TestAfterTheLimit:
    async def test_the_same_run_goes_on_with_credits_by_consent(self, books: RunningLedger) -> None:
        account = await own_key_account(books, owns=1000)
        run = books.run(account)
        await reached(run, **limited(account, 1001))
        reason = pb.OWN_KEY_STATE_LIMIT_REACHED
        granted = (await run.authorize(2, own_key_state=reason)).granted
        assert (granted.funding, granted.fallback) == (pb.FUNDING_CREDITS, True)
        await run.capture(100, 2)
        assert await consistent(books)

    async def test_paused_credits_stay_out_of_it(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        await books.set_mode(account, "OWN_KEY_ONLY")
        run = books.run(account)
        await reached(run, **limited(account, 1001))
        reason = pb.OWN_KEY_STATE_LIMIT_REACHED
        status = await refused(run.authorize(2, own_key_state=reason))
        assert status.reason == "NO_USABLE_OWN_KEY"
        assert "spending limit" in status.message

    async def test_the_refusal_is_recorded(self, books: RunningLedger) -> None:
        account = await own_key_account(books)
        holder, run = books.run(account), books.run(account)
        await holder.authorize(**limited(account, 1000))
        first = await reached(run, **limited(account, 1))
        await holder.release()
        again = await reached(run, **limited(account, 1))
        assert again.message == first.message


@pytest.mark.requirement("L8", "L13")
async def test_a_lapse_keeps_the_checkpoint_or_else_the_worst_case_until_the_truth_comes(
    tmp_path: Path, ledger_dsn: str
) -> None:
    async with running_ledger(tmp_path, ledger_dsn, sweep_seconds="0.1") as books:
        account = await own_key_account(books)
        told, untold = books.run(account), books.run(account)
        await told.authorize(**limited(account, 400))
        await told.renew(checkpoint=captured(300))
        await untold.authorize(**limited(account, 500))
        for run in (told, untold):
            await books.run_out(run)

        async def used() -> int:
            status = await reached(books.run(account), **limited(account, 1000, 1))
            return int(status.metadata["used_nano_usd"])

        async with asyncio.timeout(20):
            while await used() != 300 + 500:
                await asyncio.sleep(0.1)
        await untold.release()
        assert await used() == 300
        await told.capture(350)
        assert await used() == 350
        assert await consistent(books)
