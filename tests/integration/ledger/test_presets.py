# SPDX-License-Identifier: Apache-2.0
"""Each named policy on a real ledger, with the figures of the kind of product it comes from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from ownkey.ledger.v1 import account_pb2, grant_pb2, plan_pb2, usage_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from tests.support.ledger import (
    CREDIT,
    RunningLedger,
    consistent,
    own_key,
    refused,
    request_id,
    running_ledger,
)
from tests.support.source import ROOT

READY = pb.OWN_KEY_STATE_READY
CENT = 10_000_000
"""In nano-USD; every preset's credit is worth one."""


@pytest.fixture
async def books(tmp_path: Path, ledger_dsn: str) -> AsyncIterator[RunningLedger]:
    """A ledger that serves the presets."""
    presets = str(ROOT / "deploy" / "plans" / "presets.yaml")
    async with running_ledger(tmp_path, ledger_dsn, plans_file=presets) as running:
        yield running


async def generate(books: RunningLedger, account: str, *, cost: int, count: int) -> int:
    """Run requests one after another, on whoever pays, and return what they charged."""
    charged = 0
    for _ in range(count):
        run = books.run(account)
        await run.authorize(
            own_key_state=READY, own_key=own_key(account, 2 * cost), worst_case=2 * cost
        )
        charged += (await run.capture(cost)).charged_nano_credits
    return charged


@pytest.mark.requirement("L1", "L4", "R6")
async def test_own_key_replaces_credits(books: RunningLedger) -> None:
    """A hundred generations: $0.50 in credits, $0.0174 to the provider on an own key."""
    account = await books.account(plan="own-key-replaces-credits", owns=100 * CREDIT)
    generation = 174_000  # nano-USD: 1,000 input and 40 output tokens on openai/gpt-4o-mini
    assert await generate(books, account, cost=generation, count=100) == 50 * CREDIT

    await books.set_mode(account, "OWN_KEY_ONLY")
    before = await books.balance(account)
    assert await generate(books, account, cost=generation, count=100) == 0
    after = await books.balance(account)
    for balance in (before, after):
        balance.ClearField("read_time")
    assert after == before

    usage = await books.backend.GetUsage(usage_pb2.GetUsageRequest(account=account))
    by_funding = {row.funding: row for row in usage.rows}
    assert by_funding[pb.FUNDING_OWN_KEY].vendor_cost_nano_usd == 17_400_000
    assert by_funding[pb.FUNDING_OWN_KEY].charged_nano_credits == 0
    assert by_funding[pb.FUNDING_CREDITS].charged_nano_credits * CENT // CREDIT == 500_000_000
    assert await consistent(books)


@pytest.mark.requirement("L1", "L4", "L5")
async def test_own_key_pauses_credits(books: RunningLedger) -> None:
    """On the trial plan: own-key mode, and credits that are preserved to the last unit."""
    account = await books.account(plan="own-key-pauses-credits")
    end = Timestamp()
    end.FromDatetime(datetime.now(tz=UTC) + timedelta(days=14))
    kind = grant_pb2.GRANT_KIND_PROMOTIONAL
    await books.grant(account, 20 * CREDIT, kind=kind, expire_time=end)
    earlier = books.run(account)
    await earlier.authorize(worst_case=2 * CENT)

    receipt = (await books.set_mode(account, "OWN_KEY_ONLY")).receipt
    assert (receipt.posted_nano_credits, receipt.reserved_nano_credits) == (20 * CREDIT, 3 * CREDIT)
    assert await generate(books, account, cost=CENT, count=20) == 0
    explicit = books.run(account)
    await explicit.authorize(source=pb.SOURCE_CREDITS, own_key_state=READY, worst_case=CENT)
    await explicit.capture(CENT)
    await earlier.capture(CENT)

    proof = (await books.set_mode(account, "CREDITS")).proof
    assert proof.proven
    assert proof.explicit_charged_nano_credits == 3 * CREDIT // 2
    assert proof.earlier_holds_charged_nano_credits == 3 * CREDIT // 2
    assert proof.posted_nano_credits == 17 * CREDIT
    balance = await books.balance(account)
    assert balance.available_nano_credits == 17 * CREDIT
    assert balance.grants[0].expire_time.ToDatetime(tzinfo=UTC) > end.ToDatetime(tzinfo=UTC)
    assert await consistent(books)


@pytest.mark.requirement("L1", "L6")
async def test_percentage_fee_with_free_allowance(books: RunningLedger) -> None:
    """The millionth request of a month is free; the next pays 5 % of its price in credits."""
    account = await books.account(plan="percentage-fee-with-free-allowance", owns=10 * CREDIT)
    assert await generate(books, account, cost=CENT, count=1) == 0
    connection = await asyncpg.connect(books.dsn)
    await connection.execute("UPDATE accounts SET allowance_used = 999_999")
    await connection.close()
    assert await generate(books, account, cost=CENT, count=1) == 0
    # A cent of vendor cost is 1.2 credits with the markup: 0.06, where the cost alone gives 0.05.
    assert await generate(books, account, cost=CENT, count=1) == 60_000_000
    assert (await books.balance(account)).fees_nano_credits == 60_000_000


@pytest.mark.requirement("L1", "L5")
async def test_paid_plans_only(books: RunningLedger) -> None:
    """The unpaid plan refuses own keys and names the plans that allow them."""
    account = await books.account(plan="paid-plans-only-unpaid", owns=10 * CREDIT)
    plans = (await books.backend.ListPlans(plan_pb2.ListPlansRequest())).plans
    mode = account_pb2.BILLING_MODE_OWN_KEY_FIRST
    allowing = [plan.name for plan in plans if mode in plan.allowed_modes]
    assert "plans/paid-plans-only" in allowing

    status = await refused(books.set_mode(account, "OWN_KEY_FIRST"))
    assert (status.code, status.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "MODE_NOT_ALLOWED",
    )
    assert status.metadata["allowed_plans"] == ",".join(allowing)
    assert all(name in status.message for name in allowing)
    run = books.run(account)
    status = await refused(run.authorize(source=pb.SOURCE_OWN_KEY, own_key_state=READY))
    assert status.reason == "SOURCE_NOT_ALLOWED"

    await books.backend.UpdateAccount(
        account_pb2.UpdateAccountRequest(
            request_id=request_id(),
            account=account_pb2.Account(name=account, plan="plans/paid-plans-only"),
            update_mask=FieldMask(paths=["plan"]),
        )
    )
    await books.set_mode(account, "OWN_KEY_FIRST")
    assert await generate(books, account, cost=CENT, count=3) == 0
    assert (await books.balance(account)).posted_nano_credits == 10 * CREDIT


@pytest.mark.requirement("L1", "L6", "L7")
@pytest.mark.parametrize(("model", "fee"), [("google/veo-3", CREDIT), ("acme/film", 22 * CREDIT)])
async def test_capped_percentage_fee(books: RunningLedger, model: str, fee: int) -> None:
    """5 % of a $4.40 video are 22 credits; where the model has a cap, one."""
    account = await books.account(plan="capped-percentage-fee", owns=30 * CREDIT)
    run = books.run(account)
    video = 440 * CENT
    granted = (
        await run.authorize(
            own_key_state=READY,
            operation=pb.OPERATION_JOB,
            own_key=own_key(account, video, model=model),
        )
    ).granted
    assert granted.held_nano_credits == fee
    assert (await run.capture(video)).fee_nano_credits == fee
    assert (await books.balance(account)).available_nano_credits == 30 * CREDIT - fee
    assert await consistent(books)
