# SPDX-License-Identifier: Apache-2.0
"""The LedgerService: reads requests, calls use cases, writes answers. Errors are raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from ownkey.ledger.v1 import account_pb2, grant_pb2, plan_pb2
from ownkey.ledger.v1 import ledger_service_pb2_grpc as pb_grpc

from services.ledger.domain.accounts import GrantKind
from services.ledger.domain.files import AccountFile
from services.ledger.domain.modes import BillingMode, FallbackConsent
from services.ledger.domain.money import CREDITS_MAX
from services.ledger.domain.plans import PlanBook
from services.ledger.rpc import answers, parse
from services.ledger.rpc.attempts import AttemptRpcs
from services.ledger.rpc.reads import ReadRpcs
from services.ledger.usecases.accounts import Accounts, AccountUpdate, ModeSwitched, NewAccount
from services.ledger.usecases.attempts import Attempts
from services.ledger.usecases.chain import Chains
from services.ledger.usecases.credits import (
    GrantCommand,
    adjust_credits,
    grant_credits,
    read_balance,
)
from services.ledger.usecases.operations import Operation, operate
from services.ledger.usecases.ports import LedgerReader, LedgerStore
from services.ledger.usecases.refunds import RefundCommand, refund
from services.shared.boundary import current_call
from services.shared.errors import InvalidArgumentError
from services.shared.fingerprint import fingerprint
from services.shared.ids import parse_uuid
from services.shared.paging import PageTokens
from services.shared.secret import Secret

BODY_VERSION = 1
"""Version of what an operation's fingerprint is taken of: the request, serialized in order."""

RESERVED_ACCOUNTS = frozenset({"platform"})
"""Owners of the product's own things, which are no customers."""

UPDATABLE = ("plan", "fallback_consent", "fallback_daily_cap_nano_credits")


class LedgerServicer(AttemptRpcs, ReadRpcs, pb_grpc.LedgerServiceServicer):
    """
    Serves the ledger.

    Args:
        store: Changes the ledger.
        reader: Reads it.
        chains: Checks its hash chains.
        plans: The plans.
        attempts: Runs Authorize, Renew, Capture and Release.
        accounts: Makes and changes accounts.
        key: Keys the fingerprints of requests.
        new_id: Makes ids of grants.
    """

    def __init__(
        self,
        *,
        store: LedgerStore,
        reader: LedgerReader,
        chains: Chains,
        plans: PlanBook,
        attempts: Attempts,
        accounts: Accounts,
        key: Secret,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._reader = reader
        self._chains = chains
        self._plans = plans
        self._attempts = attempts
        self._accounts = accounts
        self._key = key
        self._new_id = new_id
        # Tokens grant nothing; a key of this process's own would break paging over replicas.
        self._pages = PageTokens(fingerprint(key, version=1, fields=[("page_tokens", b"")]))

    async def CreateAccount(
        self, request: account_pb2.CreateAccountRequest, _context: Any
    ) -> account_pb2.CreateAccountResponse:
        """Create an account."""
        account_id = parse.account_id(f"accounts/{request.account_id}", "account_id")
        if account_id in RESERVED_ACCOUNTS:
            raise InvalidArgumentError.of("account_id", f"{account_id} is reserved; choose another")
        plan = self._plans.get(parse.PLAN.parse(request.plan, "plan")["plan"])
        mode = parse.optional_word(
            BillingMode, account_pb2.BillingMode, request.billing_mode, "billing_mode"
        )
        consent = parse.optional_word(
            FallbackConsent,
            account_pb2.FallbackConsent,
            request.fallback_consent,
            "fallback_consent",
        )
        new = NewAccount(
            plan=plan,
            billing_mode=mode or plan.default_mode,
            fallback_consent=consent or FallbackConsent.ANY,
            fallback_daily_cap=_cap(request),
        )
        self._plans.require_mode(plan, new.billing_mode)
        operation = self._operation(request, account_id)

        def work(file: AccountFile) -> bytes:
            account = self._accounts.create(file, new, actor=operation.actor)
            response = account_pb2.CreateAccountResponse(account=answers.account(account))
            return response.SerializeToString()

        answer = await operate(self._store, operation, work, plans=self._plans, create=True)
        return account_pb2.CreateAccountResponse.FromString(answer)

    async def GetAccount(
        self, request: account_pb2.GetAccountRequest, _context: Any
    ) -> account_pb2.GetAccountResponse:
        """Get an account."""
        account = await self._accounts.get(parse.account_id(request.name, "name"))
        return account_pb2.GetAccountResponse(account=answers.account(account))

    async def UpdateAccount(
        self, request: account_pb2.UpdateAccountRequest, _context: Any
    ) -> account_pb2.UpdateAccountResponse:
        """Change plan, consent or cap."""
        account_id = parse.account_id(request.account.name, "account.name")
        update = _account_update(request)
        operation = self._operation(request, account_id)

        def work(file: AccountFile) -> bytes:
            switched = self._accounts.update(file, update, actor=operation.actor)
            response = account_pb2.UpdateAccountResponse(account=answers.account(file.account))
            _add_switch(response, switched)
            return response.SerializeToString()

        answer = await operate(self._store, operation, work, plans=self._plans, open_holds=True)
        response = account_pb2.UpdateAccountResponse.FromString(answer)
        await self._add_proof(response, account_id)
        return response

    async def SetBillingMode(
        self, request: account_pb2.SetBillingModeRequest, _context: Any
    ) -> account_pb2.SetBillingModeResponse:
        """Change who pays."""
        account_id = parse.account_id(request.account)
        mode = parse.word(
            BillingMode, account_pb2.BillingMode, request.billing_mode, "billing_mode"
        )
        operation = self._operation(request, account_id)

        def work(file: AccountFile) -> bytes:
            switched = self._accounts.set_billing_mode(file, mode, actor=operation.actor)
            response = account_pb2.SetBillingModeResponse(account=answers.account(file.account))
            _add_switch(response, switched)
            return response.SerializeToString()

        answer = await operate(self._store, operation, work, plans=self._plans, open_holds=True)
        response = account_pb2.SetBillingModeResponse.FromString(answer)
        await self._add_proof(response, account_id)
        return response

    async def ListPlans(
        self, request: plan_pb2.ListPlansRequest, _context: Any
    ) -> plan_pb2.ListPlansResponse:
        """List the plans."""
        return plan_pb2.ListPlansResponse(plans=[answers.plan(p) for p in self._plans.all()])

    async def GrantCredits(
        self, request: grant_pb2.GrantCreditsRequest, _context: Any
    ) -> grant_pb2.GrantCreditsResponse:
        """Add credits."""
        kind = parse.word(GrantKind, grant_pb2.GrantKind, request.kind, "kind")
        if kind is GrantKind.ADJUSTMENT:
            raise InvalidArgumentError.of(
                "kind", "must be MONTHLY, PURCHASED or PROMOTIONAL; use AdjustCredits to adjust"
            )
        command = GrantCommand(
            grant_id=f"g{self._new_id()}",
            kind=kind,
            amount=parse.amount(request.amount_nano_credits, "amount_nano_credits"),
            expire_time=parse.optional_time(request, "expire_time"),
            note=parse.text(request.note, "note"),
        )
        operation = self._operation(request, parse.account_id(request.account))

        def work(file: AccountFile) -> bytes:
            grant = grant_credits(file, command, actor=operation.actor)
            response = grant_pb2.GrantCreditsResponse(
                grant=answers.grant(file, grant), balance=answers.balance(file)
            )
            return response.SerializeToString()

        answer = await operate(self._store, operation, work, plans=self._plans)
        return grant_pb2.GrantCreditsResponse.FromString(answer)

    async def AdjustCredits(
        self, request: grant_pb2.AdjustCreditsRequest, _context: Any
    ) -> grant_pb2.AdjustCreditsResponse:
        """Correct the balance by hand."""
        amount = parse.bounded(
            request.amount_nano_credits, "amount_nano_credits", low=-CREDITS_MAX, high=CREDITS_MAX
        )
        if amount == 0:
            raise InvalidArgumentError.of("amount_nano_credits", "must not be zero")
        reason = parse.text(request.reason, "reason", low=1)
        grant_id = f"g{self._new_id()}"
        account_id = parse.account_id(request.account)
        operation = self._operation(request, account_id)

        def work(file: AccountFile) -> bytes:
            entries = adjust_credits(
                file, grant_id=grant_id, amount=amount, reason=reason, actor=operation.actor
            )
            response = grant_pb2.AdjustCreditsResponse(
                entries=[answers.entry(account_id, entry) for entry in entries],
                balance=answers.balance(file),
            )
            return response.SerializeToString()

        answer = await operate(self._store, operation, work, plans=self._plans)
        return grant_pb2.AdjustCreditsResponse.FromString(answer)

    async def RefundCharge(
        self, request: grant_pb2.RefundChargeRequest, _context: Any
    ) -> grant_pb2.RefundChargeResponse:
        """Refund a captured charge."""
        place = parse.AUTHORIZATION.parse(request.authorization, "authorization")
        account_id = place["account"]
        request_id, run, sequence = parse.attempt_id(place["authorization"], "authorization")
        amount = None
        if request.HasField("amount_nano_credits"):
            amount = parse.amount(request.amount_nano_credits, "amount_nano_credits")
        reason = parse.text(request.reason, "reason", low=1)
        operation = self._operation(request, account_id)
        found = await self._reader.attempt(
            account_id, request_id=request_id, run=run, sequence=sequence
        )
        claimant = found[0].claimant if found else ""
        command = RefundCommand(request_id, claimant, sequence, amount, reason)

        def work(file: AccountFile) -> bytes:
            attempt, entries = refund(file, command, actor=operation.actor)
            response = grant_pb2.RefundChargeResponse(
                authorization=answers.authorization(
                    account_id, attempt, file.requests[request_id], lease=self._attempts.lease
                ),
                entries=[answers.entry(account_id, entry) for entry in entries],
                balance=answers.balance(file),
            )
            return response.SerializeToString()

        wanted = (request_id, claimant)
        answer = await operate(self._store, operation, work, plans=self._plans, attempt=wanted)
        return grant_pb2.RefundChargeResponse.FromString(answer)

    async def GetBalance(
        self, request: grant_pb2.GetBalanceRequest, _context: Any
    ) -> grant_pb2.GetBalanceResponse:
        """Get what an account owns."""
        account_id = parse.account_id(request.account)
        balance = await read_balance(self._store, account_id, answers.balance, plans=self._plans)
        return grant_pb2.GetBalanceResponse(balance=balance)

    def _operation(self, request: Any, account_id: str) -> Operation:
        call = current_call()
        body: Message = request
        return Operation(
            name=type(body).DESCRIPTOR.name,
            account_id=account_id,
            request_id=parse_uuid(request.request_id, "request_id"),
            fingerprint=fingerprint(
                self._key,
                version=BODY_VERSION,
                fields=[("request", body.SerializeToString(deterministic=True))],
            ),
            actor=call.identity if call else "",
        )

    async def _add_proof(self, response: Any, account_id: str) -> None:
        """Prove a pause that ended, from the record: then as now, the same."""
        if response.HasField("proof"):
            proof = await self._accounts.prove(account_id, response.account.mode_epoch)
            response.proof.CopyFrom(answers.proof(proof))


def _add_switch(response: Any, switched: ModeSwitched) -> None:
    """Add the receipt, and mark that a proof belongs here."""
    if switched.receipt is not None:
        response.receipt.CopyFrom(answers.receipt(switched.receipt))
    if switched.resumed:
        response.proof.SetInParent()


def _cap(message: Any) -> int | None:
    if not message.HasField("fallback_daily_cap_nano_credits"):
        return None
    return parse.bounded(
        message.fallback_daily_cap_nano_credits,
        "fallback_daily_cap_nano_credits",
        low=0,
        high=CREDITS_MAX,
    )


def _account_update(request: account_pb2.UpdateAccountRequest) -> AccountUpdate:
    paths = list(request.update_mask.paths)
    if not paths or not set(paths) <= set(UPDATABLE):
        raise InvalidArgumentError.of(
            "update_mask", f"must name what to change, of {', '.join(UPDATABLE)}"
        )
    account = request.account
    mode = parse.optional_word(
        BillingMode, account_pb2.BillingMode, request.billing_mode, "billing_mode"
    )
    if mode is not None and "plan" not in paths:
        raise InvalidArgumentError.of(
            "billing_mode", "goes with a change of plan only; else use SetBillingMode"
        )
    consent = None
    if "fallback_consent" in paths:
        consent = parse.word(
            FallbackConsent,
            account_pb2.FallbackConsent,
            account.fallback_consent,
            "account.fallback_consent",
        )
    return AccountUpdate(
        etag=account.etag,
        plan_id=parse.PLAN.parse(account.plan, "account.plan")["plan"] if "plan" in paths else None,
        billing_mode=mode,
        fallback_consent=consent,
        fallback_daily_cap=_cap(account),
        set_cap="fallback_daily_cap_nano_credits" in paths,
    )
