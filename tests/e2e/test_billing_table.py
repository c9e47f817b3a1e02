# SPDX-License-Identifier: Apache-2.0
"""
The table of billing mode and source, cell by cell, through gRPC.

| billing mode | AUTO | OWN_KEY | CREDITS |
| --- | --- | --- | --- |
| CREDITS | credits | refused, SOURCE_NOT_ALLOWED | credits |
| OWN_KEY_FIRST | own key, then credits by consent | own key only | credits |
| OWN_KEY_ONLY | own key only | own key only | credits, because asked for |

Each cell is told once with a key that serves and once for each way not to have one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import pytest
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.clients import Clients
from services.shared.status import RichStatus
from tests.e2e import support
from tests.e2e.support import CREDITS, OWN_KEY, StoredKey

MODES = ("CREDITS", "OWN_KEY_FIRST", "OWN_KEY_ONLY")
SOURCES = ("AUTO", "OWN_KEY", "CREDITS")
CELLS = [(mode, source) for mode in MODES for source in SOURCES]


@dataclass(frozen=True, slots=True)
class Pays:
    """
    The request is served.

    Args:
        payer: By whom.
        fallback: Whether credits stand in for an own key.
    """

    payer: attempt_pb2.Funding.ValueType
    fallback: bool = False


BY_CREDITS = Pays(CREDITS)
BY_OWN_KEY = Pays(OWN_KEY)
BY_FALLBACK = Pays(CREDITS, fallback=True)
NOT_ALLOWED = "SOURCE_NOT_ALLOWED"
NO_KEY = "NO_USABLE_OWN_KEY"

WITH_A_KEY: dict[tuple[str, str], Pays | str] = {
    ("CREDITS", "AUTO"): BY_CREDITS,
    ("CREDITS", "OWN_KEY"): NOT_ALLOWED,
    ("CREDITS", "CREDITS"): BY_CREDITS,
    ("OWN_KEY_FIRST", "AUTO"): BY_OWN_KEY,
    ("OWN_KEY_FIRST", "OWN_KEY"): BY_OWN_KEY,
    ("OWN_KEY_FIRST", "CREDITS"): BY_CREDITS,
    ("OWN_KEY_ONLY", "AUTO"): BY_OWN_KEY,
    ("OWN_KEY_ONLY", "OWN_KEY"): BY_OWN_KEY,
    ("OWN_KEY_ONLY", "CREDITS"): BY_CREDITS,
}
# What becomes of OWN_KEY_FIRST with AUTO depends on why there is no usable key: see below.
WITHOUT_A_KEY: dict[tuple[str, str], Pays | str] = {
    **WITH_A_KEY,
    ("OWN_KEY_FIRST", "OWN_KEY"): NO_KEY,
    ("OWN_KEY_ONLY", "AUTO"): NO_KEY,
    ("OWN_KEY_ONLY", "OWN_KEY"): NO_KEY,
}


async def _nothing_stored(clients: Clients, account: str) -> None:
    assert await support.list_keys(clients, account) == []


async def _none_for_the_model(clients: Clients, account: str) -> None:
    await support.add_key(clients, account, allowed_models=["openai/gpt-4.1-mini"])


async def _disabled(clients: Clients, account: str) -> None:
    await support.disable_key(clients, await support.add_key(clients, account))


async def _rejected(clients: Clients, account: str) -> None:
    key = await support.add_key(clients, account)
    async with support.fault(clients, key.secret, "revoked"):
        await support.check_key(clients, key)


async def _out_of_money(clients: Clients, account: str) -> None:
    await support.add_key(clients, account, fault="nocredit")


async def _cooling(clients: Clients, account: str) -> None:
    await support.add_key(clients, account, fault="ratelimited-seconds300")


@dataclass(frozen=True, slots=True)
class NoUsableKey:
    """
    A way to have no usable key.

    Args:
        arrange: Brings an account into it.
        state: What the refusal calls it.
        own_key_first: What OWN_KEY_FIRST makes of AUTO.
        remedy: A word of the remedy that a refusal must name.
    """

    arrange: Callable[[Clients, str], Awaitable[None]]
    state: str
    own_key_first: Pays
    remedy: str


NO_USABLE_KEY = {
    "nothing stored": NoUsableKey(_nothing_stored, "NONE_STORED", BY_CREDITS, "add one"),
    "none for the model": NoUsableKey(
        _none_for_the_model, "NONE_FOR_MODEL", BY_CREDITS, "another model"
    ),
    "disabled": NoUsableKey(_disabled, "DISABLED", BY_CREDITS, "enable"),
    "rejected": NoUsableKey(_rejected, "REJECTED", BY_FALLBACK, "replace"),
    "out of money": NoUsableKey(_out_of_money, "NO_CREDIT", BY_FALLBACK, "top it up"),
    "cooling": NoUsableKey(_cooling, "COOLING", BY_FALLBACK, "wait"),
}


async def new_account(clients: Clients, mode: str) -> str:
    return await support.new_account(
        clients, mode=account_pb2.BillingMode.Value(f"BILLING_MODE_{mode}")
    )


async def ask(
    clients: Clients, account: str, source: str, *, streamed: bool
) -> attempt_pb2.Receipt | RichStatus:
    """Generate as a whole or as a stream; the receipt, or what it was refused with."""
    wanted = attempt_pb2.Source.Value(f"SOURCE_{source}")
    if streamed:
        got = await support.stream(clients, account, source=wanted)
        if got.error is not None:
            assert got.events == []
            return got.error
        assert got.start is not None
        assert got.text == support.predicted_text("openai")
        assert (got.start.payer, got.start.fallback, got.start.key_hint) == (
            got.receipt.payer,
            got.receipt.fallback,
            got.receipt.key_hint,
        )
        return got.receipt
    try:
        answer = await support.generate(clients, account, source=wanted)
    except grpc.aio.AioRpcError as failure:
        return support.from_rpc_error(failure)
    assert answer.text == support.predicted_text("openai")
    return answer.receipt


async def assert_paid(
    clients: Clients,
    account: str,
    receipt: attempt_pb2.Receipt,
    expected: Pays,
    *,
    key: StoredKey | None = None,
) -> None:
    """The right side paid, exactly, and the other side nothing."""
    cost = support.predicted_cost(receipt.price, "openai")
    charge = support.credit_price(cost) if expected.payer == CREDITS else 0
    hint = key.hint if key is not None and expected.payer == OWN_KEY else ""
    assert receipt.payer == expected.payer
    assert receipt.fallback == expected.fallback
    assert receipt.key_hint == hint
    assert receipt.settlement_state == attempt_pb2.SETTLEMENT_STATE_SETTLED
    assert receipt.cost_nano_usd == cost > 0
    assert receipt.charged_nano_credits == charge
    [attempt] = receipt.attempts
    assert (attempt.funding, attempt.fallback) == (expected.payer, expected.fallback)
    assert (attempt.cost_nano_usd, attempt.charged_nano_credits) == (cost, charge)
    assert attempt.key == (key.name if key is not None and expected.payer == OWN_KEY else "")
    after = await support.balance(clients, account)
    assert after.posted_nano_credits == support.GRANT_NANO_CREDITS - charge
    assert after.available_nano_credits == after.posted_nano_credits
    assert after.reserved_nano_credits == 0
    assert (after.spent_nano_credits, after.fees_nano_credits) == (charge, 0)


@pytest.mark.requirement("L5", "R7", "L13", "R12")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("mode", "source"), CELLS)
class TestTable:
    """Every cell, with a key that serves and without."""

    async def test_with_a_usable_key(
        self, clients: Clients, mode: str, source: str, streamed: bool
    ) -> None:
        account = await new_account(clients, mode)
        key = await support.add_key(clients, account)
        tested = await support.recorded_requests(clients, key.secret)
        got = await ask(clients, account, source, streamed=streamed)
        calls = (await support.recorded_requests(clients, key.secret))[len(tested) :]
        expected = WITH_A_KEY[mode, source]
        if isinstance(expected, Pays):
            assert isinstance(got, attempt_pb2.Receipt), got
            await assert_paid(clients, account, got, expected, key=key)
            assert [c["stream"] for c in calls] == [streamed] * (expected.payer == OWN_KEY)
        else:
            assert isinstance(got, RichStatus), got
            self._assert_source_not_allowed(got)
            await support.assert_untouched(clients, account)
            assert calls == []

    @pytest.mark.parametrize("why", NO_USABLE_KEY)
    async def test_without_a_usable_key(
        self, clients: Clients, mode: str, source: str, streamed: bool, why: str
    ) -> None:
        absence = NO_USABLE_KEY[why]
        account = await new_account(clients, mode)
        await absence.arrange(clients, account)
        got = await ask(clients, account, source, streamed=streamed)
        expected = WITHOUT_A_KEY[mode, source]
        if (mode, source) == ("OWN_KEY_FIRST", "AUTO"):
            expected = absence.own_key_first
        if isinstance(expected, Pays):
            assert isinstance(got, attempt_pb2.Receipt), got
            await assert_paid(clients, account, got, expected)
            return
        assert isinstance(got, RichStatus), got
        if expected == NOT_ALLOWED:
            self._assert_source_not_allowed(got)
        else:
            assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, NO_KEY)
            assert got.metadata["own_key_state"] == absence.state
            assert got.metadata["billing_mode"] == mode
            assert absence.remedy in got.message
            assert "ask for CREDITS" in got.message
            assert support.attempts_of(got) == []
        await support.assert_untouched(clients, account)

    def _assert_source_not_allowed(self, status: RichStatus) -> None:
        assert (status.code, status.reason) == (grpc.StatusCode.FAILED_PRECONDITION, NOT_ALLOWED)
        assert status.metadata["field"] == "source"
        assert status.metadata["source"] == "OWN_KEY"
        assert status.metadata["billing_mode"] == "CREDITS"
        assert "SetBillingMode" in status.message
        assert support.attempts_of(status) == []


@pytest.mark.requirement("R7", "R9", "L5", "L13")
class TestAroundTheTable:
    """What the cells do not say by themselves."""

    @pytest.mark.parametrize("mode", MODES)
    async def test_always_use_never_blocks_credits_that_are_asked_for(
        self, clients: Clients, mode: str
    ) -> None:
        account = await new_account(clients, mode)
        await support.add_key(clients, account, always_use=True)
        got = await ask(clients, account, "CREDITS", streamed=False)
        assert isinstance(got, attempt_pb2.Receipt), got
        await assert_paid(clients, account, got, BY_CREDITS)

    @pytest.mark.parametrize(
        ("mode", "source"),
        [("OWN_KEY_FIRST", "OWN_KEY"), ("OWN_KEY_ONLY", "AUTO"), ("OWN_KEY_ONLY", "OWN_KEY")],
    )
    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ("ratelimited-seconds60", "RATE_LIMITED"),
            ("revoked", "KEY_INVALID"),
            ("nocredit", "KEY_NO_CREDIT"),
            ("forbidden", "KEY_FORBIDDEN"),
            ("error500", "PROVIDER_DOWN"),
        ],
    )
    async def test_own_key_only_stays_so_when_the_key_fails_in_the_request(
        self, clients: Clients, mode: str, source: str, words: str, reason: str
    ) -> None:
        account = await new_account(clients, mode)
        key = await support.add_key(clients, account)
        async with support.fault(clients, key.secret, words):
            got = await ask(clients, account, source, streamed=False)
        assert isinstance(got, RichStatus), got
        assert got.reason == reason
        attempts = support.attempts_of(got)
        assert {(a.funding, a.key, a.key_hint) for a in attempts} == {(OWN_KEY, key.name, key.hint)}
        await support.assert_untouched(clients, account)

    @pytest.mark.parametrize("mode", ["OWN_KEY_FIRST", "OWN_KEY_ONLY"])
    async def test_an_own_key_pays_without_any_credits(self, clients: Clients, mode: str) -> None:
        account = await support.new_account(
            clients, mode=account_pb2.BillingMode.Value(f"BILLING_MODE_{mode}"), nano_credits=0
        )
        key = await support.add_key(clients, account)
        answer = await support.generate(clients, account)
        assert (answer.receipt.payer, answer.receipt.key_hint) == (OWN_KEY, key.hint)
        assert (await support.balance(clients, account)).posted_nano_credits == 0

    async def test_credits_that_do_not_reach_are_refused_before_anything_is_sent(
        self, clients: Clients
    ) -> None:
        account = await support.new_account(clients, nano_credits=1)
        shared = support.shared_secret(clients.addresses.simulator, "openai")
        before = await support.recorded_requests(clients, shared)
        status = await support.refusal(support.generate(clients, account))
        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "INSUFFICIENT_CREDITS",
        )
        assert int(status.metadata["needed_nano_credits"]) > 1
        assert status.metadata["available_nano_credits"] == "1"
        assert await support.recorded_requests(clients, shared) == before
        assert (await support.balance(clients, account)).available_nano_credits == 1
