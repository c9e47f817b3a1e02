# SPDX-License-Identifier: Apache-2.0
"""
One request_id, one provider call: at two router replicas, while it runs, after it, and after it
failed. What reached the provider is counted by the simulator.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import grpc.aio
import pytest
from ownkey.ledger.v1 import account_pb2, authorization_pb2, grant_pb2
from ownkey.router.v1 import attempt_pb2, router_service_pb2_grpc, text_pb2

from deploy.local.clients import Clients
from services.shared.ids import new_id
from services.shared.status import RichStatus
from tests.e2e import support
from tests.e2e.support import CREDITS, GRANT_NANO_CREDITS, OWN_KEY, StoredKey

OWN_KEY_FIRST = account_pb2.BILLING_MODE_OWN_KEY_FIRST
NEVER = account_pb2.FALLBACK_CONSENT_NEVER
REPEATS = 4
REQUESTS = 8

Router = router_service_pb2_grpc.RouterServiceStub
Outcome = text_pb2.GenerateTextResponse | RichStatus


@pytest.fixture
def routers(clients: Clients, second: Router) -> tuple[Router, Router]:
    """Two replicas of the router on the same keyvault and ledger."""
    return clients.router, second


async def outcome(clients: Clients, account: str, **settings: Any) -> Outcome:
    """What came of a generation, whatever it is."""
    try:
        return await support.generate(clients, account, **settings)
    except grpc.aio.AioRpcError as failure:
        return support.from_rpc_error(failure)


def answers(outcomes: list[Outcome]) -> list[text_pb2.GenerateTextResponse]:
    return [o for o in outcomes if isinstance(o, text_pb2.GenerateTextResponse)]


def refusals(outcomes: list[Outcome]) -> list[RichStatus]:
    return [o for o in outcomes if isinstance(o, RichStatus)]


def assert_in_progress(status: RichStatus, request_id: str) -> None:
    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "REQUEST_IN_PROGRESS")
    assert status.metadata["request_id"] == request_id
    assert status.retry_after_seconds is not None
    assert status.retry_after_seconds > 0
    assert support.attempts_of(status) == []


def assert_reused(status: RichStatus, request_id: str) -> None:
    assert (status.code, status.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert status.metadata["request_id"] == request_id
    assert "request_id" in status.message or "request id" in status.message


async def own_key_account(
    clients: Clients, *, consent: account_pb2.FallbackConsent.ValueType = NEVER
) -> tuple[str, StoredKey]:
    account = await support.new_account(clients, mode=OWN_KEY_FIRST, consent=consent)
    return account, await support.add_key(clients, account)


async def wait_until_running(clients: Clients, account: str, request_id: str) -> None:
    async def running() -> bool:
        try:
            record = await support.request_record(clients, account, request_id)
        except grpc.aio.AioRpcError:
            return False
        return record.state == authorization_pb2.REQUEST_STATE_RUNNING

    await support.eventually(running)


@pytest.mark.requirement("R14", "L13")
class TestTwoReplicas:
    """The ledger's claim decides, so it does not matter where a repeat arrives."""

    async def test_one_id_at_both_at_once_makes_one_provider_call(
        self, clients: Clients, routers: tuple[Router, Router]
    ) -> None:
        account, key = await own_key_account(clients)
        before = await support.recorded_requests(clients, key.secret)
        request_id = new_id()
        async with support.fault(clients, key.secret, "slow"):
            asked = {
                asyncio.ensure_future(
                    outcome(clients, account, request_id=request_id, router=router)
                )
                for router in routers * REPEATS
            }
            # All but one are told so while that one runs.
            for told in itertools.islice(asyncio.as_completed(asked), len(asked) - 1):
                status = await told
                assert isinstance(status, RichStatus)
                assert_in_progress(status, request_id)
        [served] = answers(await asyncio.gather(*asked))
        assert served.text == support.predicted_text("openai")
        calls = await support.recorded_requests(clients, key.secret)
        assert len(calls) == len(before) + 1

    async def test_many_ids_at_both_at_once_are_charged_once_each(
        self, clients: Clients, routers: tuple[Router, Router]
    ) -> None:
        account = await support.new_account(clients)
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        before = await support.recorded_requests(clients, shared)
        ids = [new_id() for _ in range(REQUESTS)]
        outcomes = await asyncio.gather(
            *(
                outcome(clients, account, request_id=request_id, router=router)
                for request_id in ids
                for router in routers
            )
        )
        served = [answer for answer in answers(outcomes) if not answer.receipt.replayed]
        assert len(served) == REQUESTS
        assert {status.reason for status in refusals(outcomes)} <= {"REQUEST_IN_PROGRESS"}
        calls = await support.recorded_requests(clients, shared)
        assert len(calls) == len(before) + REQUESTS
        charge = support.credit_price(support.predicted_cost(served[0].receipt.price, "openai"))
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - REQUESTS * charge
        assert after.reserved_nano_credits == 0

    async def test_the_outcome_is_told_by_the_replica_that_did_not_serve(
        self, clients: Clients, routers: tuple[Router, Router]
    ) -> None:
        account, key = await own_key_account(clients)
        request_id = new_id()
        first = await support.generate(clients, account, request_id=request_id, router=routers[0])
        calls = await support.recorded_requests(clients, key.secret)
        again = await support.generate(clients, account, request_id=request_id, router=routers[1])
        assert again.receipt.replayed
        assert again.text == ""
        assert again.receipt.attempts == first.receipt.attempts
        assert await support.recorded_requests(clients, key.secret) == calls

    async def test_another_body_is_refused_by_the_replica_that_did_not_serve(
        self, clients: Clients, routers: tuple[Router, Router]
    ) -> None:
        account, _ = await own_key_account(clients)
        request_id = new_id()
        await support.generate(clients, account, request_id=request_id, router=routers[0])
        status = await support.refusal(
            support.generate(
                clients,
                account,
                request_id=request_id,
                router=routers[1],
                text_input=support.question("Another question?"),
            )
        )
        assert_reused(status, request_id)


@pytest.mark.requirement("R14")
class TestWhileItRuns:
    """A repeat meets the first one at work."""

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    async def test_a_repeat_is_told_to_come_back(self, clients: Clients, streamed: bool) -> None:
        account, key = await own_key_account(clients)
        request_id = new_id()
        async with support.fault(clients, key.secret, "slow"):
            if streamed:
                first = asyncio.create_task(support.stream(clients, account, request_id=request_id))
            else:
                first = asyncio.create_task(
                    support.generate(clients, account, request_id=request_id)
                )
            await wait_until_running(clients, account, request_id)
            if streamed:
                got = await support.stream(clients, account, request_id=request_id)
                assert got.events == []
                status = got.error
            else:
                status = await support.refusal(
                    support.generate(clients, account, request_id=request_id)
                )
            assert status is not None
            assert_in_progress(status, request_id)
            assert not first.done()
        assert (await first).text == support.predicted_text("openai")

    async def test_another_body_is_refused(self, clients: Clients) -> None:
        account, key = await own_key_account(clients)
        request_id = new_id()
        async with support.fault(clients, key.secret, "slow"):
            first = asyncio.create_task(support.generate(clients, account, request_id=request_id))
            await wait_until_running(clients, account, request_id)
            status = await support.refusal(
                support.generate(
                    clients,
                    account,
                    request_id=request_id,
                    text_input=support.question("Another question?"),
                )
            )
            assert_reused(status, request_id)
        assert (await first).text == support.predicted_text("openai")


@pytest.mark.requirement("R14", "R15")
class TestAfterItSucceeded:
    """A repeat is told the outcome, never the text."""

    @pytest.mark.parametrize("payer", [OWN_KEY, CREDITS], ids=["own key", "credits"])
    async def test_a_whole_answer(
        self, clients: Clients, payer: attempt_pb2.Funding.ValueType
    ) -> None:
        account, key = await own_key_account(clients)
        source = attempt_pb2.SOURCE_CREDITS if payer == CREDITS else attempt_pb2.SOURCE_AUTO
        request_id = new_id()
        first = await support.generate(clients, account, request_id=request_id, source=source)
        assert not first.receipt.replayed
        before = await support.balance(clients, account)
        calls = await self._all_calls(clients, key)
        for _ in range(2):
            again = await support.generate(clients, account, request_id=request_id, source=source)
            assert (again.text, list(again.tool_calls)) == ("", [])
            assert not again.HasField("reasoning")
            assert again.finish_reason == first.finish_reason
            self._assert_same(again.receipt, first.receipt)
            assert again.receipt.payer == payer
        assert await self._all_calls(clients, key) == calls
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == before.posted_nano_credits
        assert after.entry_sequence == before.entry_sequence

    @pytest.mark.parametrize("payer", [OWN_KEY, CREDITS], ids=["own key", "credits"])
    async def test_a_stream(self, clients: Clients, payer: attempt_pb2.Funding.ValueType) -> None:
        account, key = await own_key_account(clients)
        source = attempt_pb2.SOURCE_CREDITS if payer == CREDITS else attempt_pb2.SOURCE_AUTO
        request_id = new_id()
        first = await support.stream(clients, account, request_id=request_id, source=source)
        assert first.text == support.predicted_text("openai")
        calls = await self._all_calls(clients, key)
        again = await support.stream(clients, account, request_id=request_id, source=source)
        assert again.events == ["start", "finish"]
        assert again.start == first.start
        self._assert_same(again.receipt, first.receipt)
        assert await self._all_calls(clients, key) == calls

    @pytest.mark.parametrize(
        "change",
        [
            {"text_input": support.question("Another question?")},
            {"text_input": support.question(max_output_tokens=63)},
            {"text_input": support.question(temperature=0.5)},
            {"text_input": support.question(system="Be brief.")},
            {"model": "openai/gpt-4.1-mini"},
            {"source": attempt_pb2.SOURCE_CREDITS},
        ],
        ids=["text", "limit", "temperature", "system", "model", "source"],
    )
    async def test_another_body_is_refused_and_changes_nothing(
        self, clients: Clients, change: dict[str, Any]
    ) -> None:
        account, key = await own_key_account(clients)
        request_id = new_id()
        await support.generate(clients, account, request_id=request_id)
        calls = await self._all_calls(clients, key)
        status = await support.refusal(
            support.generate(clients, account, request_id=request_id, **change)
        )
        assert_reused(status, request_id)
        assert await self._all_calls(clients, key) == calls
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS

    async def test_the_same_id_of_another_account_is_another_request(
        self, clients: Clients
    ) -> None:
        request_id = new_id()
        for _ in range(2):
            account, _ = await own_key_account(clients)
            answer = await support.generate(clients, account, request_id=request_id)
            assert answer.text == support.predicted_text("openai")
            assert not answer.receipt.replayed

    async def _all_calls(self, clients: Clients, key: StoredKey) -> list[dict[str, Any]]:
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        own = await support.recorded_requests(clients, key.secret)
        return own + await support.recorded_requests(clients, shared)

    def _assert_same(self, again: attempt_pb2.Receipt, first: attempt_pb2.Receipt) -> None:
        expected = attempt_pb2.Receipt()
        expected.CopyFrom(first)
        expected.replayed = True
        assert again == expected


@pytest.mark.requirement("R14", "L13")
class TestAfterItFailed:
    """What charged nothing runs anew; what may have been billed stands."""

    async def test_a_refused_key_that_was_mended(self, clients: Clients) -> None:
        account, key = await own_key_account(clients)
        request_id = new_id()
        async with support.fault(clients, key.secret, "revoked"):
            status = await support.refusal(
                support.generate(clients, account, request_id=request_id)
            )
            assert status.reason == "KEY_INVALID"
        await self._mended(clients, key)
        answer = await support.generate(clients, account, request_id=request_id)
        assert answer.text == support.predicted_text("openai")
        assert not answer.receipt.replayed
        assert (answer.receipt.payer, len(answer.receipt.attempts)) == (OWN_KEY, 1)

    async def test_credits_that_did_not_reach_and_were_bought(self, clients: Clients) -> None:
        account = await support.new_account(clients, nano_credits=1)
        request_id = new_id()
        for _ in range(2):
            status = await support.refusal(
                support.generate(clients, account, request_id=request_id)
            )
            assert status.reason == "INSUFFICIENT_CREDITS"
        await support.grant(clients, account, GRANT_NANO_CREDITS)
        answer = await support.generate(clients, account, request_id=request_id)
        assert answer.text == support.predicted_text("openai")
        charge = support.credit_price(support.predicted_cost(answer.receipt.price, "openai"))
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS + 1 - charge

    async def test_a_stream_that_broke_on_credits(self, clients: Clients) -> None:
        account = await support.new_account(clients)
        request_id = new_id()
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        async with support.fault(clients, shared, "cut", count=1):
            broken = await support.stream(clients, account, request_id=request_id)
        assert broken.error is not None
        assert broken.error.reason == "STREAM_BROKEN"
        again = await support.stream(clients, account, request_id=request_id)
        assert again.text == support.predicted_text("openai")
        assert not again.receipt.replayed

    async def test_another_body_is_refused_also_then(self, clients: Clients) -> None:
        account, key = await own_key_account(clients)
        request_id = new_id()
        async with support.fault(clients, key.secret, "revoked"):
            await support.refusal(support.generate(clients, account, request_id=request_id))
        status = await support.refusal(
            support.generate(
                clients,
                account,
                request_id=request_id,
                text_input=support.question("Another question?"),
            )
        )
        assert_reused(status, request_id)

    async def test_a_failure_that_the_provider_may_have_billed_stands(
        self, clients: Clients
    ) -> None:
        account, key = await own_key_account(clients)
        request_id = new_id()
        async with support.fault(clients, key.secret, "error500"):
            first = await support.refusal(support.generate(clients, account, request_id=request_id))
        assert first.reason == "PROVIDER_DOWN"
        billed = {attempt.billed for attempt in support.attempts_of(first)}
        assert billed == {attempt_pb2.BILLED_MAYBE}
        calls = await support.recorded_requests(clients, key.secret)
        again = await support.refusal(support.generate(clients, account, request_id=request_id))
        assert (again.code, again.reason) == (first.code, first.reason)
        assert support.attempts_of(again) == support.attempts_of(first)
        assert await support.recorded_requests(clients, key.secret) == calls

    async def _mended(self, clients: Clients, key: StoredKey) -> None:
        """Tests the key until it is good: a confirmation of its refusal may be under way."""

        async def good() -> bool:
            await support.check_key(clients, key)
            _, health = await support.check_key(clients, key)
            return health.state == support.key_pb2.HEALTH_STATE_ACTIVE

        await support.eventually(good)


@pytest.mark.requirement("L11")
class TestTheLedgersOwnCalls:
    """Every changing call is made once, however often it is sent."""

    async def test_a_grant_that_is_sent_many_times_at_once(self, clients: Clients) -> None:
        account = await support.new_account(clients, nano_credits=0)
        request = grant_pb2.GrantCreditsRequest(
            request_id=new_id(),
            account=account,
            kind=grant_pb2.GRANT_KIND_PURCHASED,
            amount_nano_credits=GRANT_NANO_CREDITS,
        )
        granted = await asyncio.gather(
            *(clients.ledger.GrantCredits(request) for _ in range(REQUESTS))
        )
        assert len({answer.grant.name for answer in granted}) == 1
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS
        request.amount_nano_credits += 1
        status = await support.refusal(clients.ledger.GrantCredits(request))
        assert_reused(status, request.request_id)

    async def test_a_change_of_mode_gives_the_same_receipt_again(self, clients: Clients) -> None:
        account = await support.new_account(clients)
        request = account_pb2.SetBillingModeRequest(
            request_id=new_id(),
            account=account,
            billing_mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY,
        )
        first = await clients.ledger.SetBillingMode(request)
        await support.generate(clients, account, source=attempt_pb2.SOURCE_CREDITS)
        again = await clients.ledger.SetBillingMode(request)
        assert again.receipt == first.receipt
        assert again.account.mode_epoch == first.account.mode_epoch
