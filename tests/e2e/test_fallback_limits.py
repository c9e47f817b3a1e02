# SPDX-License-Identifier: Apache-2.0
"""
Falling back to credits beyond one key and one request: several keys, what earlier requests found
out, the daily cap, and the faults that are the request's own.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.clients import Clients
from services.shared.status import RichStatus
from tests.e2e import support
from tests.e2e.fallback import assert_fell_back, new_account, out_of_money
from tests.e2e.support import CREDITS, GRANT_NANO_CREDITS, OWN_KEY, StoredKey


@pytest.mark.requirement("R9", "R8")
class TestSeveralKeys:
    """All matching keys have their turn, and one `always_use` among them speaks for the request."""

    @pytest.mark.parametrize("always_use", [False, True], ids=["", "always_use"])
    async def test_credits_come_after_every_own_key(
        self, clients: Clients, always_use: bool
    ) -> None:
        account = await new_account(clients, "ANY")
        first = await support.add_key(clients, account, provider="openai")
        second = await support.add_key(
            clients, account, provider="openrouter", always_use=always_use
        )
        async with (
            support.fault(clients, first.secret, "revoked"),
            support.fault(clients, second.secret, "nocredit"),
        ):
            call = support.generate(clients, account)
            if always_use:
                status = await support.refusal(call)
                attempts = support.attempts_of(status)
                assert status.metadata["fallback_refused"] == "FALLBACK_NOT_ALLOWED"
                await support.assert_untouched(clients, account)
            else:
                receipt = (await call).receipt
                attempts = list(receipt.attempts[:-1])
                await assert_fell_back(clients, account, receipt, model=support.MODELS["openai"])
        assert [a.key for a in attempts] == [first.name, second.name]

    async def test_an_own_key_that_serves_leaves_credits_alone(self, clients: Clients) -> None:
        account = await new_account(clients, "ANY")
        first = await support.add_key(clients, account, provider="openai")
        second = await support.add_key(clients, account, provider="openrouter")
        async with support.fault(clients, first.secret, "ratelimited-seconds60"):
            answer = await support.generate(clients, account)
        assert (answer.receipt.payer, answer.receipt.key_hint) == (OWN_KEY, second.hint)
        assert [a.key for a in answer.receipt.attempts] == [first.name, second.name]
        await support.assert_untouched(clients, account)

    async def test_the_trouble_that_needs_the_widest_consent_decides(
        self, clients: Clients
    ) -> None:
        account = await new_account(clients, "RATE_LIMIT")
        first = await support.add_key(clients, account, provider="openai")
        second = await support.add_key(clients, account, provider="openrouter")
        async with (
            support.fault(clients, first.secret, "ratelimited-seconds60"),
            support.fault(clients, second.secret, "nocredit"),
        ):
            status = await support.refusal(support.generate(clients, account))
        assert status.metadata["fallback_refused"] == "FALLBACK_NOT_ALLOWED"
        await support.assert_untouched(clients, account)

    async def test_always_use_of_a_key_for_other_models_says_nothing(
        self, clients: Clients
    ) -> None:
        account = await new_account(clients, "ANY")
        key = await support.add_key(clients, account, provider="openai")
        await support.add_key(clients, account, provider="anthropic", always_use=True)
        async with support.fault(clients, key.secret, "nocredit"):
            answer = await support.generate(clients, account)
        await assert_fell_back(clients, account, answer.receipt, model=support.MODELS["openai"])


@pytest.mark.requirement("R9", "K14")
class TestWhatAnEarlierRequestFound:
    """What one request finds out about a key, the next one knows: the key is not called again."""

    async def test_a_rate_limit_cools_the_key_for_that_model_alone(self, clients: Clients) -> None:
        account = await new_account(clients, "RATE_LIMIT")
        key = await support.add_key(clients, account)
        async with support.fault(clients, key.secret, "ratelimited-seconds60"):
            await support.generate(clients, account)
        again = await support.generate(clients, account)
        assert again.receipt.fallback
        assert [a.funding for a in again.receipt.attempts] == [CREDITS]
        other = await support.generate(clients, account, model="openai/gpt-4.1-mini")
        assert (other.receipt.payer, other.receipt.key_hint) == (OWN_KEY, key.hint)

    @pytest.mark.parametrize(
        ("words", "state", "shown"),
        [
            ("revoked", "REJECTED", key_pb2.HEALTH_STATE_REJECTED),
            ("forbidden", "REJECTED", key_pb2.HEALTH_STATE_REJECTED),
            ("nocredit", "NO_CREDIT", key_pb2.HEALTH_STATE_NO_CREDIT),
        ],
    )
    async def test_a_refusal_that_was_confirmed_needs_consent_at_once(
        self,
        clients: Clients,
        words: str,
        state: str,
        shown: key_pb2.HealthState.ValueType,
    ) -> None:
        account = await new_account(clients, "RATE_LIMIT")
        key = await support.add_key(clients, account)

        async def confirmed() -> bool:
            [stored] = await support.list_keys(clients, account)
            return stored.health[0].state == shown

        async def refused_without_a_call() -> bool:
            status = await support.refusal(support.generate(clients, account))
            if status.reason != "FALLBACK_NOT_ALLOWED":
                return False
            assert status.metadata["own_key_state"] == state
            assert support.attempts_of(status) == []
            return True

        async with support.fault(clients, key.secret, words):
            await support.refusal(support.generate(clients, account))
            await support.eventually(confirmed)
            # Routers learn of it within a second.
            await support.eventually(refused_without_a_call)
        await support.assert_untouched(clients, account)


@pytest.mark.requirement("R9")
class TestDailyCap:
    """Fallbacks of one day take no more than the account's cap, holds included."""

    async def test_what_does_not_fit_under_the_cap_is_refused(self, clients: Clients) -> None:
        account = await new_account(clients, "ANY", daily_cap=0)
        key = await support.add_key(clients, account)
        async with support.fault(clients, key.secret, "error500"):
            status = await support.refusal(support.generate(clients, account))
        assert status.reason == "PROVIDER_DOWN"
        assert status.metadata["fallback_refused"] == "FALLBACK_CAP_REACHED"
        assert "cap" in status.message
        await support.assert_untouched(clients, account)

    async def test_the_cap_counts_what_was_charged_not_what_was_held(
        self, clients: Clients
    ) -> None:
        probe = await new_account(clients, "ANY")
        await out_of_money(clients, probe)
        served = (await support.generate(clients, probe)).receipt
        [attempt] = await support.authorizations(clients, probe)
        charge, held = served.charged_nano_credits, attempt.held_nano_credits
        assert held > 2 * charge
        # Room for one worst case beside one charge, but not beside two.
        account = await new_account(clients, "ANY", daily_cap=held + charge)
        await out_of_money(clients, account)
        for _ in range(2):
            answer = await support.generate(clients, account)
            assert answer.receipt.charged_nano_credits == charge
        status = await support.refusal(support.generate(clients, account))
        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "FALLBACK_CAP_REACHED",
        )
        assert status.metadata["cap_nano_credits"] == str(held + charge)
        assert status.metadata["used_nano_credits"] == str(2 * charge)
        after = await support.balance(clients, account)
        assert after.posted_nano_credits == GRANT_NANO_CREDITS - 2 * charge

    async def test_the_cap_counts_holds_that_are_open(self, clients: Clients) -> None:
        probe = await new_account(clients, "ANY")
        await out_of_money(clients, probe)
        await support.generate(clients, probe)
        [measured] = await support.authorizations(clients, probe)
        held = measured.held_nano_credits
        account = await new_account(clients, "ANY", daily_cap=2 * held - 1)
        await out_of_money(clients, account)
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        async with support.fault(clients, shared, "slow", count=1):
            running = asyncio.create_task(support.generate(clients, account))

            async def open_hold() -> bool:
                return (await support.balance(clients, account)).reserved_nano_credits == held

            await support.eventually(open_hold)
            status = await support.refusal(support.generate(clients, account))
            assert status.reason == "FALLBACK_CAP_REACHED"
            assert status.metadata["used_nano_credits"] == str(held)
        assert (await running).receipt.fallback
        assert (await support.generate(clients, account)).receipt.fallback

    async def test_credits_that_are_no_fallback_know_no_cap(self, clients: Clients) -> None:
        account = await new_account(clients, "ANY", daily_cap=0)
        plain = await support.generate(clients, account)
        assert (plain.receipt.payer, plain.receipt.fallback) == (CREDITS, False)
        await out_of_money(clients, account, always_use=True)
        asked = await support.generate(clients, account, source=attempt_pb2.SOURCE_CREDITS)
        assert (asked.receipt.payer, asked.receipt.fallback) == (CREDITS, False)


@pytest.mark.requirement("R9", "R11")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
class TestTheRequestsOwnFault:
    """400, 404 and 422 are the request's fault: no other key, no credits, no retry."""

    async def test_a_model_the_provider_does_not_know(
        self, clients: Clients, streamed: bool
    ) -> None:
        account = await new_account(clients, "ANY")
        key = await support.add_key(clients, account)
        status = await self._refused(clients, account, streamed, model="openai/gpt-unheard-of")
        assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        await self._assert_one_attempt_on(clients, account, key, status, 404)

    async def test_a_request_the_provider_does_not_take(
        self, clients: Clients, streamed: bool
    ) -> None:
        account = await new_account(clients, "ANY")
        # Claude takes no temperature above 1, https://platform.claude.com/docs/en/api/messages
        key = await support.add_key(clients, account, provider="anthropic")
        status = await self._refused(
            clients,
            account,
            streamed,
            model=support.MODELS["anthropic"],
            text_input=support.question(temperature=1.5),
        )
        assert (status.code, status.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PROVIDER_BAD_REQUEST",
        )
        await self._assert_one_attempt_on(clients, account, key, status, 400)

    async def _refused(
        self, clients: Clients, account: str, streamed: bool, **settings: object
    ) -> RichStatus:
        if streamed:
            got = await support.stream(clients, account, **settings)
            assert got.error is not None
            assert got.events == []
            return got.error
        return await support.refusal(support.generate(clients, account, **settings))  # type: ignore[arg-type]

    async def _assert_one_attempt_on(
        self,
        clients: Clients,
        account: str,
        key: StoredKey,
        status: RichStatus,
        http_status: int,
    ) -> None:
        [attempt] = support.attempts_of(status)
        assert (attempt.funding, attempt.key) == (OWN_KEY, key.name)
        assert attempt.http_status == http_status
        assert attempt.billed == attempt_pb2.BILLED_REFUSED
        await support.assert_untouched(clients, account)
