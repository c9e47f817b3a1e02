# SPDX-License-Identifier: Apache-2.0
"""Authorize, renew, capture and release, through gRPC on PostgreSQL."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.ledger.domain.money import COST_NANO_USD_MAX
from tests.support.ledger import CREDIT, RunningLedger, captured, own_key, refused, told

READY = pb.OWN_KEY_STATE_READY
COOLING = pb.OWN_KEY_STATE_COOLING


@pytest.mark.requirement("L3")
class TestHolds:
    async def test_a_hold_is_reserved_and_its_exact_cost_captured(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        granted = (await run.authorize(worst_case=400)).granted
        assert granted.funding == pb.FUNDING_CREDITS
        assert granted.held_nano_credits == 400
        assert granted.state == pb.AUTHORIZATION_STATE_OPEN
        assert granted.lease_duration.seconds == 60
        held = await books.balance(account)
        assert (held.posted_nano_credits, held.available_nano_credits) == (1000, 600)

        settled = await run.capture(150)
        assert settled.charged_nano_credits == 150
        assert settled.state == pb.AUTHORIZATION_STATE_CAPTURED
        assert settled.units.input_token_count == 7
        after = await books.balance(account)
        assert (after.posted_nano_credits, after.reserved_nano_credits) == (850, 0)

    async def test_a_release_gives_everything_back(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize(worst_case=400)
        settled = await run.release()
        assert settled.state == pb.AUTHORIZATION_STATE_RELEASED
        after = await books.balance(account)
        assert (after.posted_nano_credits, after.available_nano_credits) == (1000, 1000)

    async def test_more_than_is_available_is_refused_and_changes_nothing(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        await books.run(account).authorize(worst_case=700)
        status = await refused(books.run(account).authorize(worst_case=301))
        assert status.code is grpc.StatusCode.FAILED_PRECONDITION
        assert status.reason == "INSUFFICIENT_CREDITS"
        assert status.metadata["available_nano_credits"] == "300"
        assert "grant credits" in status.message
        assert (await books.balance(account)).available_nano_credits == 300

    async def test_a_price_by_markup_and_a_fixed_one(self, books: RunningLedger) -> None:
        account = await books.account(owns=100 * CREDIT, plan="marked-up")
        by_cost = await books.run(account).authorize(worst_case=10_000_000)
        assert by_cost.granted.held_nano_credits == 1_200_000_000
        fixed = books.run(account)
        image = await fixed.authorize(worst_case=1, operation=pb.OPERATION_IMAGE)
        assert image.granted.held_nano_credits == 4 * CREDIT
        assert (await fixed.capture(999)).charged_nano_credits == 4 * CREDIT

    async def test_a_settlement_and_the_next_attempt_are_one_unit(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize(worst_case=1000)
        release = pb.Settlement(sequence=1, release=pb.ReleaseTerms(outcome="overloaded"))
        response = await run.authorize(2, worst_case=900, settlement=release)
        assert response.settled.state == pb.AUTHORIZATION_STATE_RELEASED
        assert response.granted.held_nano_credits == 900

    async def test_a_dry_run_says_what_would_be_and_changes_nothing(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        would = await run.authorize(worst_case=400, dry_run=True)
        assert would.granted.held_nano_credits == 400
        refusal = await refused(books.run(account).authorize(worst_case=1001, dry_run=True))
        assert refusal.reason == "INSUFFICIENT_CREDITS"
        assert (await books.balance(account)).reserved_nano_credits == 0
        did = await run.authorize(worst_case=300)
        assert did.granted.held_nano_credits == 300


@pytest.mark.requirement("L13")
class TestCaptures:
    async def test_past_the_hold_it_takes_what_is_available_and_the_house_bears_the_rest(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize(worst_case=400)
        settled = await run.capture(1500)
        assert settled.charged_nano_credits == 1000
        assert settled.absorbed_nano_credits == 500
        balance = await books.balance(account)
        assert balance.posted_nano_credits == 0
        assert balance.absorbed_nano_credits == 500
        assert balance.spent_nano_credits == 1500

    async def test_the_plans_overdraft_comes_before_the_house(self, books: RunningLedger) -> None:
        account = await books.account(owns=100, plan="overdraft")
        run = books.run(account)
        await run.authorize(worst_case=100)
        settled = await run.capture(200)
        assert settled.charged_nano_credits == 150
        assert settled.absorbed_nano_credits == 50
        assert (await books.balance(account)).posted_nano_credits == -50
        await books.grant(account, 80)
        assert (await books.balance(account)).posted_nano_credits == 30

    async def test_the_dearest_capture_there_is_is_not_refused(self, books: RunningLedger) -> None:
        account = await books.account(owns=100)
        run = books.run(account)
        await run.authorize()
        settled = await run.capture(COST_NANO_USD_MAX)
        assert settled.absorbed_nano_credits == COST_NANO_USD_MAX - 100

    @pytest.mark.requirement("L9")
    async def test_nothing_delivered_is_free_on_credits(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        settled = await run.capture(80, delivered=False)
        assert settled.charged_nano_credits == 0
        assert settled.vendor_cost_nano_usd == 80
        assert (await books.balance(account)).posted_nano_credits == 1000

    async def test_an_own_key_takes_no_credits(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        await books.set_mode(account, "OWN_KEY_FIRST")
        run = books.run(account)
        granted = (await run.authorize(own_key_state=READY)).granted
        assert granted.funding == pb.FUNDING_OWN_KEY
        assert (granted.key, granted.key_version) == (f"{account}/keys/main", 3)
        settled = await run.capture(80)
        assert (settled.charged_nano_credits, settled.vendor_cost_nano_usd) == (0, 80)
        assert (await books.balance(account)).posted_nano_credits == 1000

    async def test_an_own_key_pays_with_no_credits_at_all(self, books: RunningLedger) -> None:
        account = await books.account(plan="overdraft")
        await books.set_mode(account, "OWN_KEY_ONLY")
        terms = own_key(account, worst_case=None)
        run = books.run(account)
        await run.authorize(own_key_state=READY, own_key=terms)
        settled = await run.capture(None)
        assert not settled.HasField("vendor_cost_nano_usd")

    async def test_it_obeys_the_funding_on_record_after_a_change_of_mode(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await books.set_mode(account, "OWN_KEY_ONLY")
        assert (await run.capture(60)).charged_nano_credits == 60
        other = books.run(account)
        await other.authorize(own_key_state=READY)
        await books.set_mode(account, "CREDITS")
        assert (await other.capture(60)).charged_nano_credits == 0

    async def test_a_priced_attempt_needs_a_cost(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        status = await refused(run.capture(None))
        assert status.reason == "INVALID_ARGUMENT"
        assert status.metadata["field"] == "capture.vendor_cost_nano_usd"


@pytest.mark.requirement("L11", "L13")
class TestRepeats:
    async def test_a_repeated_authorize_is_the_stored_grant(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        first = await run.authorize(worst_case=400)
        assert await run.authorize(worst_case=400) == first
        assert (await books.balance(account)).reserved_nano_credits == 400

    async def test_a_repeated_authorize_with_another_body_is_refused(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize(worst_case=400)
        assert (await refused(run.authorize(worst_case=401))).reason == "REQUEST_ID_REUSED"
        other = await refused(run.again().authorize(fingerprint=b"g" * 32))
        assert other.reason == "REQUEST_ID_REUSED"
        assert other.code is grpc.StatusCode.ALREADY_EXISTS

    async def test_a_repeated_refusal_is_refused_again_in_the_same_words(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=10)
        run = books.run(account)
        first = await refused(run.authorize(worst_case=100))
        await books.grant(account, 1000)
        second = await refused(run.authorize(worst_case=100))
        assert told(second) == told(first)

    async def test_a_repeated_settlement_settles_once(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        first = await run.capture(60)
        assert await run.capture(60) == first
        assert (await books.balance(account)).posted_nano_credits == 940

    async def test_a_second_and_different_settlement_is_refused(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        await run.authorize()
        await run.capture(60)
        assert (await refused(run.capture(61))).reason == "ALREADY_SETTLED"
        assert (await refused(run.release())).reason == "ALREADY_SETTLED"
        assert (await refused(run.renew())).reason == "ALREADY_SETTLED"
        assert (await books.balance(account)).posted_nano_credits == 940

    async def test_what_was_never_authorized_is_not_found(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        status = await refused(books.run(account).capture(60))
        assert status.code is grpc.StatusCode.NOT_FOUND
        assert status.reason == "AUTHORIZATION_NOT_FOUND"


@pytest.mark.requirement("L3", "R14")
class TestBatches:
    async def test_each_item_of_a_batch_stands_alone_in_order(self, books: RunningLedger) -> None:
        one = await books.account("one", owns=500)
        two = await books.account("two", owns=1000)
        runs = [books.run(one), books.run("accounts/nobody"), books.run(two), books.run(one)]
        requests = [run.authorize_request(worst_case=400) for run in runs]
        requests.append(books.run(two).authorize_request(sequence=77))
        response = await books.router.BatchAuthorize(pb.BatchAuthorizeRequest(requests=requests))
        kinds = [result.WhichOneof("result") for result in response.results]
        assert kinds == ["response", "error", "response", "error", "error"]
        assert "there is no account" in response.results[1].error.message
        assert response.results[2].response.granted.request_id == runs[2].request_id

        settles = [
            pb.SettleRequest(capture=runs[0].capture_request(100)),
            pb.SettleRequest(capture=runs[3].capture_request(100)),
            pb.SettleRequest(
                release=pb.ReleaseRequest(
                    account=two,
                    request_id=runs[2].request_id,
                    claimant=runs[2].claimant,
                    sequence=1,
                    release=pb.ReleaseTerms(outcome="overloaded"),
                )
            ),
            pb.SettleRequest(),
        ]
        settled = await books.router.BatchSettle(pb.BatchSettleRequest(requests=settles))
        kinds = [result.WhichOneof("result") for result in settled.results]
        assert kinds == ["authorization", "error", "authorization", "error"]
        assert (await books.balance(one)).posted_nano_credits == 400

    async def test_a_batch_renews_many(self, books: RunningLedger) -> None:
        account = await books.account(owns=500)
        runs = [books.run(account) for _ in range(5)]
        for run in runs:
            await run.authorize(worst_case=50)
        renewals = [
            pb.RenewRequest(
                account=account,
                request_id=run.request_id,
                claimant=run.claimant,
                sequence=1,
                checkpoint=captured(20),
            )
            for run in runs
        ]
        response = await books.router.BatchRenew(pb.BatchRenewRequest(requests=renewals))
        assert all(result.HasField("authorization") for result in response.results)

    async def test_the_same_request_twice_in_one_batch_is_one_grant(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=500)
        request = books.run(account).authorize_request(worst_case=400)
        response = await books.router.BatchAuthorize(
            pb.BatchAuthorizeRequest(requests=[request, request])
        )
        first, second = (result.response.granted for result in response.results)
        assert first == second
        assert (await books.balance(account)).reserved_nano_credits == 400

    @pytest.mark.parametrize("count", [0, 257])
    async def test_a_batch_is_bounded(self, books: RunningLedger, count: int) -> None:
        requests = [pb.RenewRequest()] * count
        status = await refused(books.router.BatchRenew(pb.BatchRenewRequest(requests=requests)))
        assert status.reason == "INVALID_ARGUMENT"


class TestBadInput:
    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"worst_case": -1}, "credits.worst_case_nano_usd"),
            ({"worst_case": COST_NANO_USD_MAX + 1}, "credits.worst_case_nano_usd"),
            ({"source": pb.SOURCE_UNSPECIFIED}, "source"),
            ({"source": 99}, "source"),
            ({"operation": 0}, "operation"),
            ({"own_key_state": 0}, "own_key_state"),
            ({"fingerprint": b"short"}, "fingerprint"),
            ({"fingerprint_version": 0}, "fingerprint_version"),
            ({"own_key_state": READY, "own_key": own_key("accounts/other")}, "own_key.key"),
            ({"sequence": 0}, "sequence"),
            ({"sequence": 33}, "sequence"),
        ],
    )
    async def test_a_malformed_field_is_named_and_nothing_changed(
        self, books: RunningLedger, fields: dict[str, Any], field: str
    ) -> None:
        account = await books.account(owns=1000)
        status = await refused(books.run(account).authorize(**fields))
        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert status.metadata["field"] == field
        assert (await books.balance(account)).reserved_nano_credits == 0

    async def test_malformed_ids_are_refused(self, books: RunningLedger) -> None:
        account = await books.account()
        for run, field in (
            (books.run("demo"), "account"),
            (books.run(account, request_id="7"), "request_id"),
            (books.run(account, claimant="me"), "claimant"),
        ):
            assert (await refused(run.authorize())).metadata["field"] == field

    async def test_an_unknown_account_is_not_found(self, books: RunningLedger) -> None:
        status = await refused(books.run("accounts/nobody").authorize())
        assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")

    async def test_credits_that_can_buy_nothing_are_refused(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        status = await refused(books.run(account).authorize(credits=None))
        assert status.reason == "CREDITS_NOT_POSSIBLE"
