# SPDX-License-Identifier: Apache-2.0
"""Monthly grants and prices by model, through gRPC."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ownkey.ledger.v1 import account_pb2, entry_pb2, grant_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from tests.support.ledger import RunningLedger, consistent, request_id


async def a_month_later(books: RunningLedger) -> None:
    """Make it a month later for every account."""
    connection = await asyncpg.connect(books.dsn)
    await connection.execute("UPDATE accounts SET first_period = first_period - interval '32 days'")
    await connection.execute("UPDATE grants SET expire_time = expire_time - interval '32 days'")
    await connection.close()


@pytest.mark.requirement("L2")
class TestMonthlyGrant:
    async def test_it_is_there_at_once_and_anew_each_month(self, books: RunningLedger) -> None:
        account = await books.account(plan="monthly")
        balance = await books.balance(account)
        (grant,) = balance.grants
        assert (grant.kind, grant.amount_nano_credits) == (grant_pb2.GRANT_KIND_MONTHLY, 500)
        assert grant.HasField("expire_time")
        run = books.run(account)
        await run.authorize()
        await run.capture(1)
        await a_month_later(books)
        balance = await books.balance(account)
        assert (balance.posted_nano_credits, balance.expired_nano_credits) == (500, 480)
        assert (await books.run(account).authorize()).granted.held_nano_credits == 20
        assert await consistent(books)

    async def test_many_at_once_grant_it_once(self, books: RunningLedger) -> None:
        account = await books.account(plan="monthly")
        await a_month_later(books)
        runs = [books.run(account) for _ in range(25)]
        await asyncio.gather(*(run.authorize() for run in runs))
        request = entry_pb2.ListEntriesRequest(parent=account)
        entries = (await books.backend.ListEntries(request)).entries
        kinds = [entry.kind for entry in entries]
        assert kinds.count(entry_pb2.ENTRY_KIND_GRANT) == 2
        assert (await books.balance(account)).available_nano_credits == 0
        assert await consistent(books)

    async def test_a_new_plan_begins_with_its_month(self, books: RunningLedger) -> None:
        account = await books.account(plan="even")
        await books.backend.UpdateAccount(
            account_pb2.UpdateAccountRequest(
                request_id=request_id(),
                account=account_pb2.Account(name=account, plan="plans/monthly"),
                update_mask=FieldMask(paths=["plan"]),
            )
        )
        request = entry_pb2.ListEntriesRequest(parent=account)
        (entry,) = (await books.backend.ListEntries(request)).entries
        assert (entry.reason, entry.amount_nano_credits) == ("Monthly grant", 500)
        assert await consistent(books)


@pytest.mark.requirement("L1", "L3")
@pytest.mark.parametrize(
    ("model", "operation", "price"),
    [
        ("acme/film", pb.OPERATION_TEXT, 7),
        ("acme/film", pb.OPERATION_JOB, 7),
        ("acme/song", pb.OPERATION_TEXT, 20),
        ("acme/song", pb.OPERATION_JOB, 90),
    ],
)
async def test_a_models_price_wins_over_the_operations_and_that_over_the_markup(
    books: RunningLedger, model: str, operation: pb.Operation.ValueType, price: int
) -> None:
    account = await books.account(plan="monthly")
    run = books.run(account)
    terms = pb.CreditTerms(
        price=pb.PriceRow(model=model, provider="acme", price_id="p"), worst_case_nano_usd=90
    )
    granted = (await run.authorize(operation=operation, credits=terms)).granted
    assert granted.held_nano_credits == price
    assert (await run.capture(90)).charged_nano_credits == price
