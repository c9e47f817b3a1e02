# SPDX-License-Identifier: Apache-2.0
"""
The walk: once through the main job against a running suite, checking every step's outcome.

Each step prints what it got. A step whose outcome is not what the product promises raises
WalkError, so the walk's success is a proof and not a show.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import grpc
import grpc.aio
from google.protobuf import field_mask_pb2
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2, live_test_pb2
from ownkey.ledger.v1 import account_pb2, entry_pb2, grant_pb2
from ownkey.router.v1 import attempt_pb2, text_pb2

from deploy.local.clients import Clients
from services.shared.ids import new_id
from services.shared.status import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from rich.console import Console

    from deploy.local.suite import Suite

NANO = 1_000_000_000
RATE_LIMIT_FAULT = "ratelimited-seconds30"
ACCOUNT_ID = "demo"
ACCOUNTS_MAX = 100
MODEL = "openai/gpt-4o-mini"
GRANT_NANO_CREDITS = 1_000 * NANO
QUESTION = "In one sentence: what is a data key?"
# Made up, in the provider's shape; the simulator takes any that names no fault.
OWN_SECRET = "sk-proj-demo-own-key-0123456789abcdefghijklmnop"  # noqa: S105
SHARED_SECRETS = {
    "openai": "sk-proj-demo-shared-key-0123456789abcdefghijkl",
    "anthropic": "sk-ant-api03-demo-shared-key-0123456789abcdefghij",
}
"""The product's keys at the providers of the models that credits choose by themselves."""
REVOKED_SECRET = "sk-proj-revoked-key-0123456789abcdefghijklmnop"  # noqa: S105


class WalkError(Exception):
    """
    A step's outcome is not what the product promises.

    Args:
        expected: What should have been.
        got: What was.
    """

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(f"expected {expected}, got {got}")


def prove(holds: bool, expected: str, got: object) -> None:  # noqa: FBT001 - reads as a sentence
    """
    Hold a step to its promise.

    Raises:
        WalkError: If it does not hold.
    """
    if not holds:
        raise WalkError(expected, got)


class Walk:
    """
    The seven steps for one account.

    Args:
        clients: Stubs to a running suite.
        console: Where steps are printed.
    """

    def __init__(self, clients: Clients, console: Console) -> None:
        self._clients = clients
        self._console = console
        self.account = ""
        self._key = ""
        self._receipt = account_pb2.PauseReceipt()
        self._asked_charge = 0

    async def run(self) -> None:
        """Take all steps in order."""
        await self._add_shared_keys()
        await self._grant()
        await self._store_keys()
        await self._pause()
        await self._generate_on_own_key()
        await self._ask_for_credits()
        await self._resume_and_fall_back()
        await self._pay_by_credits()
        await self._add_up()

    def _step(self, number: int, title: str) -> None:
        self._console.print(f"\n[bold]{number}. {title}[/bold]")

    def _say(self, text: str) -> None:
        self._console.print(f"   {text}", highlight=False)

    async def _add_shared_keys(self) -> None:
        """Give the product the shared keys, which credits pay for, that it lacks (K16)."""
        listed = await self._clients.keyvault.ListKeys(
            keyvault_service_pb2.ListKeysRequest(parent="accounts/platform"),
            metadata=self._clients.operator,
        )
        stored = {key.provider for key in listed.keys}
        for provider, secret in SHARED_SECRETS.items():
            if provider not in stored:
                await self._clients.keyvault.CreateKey(
                    keyvault_service_pb2.CreateKeyRequest(
                        parent="accounts/platform",
                        key=key_pb2.Key(provider=provider, label="shared"),
                        secret=secret,
                        request_id=new_id(),
                    ),
                    metadata=self._clients.operator,
                )

    async def _grant(self) -> None:
        self._step(1, "An account on a plan gets credits")
        created = await self._create_account()
        self.account = created.name
        granted = await self._clients.ledger.GrantCredits(
            grant_pb2.GrantCreditsRequest(
                request_id=new_id(),
                account=self.account,
                kind=grant_pb2.GRANT_KIND_PURCHASED,
                amount_nano_credits=GRANT_NANO_CREDITS,
            )
        )
        self._say(f"{created.name} on {created.plan}")
        self._say(f"balance {in_credits(granted.balance.posted_nano_credits)}")
        prove(
            granted.balance.available_nano_credits == GRANT_NANO_CREDITS,
            "the whole grant to be available",
            granted.balance.available_nano_credits,
        )

    async def _create_account(self) -> account_pb2.Account:
        """Create `demo`, or where a walk was cut off before its end the next free name after it."""
        for number in range(1, ACCOUNTS_MAX + 1):
            try:
                answer = await self._clients.ledger.CreateAccount(
                    account_pb2.CreateAccountRequest(
                        request_id=new_id(),
                        account_id=ACCOUNT_ID if number == 1 else f"{ACCOUNT_ID}-{number}",
                        plan="plans/standard",
                        billing_mode=account_pb2.BILLING_MODE_CREDITS,
                    )
                )
            except grpc.aio.AioRpcError as fault:
                if fault.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
            else:
                return answer.account
        raise WalkError("a free account name", f"{ACCOUNTS_MAX} accounts from cut-off walks")

    async def _store_keys(self) -> None:
        self._step(2, "An own key is cleaned, tested live and encrypted")
        created = await self._clients.keyvault.CreateKey(
            keyvault_service_pb2.CreateKeyRequest(
                parent=self.account,
                key=key_pb2.Key(provider="openai", label="my key"),
                secret=f"  Bearer {OWN_SECRET} \n",
                request_id=new_id(),
            )
        )
        self._key = created.key.name
        found = live_test_pb2.TestResult.Name(created.test.result)
        self._say(f"{created.key.name}: {found.removeprefix('TEST_RESULT_')}")
        self._say(f"hint [bold]{created.key.hint}[/bold]; the secret itself never comes back")
        prove(
            created.key.hint.endswith(OWN_SECRET[-4:]) and OWN_SECRET not in str(created),
            "a hint with the last four characters and no secret",
            created.key.hint,
        )
        refused = await self._refusal(
            self._clients.keyvault.CreateKey(
                keyvault_service_pb2.CreateKeyRequest(
                    parent=self.account,
                    key=key_pb2.Key(provider="openai"),
                    secret=REVOKED_SECRET,
                    request_id=new_id(),
                )
            )
        )
        self._say(f"a revoked key is refused: {refused}")
        prove(refused.startswith("KEY_INVALID"), "KEY_INVALID", refused)

    async def _pause(self) -> None:
        self._step(3, "Own key only: credits pause, with a receipt")
        answer = await self._set_mode(account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        self._receipt = answer.receipt
        self._say(
            f"receipt: {in_credits(answer.receipt.posted_nano_credits)} owned, "
            f"{answer.receipt.open_hold_count} holds open, epoch {answer.receipt.mode_epoch}"
        )
        self._say(f"digest {answer.receipt.digest.hex()[:16]}…")
        prove(len(answer.receipt.digest) == 32, "a receipt", answer)  # noqa: PLR2004 - SHA-256

    async def _generate_on_own_key(self) -> None:
        self._step(4, "Text on the own key, unary and streamed")
        before = await self._posted()
        answer = await self._generate()
        self._say(f"“{answer.text}”")
        self._say(paid(answer.receipt))
        prove(
            answer.receipt.payer == attempt_pb2.FUNDING_OWN_KEY,
            "the own key to pay",
            answer.receipt,
        )
        pieces, finish = [], None
        async for message in self._clients.router.StreamText(
            text_pb2.StreamTextRequest(
                account=self.account, request_id=new_id(), model=MODEL, input=question()
            )
        ):
            if message.WhichOneof("event") == "text_delta":
                pieces.append(message.text_delta)
            elif message.WhichOneof("event") == "finish":
                finish = message.finish
        self._say(f"streamed: “{'·'.join(pieces)}”")
        prove(finish is not None, "exactly one end", finish)
        after = await self._posted()
        self._say(f"balance {in_credits(after)}: the same to the last unit")
        prove(before == after, f"{before} nano-credits", after)

    async def _ask_for_credits(self) -> None:
        self._step(5, "One request asks for credits and is charged exactly")
        before = await self._posted()
        answer = await self._generate(source=attempt_pb2.SOURCE_CREDITS)
        self._asked_charge = answer.receipt.charged_nano_credits
        after = await self._posted()
        self._say(paid(answer.receipt))
        self._say(f"balance {in_credits(before)} → {in_credits(after)}")
        prove(before - after == self._asked_charge > 0, "the charge to be the difference", after)

    async def _resume_and_fall_back(self) -> None:
        self._step(6, "Own key first: credits resume and are proven; a rate limit falls back")
        resumed = await self._set_mode(account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        proof = resumed.proof
        self._say(
            f"proof: {in_credits(proof.receipt.posted_nano_credits)} - "
            f"{in_credits(proof.explicit_charged_nano_credits)} asked for = "
            f"{in_credits(proof.posted_nano_credits)}: {'proven' if proof.proven else 'NOT proven'}"
        )
        prove(
            proof.proven
            and proof.receipt.digest == self._receipt.digest
            and proof.posted_nano_credits == self._receipt.posted_nano_credits - self._asked_charge,
            "the receipt's balance less exactly the charge asked for",
            proof.posted_nano_credits,
        )
        async with self._own_key_rate_limited():
            answer = await self._generate()
            self._say(paid(answer.receipt))
            prove(
                answer.receipt.payer == attempt_pb2.FUNDING_CREDITS and answer.receipt.fallback,
                "a fallback to credits that says so",
                answer.receipt,
            )
            await self._always_use(value=True)
            refused = await self._refusal(
                self._clients.router.GenerateText(self._request(), timeout=5)
            )
            self._say(f"with always_use the same is refused: {refused}")
            prove(
                refused.startswith(("RATE_LIMITED", "FALLBACK_NOT_ALLOWED")),
                "the rate limit as the reason, and no charge",
                refused,
            )
            await self._always_use(value=False)

    async def _pay_by_credits(self) -> None:
        self._step(7, "The key is disabled and credits pay again")
        await self._clients.keyvault.DisableKey(
            keyvault_service_pb2.DisableKeyRequest(name=self._key, request_id=new_id())
        )
        await self._set_mode(account_pb2.BILLING_MODE_CREDITS)
        answer = await self._generate()
        self._say(paid(answer.receipt))
        prove(
            answer.receipt.payer == attempt_pb2.FUNDING_CREDITS and not answer.receipt.fallback,
            "credits to pay, as no fallback",
            answer.receipt,
        )

    async def _add_up(self) -> None:
        balance = await self._posted()
        text = b""
        async for piece in self._clients.ledger.ExportStatement(
            entry_pb2.ExportStatementRequest(
                account=self.account, format=entry_pb2.STATEMENT_FORMAT_JSON_LINES
            )
        ):
            text += piece.chunk
        lines = [json.loads(line) for line in text.decode().splitlines()]
        entries = [line for line in lines if line["line"] == "entry"]
        changes = sum(line["change_nano_credits"] for line in entries)
        opening, closing = (
            next(line["posted_nano_credits"] for line in lines if line["line"] == kind)
            for kind in ("opening", "closing")
        )
        self._say(
            f"statement: {in_credits(opening)} {'+' if changes >= 0 else '-'} "
            f"{in_credits(abs(changes))} over {len(entries)} entries = {in_credits(closing)}, "
            "the balance"
        )
        prove(
            opening + changes == closing == balance, "the statement to add up to the balance", lines
        )

    def _request(
        self, source: attempt_pb2.Source.ValueType = attempt_pb2.SOURCE_AUTO
    ) -> text_pb2.GenerateTextRequest:
        return text_pb2.GenerateTextRequest(
            account=self.account, request_id=new_id(), model=MODEL, source=source, input=question()
        )

    async def _generate(
        self, source: attempt_pb2.Source.ValueType = attempt_pb2.SOURCE_AUTO
    ) -> text_pb2.GenerateTextResponse:
        return await self._clients.router.GenerateText(self._request(source))

    async def _set_mode(
        self, mode: account_pb2.BillingMode.ValueType
    ) -> account_pb2.SetBillingModeResponse:
        return await self._clients.ledger.SetBillingMode(
            account_pb2.SetBillingModeRequest(
                request_id=new_id(), account=self.account, billing_mode=mode
            )
        )

    async def _posted(self) -> int:
        answer = await self._clients.ledger.GetBalance(
            grant_pb2.GetBalanceRequest(account=self.account)
        )
        return answer.balance.posted_nano_credits

    async def _always_use(self, *, value: bool) -> None:
        await self._clients.keyvault.UpdateKey(
            keyvault_service_pb2.UpdateKeyRequest(
                key=key_pb2.Key(name=self._key, always_use=value),
                update_mask=field_mask_pb2.FieldMask(paths=["always_use"]),
                request_id=new_id(),
            )
        )

    @asynccontextmanager
    async def _own_key_rate_limited(self) -> AsyncIterator[None]:
        """Have the simulator refuse the own key with 429 for a while."""
        digest = hashlib.sha256(OWN_SECRET.encode()).hexdigest()
        address = f"http://{self._clients.addresses.simulator}/control/keys/{digest}"
        async with aiohttp.ClientSession() as session:
            async with session.post(address, json={"fault": RATE_LIMIT_FAULT}) as answer:
                answer.raise_for_status()
            try:
                yield
            finally:
                async with session.delete(address) as answer:
                    answer.raise_for_status()

    async def _refusal(self, call: Awaitable[object]) -> str:
        """Return the reason and the sentence of a call that must be refused."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as fault:
            status = from_rpc_error(fault)
            return f"{status.reason}: {status.message}"
        raise WalkError("a refusal", answer)


async def walk(suite: Suite, console: Console) -> str:
    """
    Take the walk once, for the account `demo`.

    Args:
        suite: A running suite.
        console: Where steps are printed.

    Returns:
        The account's name: another than `accounts/demo` if that exists from a walk cut off.

    Raises:
        WalkError: If an outcome is not what the product promises.
        grpc.aio.AioRpcError: If a call failed that must not.
    """
    async with suite.clients() as clients:
        taken = Walk(clients, console)
        await taken.run()
        return taken.account


async def look_again(suite: Suite, console: Console, account: str) -> None:
    """
    Show that what an earlier run left still stands: balances as they were, keys that decrypt.

    Args:
        suite: A running suite.
        console: Where it is printed.
        account: The account that the walk was taken for.

    Raises:
        grpc.aio.AioRpcError: If something no longer stands.
    """
    async with suite.clients() as clients:
        answer = await clients.ledger.GetBalance(grant_pb2.GetBalanceRequest(account=account))
        listed = await clients.keyvault.ListKeys(
            keyvault_service_pb2.ListKeysRequest(parent=account)
        )
        console.print("\n[bold]Kept from the run before[/bold] (`make tour` takes the walk anew)")
        balance = in_credits(answer.balance.posted_nano_credits)
        console.print(f"   {account}: balance {balance}", highlight=False)
        for key in listed.keys:
            tested = await clients.keyvault.TestKey(
                keyvault_service_pb2.TestKeyRequest(name=key.name)
            )
            found = live_test_pb2.TestResult.Name(tested.test.result).removeprefix("TEST_RESULT_")
            state = key_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_").lower()
            console.print(
                f"   {key.name} ({key.hint}, {state}): decrypts, tested {found}", highlight=False
            )


def question() -> text_pb2.TextInput:
    """Return what the walk asks."""
    part = text_pb2.Part(text=QUESTION)
    return text_pb2.TextInput(
        messages=[text_pb2.Message(role=text_pb2.ROLE_USER, parts=[part])], max_output_tokens=64
    )


def in_credits(nano: int) -> str:
    """Show an amount of nano-credits in credits, to the last unit."""
    whole, rest = divmod(abs(nano), NANO)
    fraction = f"{rest:09d}".rstrip("0")
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole:,}{'.' + fraction if fraction else ''} credits"


def paid(receipt: attempt_pb2.Receipt) -> str:
    """Say who paid for an answer, what it cost and how it got there."""
    steps = " → ".join(
        f"{attempt.provider} on {payer(attempt.funding, attempt.key_hint)}: "
        f"{attempt_pb2.Outcome.Name(attempt.outcome).removeprefix('OUTCOME_')}"
        for attempt in receipt.attempts
    )
    usd = f"${receipt.cost_nano_usd / NANO:.9f}".rstrip("0")
    charged = in_credits(receipt.charged_nano_credits)
    return (
        f"paid by {payer(receipt.payer, receipt.key_hint)}: {charged}, vendor cost {usd} "
        f"[dim]({steps})[/dim]"
    )


def payer(funding: attempt_pb2.Funding.ValueType, key_hint: str) -> str:
    """Name the side that pays."""
    return f"own key {key_hint}" if funding == attempt_pb2.FUNDING_OWN_KEY else "credits"
