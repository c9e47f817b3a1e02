# SPDX-License-Identifier: Apache-2.0
"""Pause and resume: nothing is consumed but what is asked for, and it is proven."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from ownkey.ledger.v1 import account_pb2, grant_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from tests.support.ledger import RunningLedger, own_key, refused, request_id

READY = pb.OWN_KEY_STATE_READY
NOW = datetime.now(UTC)


def stamp(moment: datetime) -> Timestamp:
    """Write a moment as the contract does."""
    written = Timestamp()
    written.FromDatetime(moment)
    return written


async def change(books: RunningLedger, statement: str) -> None:
    """Change what is stored, as only time does."""
    connection = await asyncpg.connect(books.dsn)
    try:
        await connection.execute(statement)
        # Whoever writes anything of an account says so on its row.
        await connection.execute("UPDATE accounts SET stamp = 0")
    finally:
        await connection.close()


@pytest.mark.requirement("L4", "L5")
class TestPause:
    async def test_nothing_is_consumed_and_the_balance_is_identical(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        before = await books.balance(account)
        paused = await books.set_mode(account, "OWN_KEY_ONLY")
        assert paused.receipt.posted_nano_credits == 1000
        assert paused.receipt.mode_epoch == paused.account.mode_epoch == 2
        assert paused.account.HasField("pause_time")
        for _ in range(3):
            run = books.run(account)
            await run.authorize(own_key_state=READY)
            await run.capture(50)
        assert (await refused(books.run(account).authorize())).reason == "NO_USABLE_OWN_KEY"
        resumed = await books.set_mode(account, "CREDITS")
        proof = resumed.proof
        assert proof.proven
        assert proof.posted_nano_credits == 1000
        assert proof.receipt == paused.receipt
        assert not proof.entries
        after = await books.balance(account)
        assert (after.posted_nano_credits, after.entry_sequence) == (
            before.posted_nano_credits,
            before.entry_sequence,
        )
        assert (await books.run(account).authorize()).granted.held_nano_credits == 100

    async def test_the_proof_explains_what_was_asked_for_and_what_came_in(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        earlier = books.run(account)
        await earlier.authorize(worst_case=200)
        receipt = (await books.set_mode(account, "OWN_KEY_ONLY")).receipt
        assert receipt.open_hold_count == 1
        assert receipt.open_holds[0].held_nano_credits == 200
        assert receipt.reserved_nano_credits == 200
        assert receipt.grants[0].reserved_nano_credits == 200

        await earlier.capture(150)
        asked = books.run(account)
        await asked.authorize(source=pb.SOURCE_CREDITS, own_key_state=READY)
        await asked.capture(40)
        await books.grant(account, 500)
        await books.backend.AdjustCredits(
            grant_pb2.AdjustCreditsRequest(
                request_id=request_id(), account=account, amount_nano_credits=-10, reason="typo"
            )
        )
        assert (await books.balance(account)).paused
        proof = (await books.set_mode(account, "OWN_KEY_FIRST")).proof
        assert proof.proven
        assert proof.earlier_holds_charged_nano_credits == 150
        assert proof.explicit_charged_nano_credits == 40
        assert proof.granted_nano_credits == 500
        assert proof.adjusted_nano_credits == -10
        assert proof.posted_nano_credits == 1000 - 150 - 40 + 500 - 10
        assert len(proof.entries) == 4

    async def test_a_repeated_switch_is_answered_as_the_first_time(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        pause = account_pb2.SetBillingModeRequest(
            request_id=request_id(),
            account=account,
            billing_mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY,
        )
        resume = account_pb2.SetBillingModeRequest(
            request_id=request_id(),
            account=account,
            billing_mode=account_pb2.BILLING_MODE_CREDITS,
        )
        first = await books.backend.SetBillingMode(pause)
        last = await books.backend.SetBillingMode(resume)
        await books.grant(account, 7)
        assert await books.backend.SetBillingMode(pause) == first
        assert await books.backend.SetBillingMode(resume) == last
        pause.billing_mode = account_pb2.BILLING_MODE_OWN_KEY_FIRST
        assert (await refused(books.backend.SetBillingMode(pause))).reason == "REQUEST_ID_REUSED"
        read = await books.backend.GetAccount(account_pb2.GetAccountRequest(name=account))
        assert read.account.mode_epoch == 3

    async def test_the_current_mode_again_changes_nothing(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        again = await books.set_mode(account, "CREDITS")
        assert again.account.mode_epoch == 1
        assert not again.HasField("receipt")
        assert not again.HasField("proof")

    async def test_expiry_clocks_stand_still(self, books: RunningLedger) -> None:
        """The grant's time is up half an hour after the pause; an hour has passed since."""
        account = await books.account()
        await books.grant(account, 100, expire_time=stamp(NOW + timedelta(days=1)))
        await books.set_mode(account, "OWN_KEY_ONLY")
        await change(books, "UPDATE accounts SET pause_time = pause_time - interval '1 hour'")
        await change(books, "UPDATE grants SET expire_time = now() - interval '30 minutes'")
        balance = await books.balance(account)
        assert balance.posted_nano_credits == 100
        left = balance.grants[0].expire_time.ToDatetime() - balance.read_time.ToDatetime()
        assert timedelta(minutes=30) <= left < timedelta(hours=1)
        proof = (await books.set_mode(account, "CREDITS")).proof
        assert proof.proven
        assert (await books.balance(account)).available_nano_credits == 100

    async def test_a_grant_expires_when_its_time_is_up(self, books: RunningLedger) -> None:
        account = await books.account(owns=5)
        await books.grant(account, 100, expire_time=stamp(NOW + timedelta(days=1)))
        run = books.run(account)
        await run.authorize(worst_case=30)
        await change(books, "UPDATE grants SET expire_time = now() WHERE expire_time IS NOT NULL")
        balance = await books.balance(account)
        assert balance.posted_nano_credits == 35
        assert balance.expired_nano_credits == 70
        await run.capture(10)
        assert (await books.balance(account)).posted_nano_credits == 5
        assert (await refused(books.run(account).authorize(worst_case=6))).metadata[
            "available_nano_credits"
        ] == "5"

    async def test_an_own_key_without_a_price_pays_while_paused(self, books: RunningLedger) -> None:
        account = await books.account(owns=5)
        await books.set_mode(account, "OWN_KEY_ONLY")
        run = books.run(account)
        terms = own_key(account, worst_case=None)
        await run.authorize(own_key_state=READY, own_key=terms, credits=None)
        await run.capture(None)
        assert (await books.set_mode(account, "CREDITS")).proof.proven
