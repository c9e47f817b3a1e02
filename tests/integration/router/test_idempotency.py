# SPDX-License-Identifier: Apache-2.0
"""Repeats of a request, and settlement that outlives the answer."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from ownkey.router.v1 import attempt_pb2

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, text_input
from tests.support.simulated_providers import KEYS, faulty_key

REQUEST_ID = "6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11"


class TestRepeats:
    @pytest.mark.requirement("R14", "R15")
    async def test_a_repeat_is_told_the_outcome_without_the_text(
        self, router: RouterUnderTest
    ) -> None:
        """Attempts, usage and cost are the same; the provider is not called again."""
        source = attempt_pb2.SOURCE_CREDITS
        first = await router.generate(request_id=REQUEST_ID, source=source)
        again = await router.generate(request_id=REQUEST_ID, source=source)
        assert first.text
        assert again.text == ""
        assert again.receipt.replayed
        assert again.finish_reason == first.finish_reason
        assert again.receipt.usage == first.receipt.usage
        assert again.receipt.cost_nano_usd == first.receipt.cost_nano_usd
        assert again.receipt.charged_nano_credits == first.receipt.charged_nano_credits
        assert list(again.receipt.attempts) == list(first.receipt.attempts)
        assert len(await router.calls()) == 1

    @pytest.mark.requirement("R14", "R2")
    async def test_a_streamed_repeat_is_start_and_finish(self, router: RouterUnderTest) -> None:
        """A whole answer and a stream are one request under one id."""
        await router.generate(request_id=REQUEST_ID)
        messages, failure = await router.stream(request_id=REQUEST_ID)
        assert failure is None
        assert [m.WhichOneof("event") for m in messages] == ["start", "finish"]
        assert messages[1].finish.receipt.replayed

    @pytest.mark.requirement("R14")
    async def test_another_body_under_the_same_id_is_refused(self, router: RouterUnderTest) -> None:
        await router.generate(request_id=REQUEST_ID)
        failure = await router.refused(request_id=REQUEST_ID, input=text_input("Something else"))
        assert failure.code is grpc.StatusCode.ALREADY_EXISTS
        assert failure.reason == "REQUEST_ID_REUSED"

    @pytest.mark.requirement("R14")
    async def test_a_repeat_while_it_runs_is_told_so(self, router: RouterUnderTest) -> None:
        """Two at once with one id make one provider call."""
        slow = faulty_key("openai", "slow")
        router.keyvault.put("demo", stored_key("demo", "main", "openai", slow))
        first = asyncio.create_task(router.generate(request_id=REQUEST_ID))
        async with asyncio.timeout(5):
            while not await router.calls():
                await asyncio.sleep(0.01)
        failure = await router.refused(request_id=REQUEST_ID)
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "REQUEST_IN_PROGRESS"
        assert failure.retry_after_seconds
        await router.release(slow)
        assert (await first).text
        assert len(await router.calls()) == 1

    @pytest.mark.requirement("R14")
    async def test_after_a_failure_that_charged_nothing_it_runs_anew(
        self, router: RouterUnderTest
    ) -> None:
        """Also at once: a 401 on what is still held asks for the newer version."""
        revoked = stored_key("demo", "main", "openai", faulty_key("openai", "revoked"))
        router.keyvault.put("demo", revoked)
        source = attempt_pb2.SOURCE_OWN_KEY
        await router.refused(request_id=REQUEST_ID, source=source)
        good = stored_key("demo", "main", "openai", KEYS["openai"], version=2, etag="2")
        router.keyvault.put("demo", good)
        response = await router.generate(request_id=REQUEST_ID, source=source)
        assert response.text


class TestSettlement:
    @pytest.mark.requirement("L13", "L3")
    @pytest.mark.parametrize("fault", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
    async def test_an_answer_does_not_wait_longer_than_two_seconds(
        self, router: RouterUnderTest, fault: grpc.StatusCode
    ) -> None:
        """It goes out marked pending, and the settlement lands when the ledger is back."""
        router.ledger.settling_fault = fault
        response = await router.generate(source=attempt_pb2.SOURCE_CREDITS)
        assert response.text
        pending = attempt_pb2.SETTLEMENT_STATE_PENDING
        assert response.receipt.settlement_state == pending
        router.ledger.settling_fault = None
        async with asyncio.timeout(10):
            while not router.ledger.settled:
                await asyncio.sleep(0.02)
        assert router.ledger.settled[0].capture.end.succeeded


class TestPeersAway:
    @pytest.mark.requirement("R9", "R11")
    async def test_keyvault_away_is_never_read_as_no_own_key(self, router: RouterUnderTest) -> None:
        """Nothing is asked of the ledger, nothing is sent, and the caller may try again."""
        router.keyvault.away = True
        failure = await router.refused(account="accounts/other")
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "PEER_UNAVAILABLE"
        assert failure.metadata["peer"] == "keyvault"
        assert failure.retry_after_seconds
        assert not router.ledger.asked

    @pytest.mark.requirement("K15")
    async def test_a_held_key_fails_closed_within_a_second(self, router: RouterUnderTest) -> None:
        """The watch is cut and keyvault is away: what is held ends with its lease."""
        await router.generate()
        router.keyvault.away = True
        await asyncio.sleep(1.0)
        failure = await router.refused()
        assert failure.reason == "PEER_UNAVAILABLE"

    @pytest.mark.requirement("K15")
    async def test_a_disabled_key_is_not_used_a_second_later(self, router: RouterUnderTest) -> None:
        """The watch tells of the change; also without it the lease ends."""
        await router.generate()
        calls = len(await router.calls())
        disabled = stored_key("demo", "main", "openai", KEYS["openai"], state=2, etag="2")
        router.keyvault.watch_cut = True
        router.keyvault.put("demo", disabled)
        await asyncio.sleep(1.0)
        failure = await router.refused(source=attempt_pb2.SOURCE_OWN_KEY)
        assert failure.reason == "NO_USABLE_OWN_KEY"
        assert len(await router.calls()) == calls

    @pytest.mark.requirement("R9", "R11")
    async def test_the_ledger_away_is_unavailable_and_nothing_is_sent(
        self, router: RouterUnderTest
    ) -> None:
        router.ledger.away = True
        failure = await router.refused(timeout=2)
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "PEER_UNAVAILABLE"
        assert failure.metadata["peer"] == "ledger"
        assert not await router.calls()
