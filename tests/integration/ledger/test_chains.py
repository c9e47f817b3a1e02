# SPDX-License-Identifier: Apache-2.0
"""Hash chains and the guard of what is never changed."""

from __future__ import annotations

import asyncpg
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import verification_pb2

from services.ledger.adapters.chains import PostgresChainStore
from services.ledger.domain.accounts import bucket_of
from services.ledger.usecases.chain import Chains
from services.shared.clock import SystemClock
from services.shared.postgres import Database
from services.shared.secret import Secret
from tests.support.ledger import RunningLedger, rewrite

KEY = Secret("fingerprint-key-of-the-tests-0123456789")

GUARDED = (
    "authorizations",
    "settlements",
    "refusals",
    "entries",
    "operations",
    "mode_changes",
    "entry_links",
)


async def chain(dsn: str, account: str) -> int:
    """Chain an account's bucket as the background task does; return how many entries."""
    database = Database(dsn, application_name="tests", pool_size=2)
    await database.open()
    try:
        store = PostgresChainStore(database)
        chains = Chains(store=store, key=KEY, clock=SystemClock())
        return await chains.extend(bucket_of(account.removeprefix("accounts/")))
    finally:
        await database.close()


async def broken(books: RunningLedger) -> list[str]:
    """Return what VerifyLedger says of chains."""
    request = verification_pb2.VerifyLedgerRequest()
    return [
        violation.description
        async for message in books.operator.VerifyLedger(request)
        for violation in message.violations
        if violation.invariant == "entries_are_chained"
    ]


@pytest.mark.requirement("L12")
class TestChains:
    @pytest.mark.parametrize(
        ("statement", "told"),
        [
            (
                "UPDATE entries SET reason = 'other' WHERE sequence >= 3",
                "entry 3 is not what was written",
            ),
            ("DELETE FROM entries WHERE sequence = 4", "entry 4 is gone"),
            (
                "DELETE FROM entry_links WHERE sequence = 2",
                "the link of entry 2 is gone",
            ),
            (
                "UPDATE entry_links SET digest = sha256(digest) WHERE sequence = 5",
                "entry 5 is not what was written",
            ),
        ],
    )
    async def test_the_first_row_that_breaks_a_chain_is_named(
        self, books: RunningLedger, statement: str, told: str
    ) -> None:
        account = await books.account(owns=10)
        for _ in range(5):
            await books.grant(account, 7)
        await chain(books.dsn, account)
        assert await broken(books) == []
        await rewrite(books.dsn, statement)
        assert await broken(books) == [told]

    async def test_a_chain_grows_from_where_it_was_and_two_chainers_agree(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=10)
        await chain(books.dsn, account)
        await books.grant(account, 7)
        await chain(books.dsn, account)
        assert await chain(books.dsn, account) == 0
        assert await broken(books) == []


@pytest.mark.requirement("L12")
class TestImmutability:
    @pytest.mark.parametrize("table", GUARDED)
    async def test_what_was_written_can_be_neither_changed_nor_removed(
        self, books: RunningLedger, table: str
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.capture(5)
        await books.router.BatchAuthorize(_too_much(books, account))
        await chain(books.dsn, account)
        connection = await asyncpg.connect(books.dsn)
        try:
            for change in ("UPDATE {} SET bucket = bucket", "DELETE FROM {}"):
                with pytest.raises(asyncpg.RestrictViolationError):
                    await connection.execute(change.format(table))
        finally:
            await connection.close()


def _too_much(books: RunningLedger, account: str) -> pb.BatchAuthorizeRequest:
    request = books.run(account).authorize_request(worst_case=10**12)
    return pb.BatchAuthorizeRequest(requests=[request])
