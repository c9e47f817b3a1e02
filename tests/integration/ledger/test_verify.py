# SPDX-License-Identifier: Apache-2.0
"""VerifyLedger: while serving, every kind of row that is not what was written is named."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import verification_pb2

from services.ledger.adapters.invariants import INVARIANTS, STRAYS
from services.ledger.usecases.verify import PAGE_ACCOUNTS
from tests.support.ledger import RunningLedger, consistent, refused, rewrite

READY = pb.OWN_KEY_STATE_READY
SUCCESS, FAILURE = pb.RequestEnd(succeeded=True), pb.RequestEnd(succeeded=False)


@dataclass(frozen=True)
class Tampering:
    """
    A change that somebody makes past the ledger.

    Args:
        invariant: That it breaks.
        statement: SQL; `account_id = '{id}'` is added.
        told: Part of what is said of it.
    """

    invariant: str
    statement: str
    told: str


TAMPERINGS = (
    Tampering(
        "credits_is_its_entries",
        "UPDATE entries SET amount = amount + 1 WHERE kind = 'GRANT'",
        "the account's credits is 988, its entries sum to 989",
    ),
    Tampering("spent_is_its_entries", "UPDATE accounts SET spent = 11 WHERE true", "spent is 11"),
    Tampering("fees_is_its_entries", "UPDATE accounts SET fees = 3 WHERE true", "fees is 3"),
    Tampering("expired_is_its_entries", "UPDATE accounts SET expired = 1 WHERE true", "is 1"),
    Tampering("overdrawn_is_its_entries", "UPDATE accounts SET overdrawn = 1 WHERE true", "is 1"),
    Tampering("issued_is_its_entries", "UPDATE accounts SET issued = 7 WHERE true", "issued is 7"),
    Tampering("invoiced_is_its_entries", "UPDATE accounts SET invoiced = 2 WHERE true", "is 2"),
    Tampering("absorbed_is_its_entries", "UPDATE accounts SET absorbed = 4 WHERE true", "is 4"),
    Tampering(
        "books_sum_to_zero", "UPDATE accounts SET issued = issued + 1 WHERE true", "sum to zero"
    ),
    Tampering(
        "entries_have_no_gap",
        "DELETE FROM entries WHERE sequence = 2",
        "counts 3 entries; there are 2, the last has number 3",
    ),
    Tampering(
        "posted_follows_entries",
        "UPDATE entries SET posted_after = posted_after + 1 WHERE sequence >= 2",
        "entry 2 says",
    ),
    Tampering(
        "credits_is_grants", "UPDATE grants SET reserved = reserved + 1 WHERE true", "its grants"
    ),
    Tampering(
        "grant_is_its_entries", "UPDATE grants SET remaining = remaining + 1 WHERE true", "grant g"
    ),
    Tampering(
        "months_are_granted_once",
        "UPDATE accounts SET period_count = 7 WHERE true",
        "granted 7 months",
    ),
    Tampering(
        "reserved_is_open_holds",
        "UPDATE authorizations SET held = held + 1 WHERE held > 0",
        "its open holds sum to",
    ),
    Tampering(
        "open_attempts_are_running",
        "UPDATE requests SET state = 'SUCCEEDED', ended_by = 'CALLER' WHERE state = 'RUNNING'",
        "but its request does not run",
    ),
    Tampering(
        "budgets_are_attempts",
        "UPDATE key_budgets SET spent_nano_usd = spent_nano_usd + 1 WHERE true",
        "keys/main",
    ),
    Tampering(
        "allowance_is_attempts",
        "UPDATE accounts SET allowance_used = 1 WHERE true",
        "counts 1 free requests this month; its attempts take 2",
    ),
    Tampering(
        "charges_are_entries",
        "UPDATE settlements SET charged = charged + 1 WHERE charged = 10",
        "for work and fees sum to 10; it was settled for 11",
    ),
    Tampering(
        "usage_is_settlements",
        "UPDATE usage_days SET model = 'acme/other' WHERE funding = 'CREDITS'",
        "usage of acme/other at openai by CREDITS",
    ),
    Tampering(
        "outcomes_are_settlements",
        "UPDATE requests SET state = 'FAILED_UNCHARGED' WHERE state = 'SUCCEEDED'",
        "its attempt 1 was charged",
    ),
    Tampering(
        "rows_have_their_request",
        "DELETE FROM requests WHERE state = 'SUCCEEDED'",
        "there is a attempt, number 1 of request",
    ),
    Tampering(
        "epochs_have_no_gap",
        "DELETE FROM mode_changes WHERE mode_epoch = 1",
        "in epoch 2; there are 1 changes",
    ),
    Tampering(
        "mode_is_its_last_change",
        "UPDATE accounts SET billing_mode = 'CREDITS' WHERE true",
        "in mode CREDITS; its last change was to OWN_KEY_FIRST",
    ),
    Tampering(
        "epochs_begin_at_their_entry",
        "UPDATE mode_changes SET posted = posted + 1 WHERE mode_epoch = 2",
        "epoch 2 began with",
    ),
    Tampering(
        "rows_have_their_account", "UPDATE usage_days SET account_id = 'lost' WHERE true", "no such"
    ),
)

# What the schema itself would refuse; a restored or edited database may have lost it.
CHECKS = """
DO $$ DECLARE found record; BEGIN
    FOR found IN SELECT conrelid::regclass AS name, conname FROM pg_constraint
        WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.name, found.conname);
    END LOOP;
END $$
"""


async def verified(books: RunningLedger, account: str = "") -> list[Any]:
    """Verify and return the messages."""
    request = verification_pb2.VerifyLedgerRequest(account=account)
    return [message async for message in books.operator.VerifyLedger(request)]


async def lived_in(books: RunningLedger, account_id: str) -> str:
    """Return a new account with rows of every kind."""
    account = await books.account(account_id, plan="overdraft-fee", owns=1000)
    await books.set_mode(account, "OWN_KEY_FIRST")
    paid, failed, too_dear, own, open_own, open_one = (books.run(account) for _ in range(6))
    await paid.authorize()
    await paid.capture(10, end=SUCCESS)
    await failed.authorize()
    await failed.release(end=FAILURE)
    await refused(too_dear.authorize(worst_case=10**9))
    await own.authorize(own_key_state=READY)
    await own.capture(40, end=SUCCESS)
    await open_own.authorize(own_key_state=READY)
    await open_one.authorize()
    own_paid = books.run(account)
    await own_paid.authorize(own_key_state=READY)
    await own_paid.capture(4, end=SUCCESS)
    return account


@pytest.mark.requirement("L12")
class TestVerify:
    def test_every_invariant_is_tampered_with(self) -> None:
        names = {invariant.name for invariant in (*INVARIANTS, STRAYS)}
        assert {tampering.invariant for tampering in TAMPERINGS} == names

    async def test_every_kind_of_tampering_is_named_by_its_first_row(
        self, books: RunningLedger
    ) -> None:
        accounts = {
            tampering: await lived_in(books, f"a{number}")
            for number, tampering in enumerate(TAMPERINGS)
        }
        untouched = await lived_in(books, "untouched")
        assert await consistent(books)
        await rewrite(
            books.dsn,
            CHECKS,
            *(
                f"{tampering.statement} AND account_id = '{name.removeprefix('accounts/')}'"
                for tampering, name in accounts.items()
            ),
        )
        messages = await verified(books)
        found = [item for message in messages for item in message.violations]
        accounts[TAMPERINGS[-1]] = "accounts/lost"
        for tampering, name in accounts.items():
            told = {i.invariant: i.description for i in found if i.account == name}
            assert tampering.told in told.get(tampering.invariant, ""), (tampering.invariant, told)
        assert untouched not in {item.account for item in found}
        assert messages[-1].violation_count == len(found)

    async def test_progress_comes_page_by_page_while_the_ledger_serves(
        self, books: RunningLedger
    ) -> None:
        count = PAGE_ACCOUNTS + 20
        await asyncio.gather(*(books.account(f"a{n}", owns=500) for n in range(count)))
        busy = asyncio.create_task(self._work(books))
        messages = await verified(books)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        assert [message.verified_account_count for message in messages] == [
            PAGE_ACCOUNTS,
            count,
            count,
        ]
        assert {message.account_count for message in messages} == {count}
        assert [message.done for message in messages] == [False, False, True]
        assert messages[-1].violation_count == 0

    async def test_one_account_is_verified_alone(self, books: RunningLedger) -> None:
        await lived_in(books, "one")
        await lived_in(books, "two")
        assert (await verified(books, "accounts/two"))[-1].verified_account_count == 1
        status = await refused(verified(books, "accounts/nobody"))
        assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")

    async def _work(self, books: RunningLedger) -> None:
        while True:
            run = books.run("accounts/a7")
            await run.authorize()
            await run.release(end=FAILURE)
