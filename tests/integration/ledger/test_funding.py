# SPDX-License-Identifier: Apache-2.0
"""Modes, sources, consents and the daily cap, through gRPC."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from ownkey.ledger.v1 import account_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.shared.status import read_status
from tests.support.ledger import RunningLedger, refused, request_id

MODES = ("CREDITS", "OWN_KEY_FIRST", "OWN_KEY_ONLY")
READY = pb.OWN_KEY_STATE_READY
COOLING = pb.OWN_KEY_STATE_COOLING

# Rows of the product's table: mode, source, with a key that is ready, with none stored.
TABLE = {
    ("CREDITS", "AUTO"): ("CREDITS", "CREDITS"),
    ("CREDITS", "OWN_KEY"): ("SOURCE_NOT_ALLOWED", "SOURCE_NOT_ALLOWED"),
    ("CREDITS", "CREDITS"): ("CREDITS", "CREDITS"),
    ("OWN_KEY_FIRST", "AUTO"): ("OWN_KEY", "CREDITS"),
    ("OWN_KEY_FIRST", "OWN_KEY"): ("OWN_KEY", "NO_USABLE_OWN_KEY"),
    ("OWN_KEY_FIRST", "CREDITS"): ("CREDITS", "CREDITS"),
    ("OWN_KEY_ONLY", "AUTO"): ("OWN_KEY", "NO_USABLE_OWN_KEY"),
    ("OWN_KEY_ONLY", "OWN_KEY"): ("OWN_KEY", "NO_USABLE_OWN_KEY"),
    ("OWN_KEY_ONLY", "CREDITS"): ("CREDITS", "CREDITS"),
}

# Who pays on AUTO in mode OWN_KEY_FIRST, by consent: own key (O), credits (C), fallback (F),
# refused (x); in the order of STATES.
STATES = (
    "READY",
    "NONE_STORED",
    "NONE_FOR_MODEL",
    "DISABLED",
    "COOLING",
    "REJECTED",
    "NO_CREDIT",
    "PROVIDER_FAILED",
    "LIMIT_REACHED",
)
CONSENTS = {
    "NEVER": "OCCCxxxxx",
    "RATE_LIMIT": "OCCCFxxxx",
    "KEY_FAILURE": "OCCCFFFxx",
    "ANY": "OCCCFFFFF",
}


def word(result: pb.AuthorizeResult) -> str:
    """Return who pays, or the reason of the refusal."""
    if result.HasField("error"):
        return read_status(result.error).reason
    granted = result.response.granted
    if granted.fallback:
        return "FALLBACK"
    return pb.Funding.Name(granted.funding).removeprefix("FUNDING_")


async def update(books: RunningLedger, account: str, **fields: object) -> None:
    """Change fields of an account."""
    await books.backend.UpdateAccount(
        account_pb2.UpdateAccountRequest(
            request_id=request_id(),
            account=account_pb2.Account(name=account, **fields),
            update_mask=FieldMask(paths=list(fields)),
        )
    )


@pytest.mark.requirement("L5", "R7")
async def test_the_whole_table_of_mode_and_source(books: RunningLedger) -> None:
    account = await books.account(owns=100_000)
    for mode in MODES:
        await books.set_mode(account, mode)
        for source in ("AUTO", "OWN_KEY", "CREDITS"):
            requests = [
                books.run(account).authorize_request(
                    source=pb.Source.Value(f"SOURCE_{source}"), own_key_state=state
                )
                for state in (READY, pb.OWN_KEY_STATE_NONE_STORED)
            ]
            response = await books.router.BatchAuthorize(
                pb.BatchAuthorizeRequest(requests=requests)
            )
            found = tuple(word(result) for result in response.results)
            assert found == TABLE[mode, source], (mode, source)


@pytest.mark.requirement("R9")
@pytest.mark.parametrize("consent", CONSENTS)
async def test_every_consent_against_every_state(books: RunningLedger, consent: str) -> None:
    account = await books.account(owns=100_000, plan="marked-up")
    value = account_pb2.FallbackConsent.Value(f"FALLBACK_CONSENT_{consent}")
    await update(books, account, fallback_consent=value)
    letters = {"O": "OWN_KEY", "C": "CREDITS", "F": "FALLBACK", "x": "FALLBACK_NOT_ALLOWED"}
    for always_use in (False, True):
        requests = [
            books.run(account).authorize_request(
                own_key_state=pb.OwnKeyState.Value(f"OWN_KEY_STATE_{state}"),
                always_use=always_use,
                worst_case=1,
            )
            for state in STATES
        ]
        response = await books.router.BatchAuthorize(pb.BatchAuthorizeRequest(requests=requests))
        found = [word(result) for result in response.results]
        row = CONSENTS[consent].replace("F", "x") if always_use else CONSENTS[consent]
        assert found == [letters[letter] for letter in row]


@pytest.mark.requirement("R9")
class TestFallback:
    async def test_not_knowing_is_unavailable_and_leaves_nothing_behind(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000, plan="marked-up")
        run = books.run(account)
        status = await refused(run.authorize(own_key_state=pb.OWN_KEY_STATE_UNKNOWN))
        assert (status.code, status.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "OWN_KEYS_UNKNOWN",
        )
        assert status.retry_after_seconds == 1
        granted = (await run.authorize(own_key_state=READY)).granted
        assert granted.funding == pb.FUNDING_OWN_KEY

    async def test_a_run_that_tried_an_own_key_never_becomes_plain(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        await books.set_mode(account, "OWN_KEY_FIRST")
        run = books.run(account)
        await run.authorize(own_key_state=READY)
        release = pb.Settlement(sequence=1, release=pb.ReleaseTerms(outcome="invalid_key"))
        granted = (await run.authorize(2, settlement=release)).granted
        assert granted.fallback

    async def test_always_use_binds_the_whole_run(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        await books.set_mode(account, "OWN_KEY_FIRST")
        run = books.run(account)
        await run.authorize(own_key_state=READY, always_use=True)
        release = pb.Settlement(sequence=1, release=pb.ReleaseTerms(outcome="rate_limited"))
        status = await refused(run.authorize(2, settlement=release, own_key_state=COOLING))
        assert status.reason == "FALLBACK_NOT_ALLOWED"
        assert status.metadata["always_use"] == "true"

    async def test_the_daily_cap_counts_holds_and_then_charges(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        await books.set_mode(account, "OWN_KEY_FIRST")
        await update(books, account, fallback_daily_cap_nano_credits=250)
        runs = [books.run(account) for _ in range(3)]
        await runs[0].authorize(own_key_state=COOLING)
        await runs[1].authorize(own_key_state=COOLING)
        status = await refused(runs[2].authorize(own_key_state=COOLING))
        assert status.reason == "FALLBACK_CAP_REACHED"
        assert status.metadata["used_nano_credits"] == "200"
        await runs[0].capture(30)
        await runs[2].again().authorize(own_key_state=COOLING)
        # Credits that were asked for are no fallback.
        await books.run(account).authorize(
            own_key_state=COOLING, source=pb.SOURCE_CREDITS, worst_case=300
        )

    @pytest.mark.requirement("L8")
    async def test_a_thousand_at_once_against_a_cap_for_ten_admit_ten(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1_000_000)
        await books.set_mode(account, "OWN_KEY_FIRST")
        await update(books, account, fallback_daily_cap_nano_credits=1000)

        async def batch() -> list[str]:
            requests = [
                books.run(account).authorize_request(own_key_state=COOLING) for _ in range(125)
            ]
            response = await books.router.BatchAuthorize(
                pb.BatchAuthorizeRequest(requests=requests)
            )
            return [word(result) for result in response.results]

        found = [
            item for batch_ in await asyncio.gather(*(batch() for _ in range(8))) for item in batch_
        ]
        assert found.count("FALLBACK") == 10
        assert found.count("FALLBACK_CAP_REACHED") == 990


@pytest.mark.requirement("L1")
class TestPlans:
    async def test_a_mode_that_the_plan_forbids_is_refused(self, books: RunningLedger) -> None:
        account = await books.account(plan="credits-only")
        status = await refused(books.set_mode(account, "OWN_KEY_FIRST"))
        assert status.reason == "MODE_NOT_ALLOWED"
        assert "plans/even" in status.metadata["allowed_plans"]

    async def test_a_plan_that_forbids_the_mode_needs_the_new_one(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=100)
        await books.set_mode(account, "OWN_KEY_ONLY")
        request = account_pb2.UpdateAccountRequest(
            request_id=request_id(),
            account=account_pb2.Account(name=account, plan="plans/credits-only"),
            update_mask=FieldMask(paths=["plan"]),
        )
        status = await refused(books.backend.UpdateAccount(request))
        assert status.reason == "MODE_CHANGE_REQUIRED"
        assert status.metadata["allowed_modes"] == "CREDITS"
        request.request_id = request_id()
        request.billing_mode = account_pb2.BILLING_MODE_CREDITS
        response = await books.backend.UpdateAccount(request)
        assert response.account.billing_mode == account_pb2.BILLING_MODE_CREDITS
        assert response.account.plan == "plans/credits-only"
        assert response.proof.proven

    async def test_an_account_takes_its_plans_default_mode(self, books: RunningLedger) -> None:
        name = await books.account(plan="marked-up")
        response = await books.backend.GetAccount(account_pb2.GetAccountRequest(name=name))
        assert response.account.billing_mode == account_pb2.BILLING_MODE_OWN_KEY_FIRST
        assert response.account.fallback_consent == account_pb2.FALLBACK_CONSENT_ANY
        assert response.account.mode_epoch == 1


@pytest.mark.requirement("R10", "L1")
class TestPartOfSharedKeys:
    """What a plan lets one account use of a shared key's minute goes with each grant on credits."""

    @pytest.mark.parametrize(("plan", "part"), [("credits-only", 250_000), ("even", 1_000_000)])
    async def test_a_grant_on_credits_names_it(
        self, books: RunningLedger, plan: str, part: int
    ) -> None:
        run = books.run(await books.account(owns=100, plan=plan))
        response = await run.authorize()
        assert response.granted.funding == pb.FUNDING_CREDITS
        assert response.shared_part_per_million == part

    async def test_a_grant_on_an_own_key_does_not(self, books: RunningLedger) -> None:
        run = books.run(await books.account(owns=100, plan="marked-up"))
        response = await run.authorize(own_key_state=READY)
        assert response.granted.funding == pb.FUNDING_OWN_KEY
        assert response.shared_part_per_million == 0


@pytest.mark.requirement("L13")
async def test_modes_switched_under_load_bill_each_request_to_one_side(
    books: RunningLedger,
) -> None:
    account = await books.account(owns=100_000)

    async def request() -> tuple[int, int]:
        run = books.run(account)
        granted = (await run.authorize(own_key_state=READY)).granted
        settled = await run.capture(7)
        expected = 7 if granted.funding == pb.FUNDING_CREDITS else 0
        assert settled.mode_epoch == granted.mode_epoch
        return settled.charged_nano_credits, expected

    async def switch() -> None:
        for mode in MODES * 4:
            await books.set_mode(account, mode)

    async with asyncio.TaskGroup() as group:
        switching = group.create_task(switch())
        requests = [group.create_task(request()) for _ in range(100)]
    assert switching.done()
    charges = [task.result() for task in requests]
    assert all(charged == expected for charged, expected in charges)
    spent = sum(charged for charged, _ in charges)
    assert (await books.balance(account)).posted_nano_credits == 100_000 - spent
