# SPDX-License-Identifier: Apache-2.0
"""Commands and operations for tests of the ledger's use cases, without gRPC."""

from __future__ import annotations

import hashlib
from typing import Any

from services.ledger.domain.accounts import GrantKind
from services.ledger.domain.files import AccountFile
from services.ledger.domain.modes import (
    BillingMode,
    FallbackConsent,
    OwnKeyState,
    Source,
)
from services.ledger.domain.modes import (
    Operation as Kind,
)
from services.ledger.domain.plans import Plan, PlanBook
from services.ledger.domain.requests import Capture, PriceRow, UsageBasis
from services.ledger.domain.usage import UsageUnits
from services.ledger.usecases.accounts import Accounts, NewAccount
from services.ledger.usecases.commands import (
    AuthorizeCommand,
    CreditTerms,
    RenewCommand,
    SettleCommand,
    SettleTerms,
)
from services.ledger.usecases.credits import GrantCommand, grant_credits
from services.ledger.usecases.operations import Operation, operate
from services.ledger.usecases.ports import LedgerStore, Wanted
from services.shared.secret import Secret

PLAN = Plan(
    plan_id="even",
    title="Even",
    allowed_modes=tuple(BillingMode),
    default_mode=BillingMode.CREDITS,
    credit_value_nano_usd=1_000_000_000,
    markup_parts_per_million=1_000_000,
    operation_prices={},
    model_prices={},
    monthly_grant_nano_credits=0,
    overdraft_nano_credits=0,
    fee=None,
)
PLANS = PlanBook({"even": PLAN})
PRICE = PriceRow("openai/gpt-4o-mini", "openai", "p1")
ACCOUNTS = Accounts(plans=PLANS, receipt_key=Secret("k" * 32), reader=None)  # type: ignore[arg-type]


def authorize_command(request_id: str, *, worst_case: int = 100, **fields: Any) -> AuthorizeCommand:
    """Return an Authorize of `demo` on credits."""
    values: dict[str, Any] = {
        "account_id": "demo",
        "request_id": request_id,
        "claimant": "claimant",
        "sequence": 1,
        "fingerprint": b"f" * 32,
        "fingerprint_version": 1,
        "source": Source.CREDITS,
        "own_key_state": OwnKeyState.NONE_STORED,
        "always_use": False,
        "operation": Kind.TEXT,
        "own_key": None,
        "credits": CreditTerms(PRICE, worst_case),
        "settlement": None,
        "dry_run": False,
        **fields,
    }
    digest = hashlib.sha256(repr(sorted(values.items())).encode()).digest()
    return AuthorizeCommand(digest=digest, **values)


def renew_command(request_id: str, cost: int) -> RenewCommand:
    """Return a Renew with a checkpoint."""
    return RenewCommand("demo", request_id, "claimant", 1, captured(cost))


def capture_command(request_id: str, cost: int) -> SettleCommand:
    """Return a Capture."""
    digest = hashlib.sha256(b"%d" % cost).digest()
    terms = SettleTerms(1, digest, captured(cost), "")
    return SettleCommand("demo", request_id, "claimant", terms, None)


def release_command(request_id: str) -> SettleCommand:
    """Return a Release."""
    terms = SettleTerms(1, hashlib.sha256(b"release").digest(), None, "overloaded")
    return SettleCommand("demo", request_id, "claimant", terms, None)


def captured(cost: int) -> Capture:
    """Return what an attempt used."""
    return Capture(cost, UsageUnits(), UsageBasis.EXACT, True)


async def create(store: LedgerStore, request_id: str) -> bytes:
    """Make `demo`."""

    def work(file: AccountFile) -> bytes:
        new = NewAccount(PLAN, BillingMode.CREDITS, FallbackConsent.ANY, None)
        return ACCOUNTS.create(file, new, actor="test").account_id.encode()

    return await operate(store, _operation("Create", request_id), work, plans=PLANS, create=True)


async def grant(store: LedgerStore, request_id: str, amount: int) -> bytes:
    """Grant credits to `demo`."""

    def work(file: AccountFile) -> bytes:
        command = GrantCommand(f"g{request_id}", GrantKind.PURCHASED, amount, None, "")
        return grant_credits(file, command, actor="test").grant_id.encode()

    return await operate(store, _operation("Grant", request_id, amount), work, plans=PLANS)


async def set_mode(store: LedgerStore, request_id: str, mode: BillingMode) -> bytes:
    """Change the mode of `demo`."""

    def work(file: AccountFile) -> bytes:
        switched = ACCOUNTS.set_billing_mode(file, mode, actor="test")
        holds = switched.receipt.open_hold_count if switched.receipt else -1
        return f"{file.account.mode_epoch} {holds}".encode()

    operation = _operation("SetMode", request_id, mode)
    return await operate(store, operation, work, plans=PLANS, open_holds=True)


async def owned(store: LedgerStore) -> tuple[int, int]:
    """Return what `demo` owns and reserves."""

    def read(files: Any) -> tuple[int, int]:
        totals = files["demo"].account.totals
        return totals.posted, totals.reserved

    return await store.peek([Wanted("demo")], read)


def _operation(name: str, request_id: str, *body: object) -> Operation:
    digest = hashlib.sha256(repr((name, body)).encode()).digest()
    return Operation(name, "demo", request_id, digest, "test")
