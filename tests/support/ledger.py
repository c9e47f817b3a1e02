# SPDX-License-Identifier: Apache-2.0
"""A whole ledger for tests: real gRPC, real PostgreSQL; and short ways to ask it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
from ownkey.ledger.v1 import account_pb2, grant_pb2, verification_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import ledger_service_pb2_grpc as pb_grpc

from services.ledger.bootstrap import MIGRATIONS, ledger
from services.ledger.config import PREFIX, read_config
from services.shared.channel import open_channel
from services.shared.clock import Clock
from services.shared.identity import IDENTITIES, OPERATOR, ROUTER, call_metadata
from services.shared.migrate import migrate
from services.shared.secret import Secret
from services.shared.server import start
from services.shared.status import RichStatus, from_rpc_error

CREDIT = 1_000_000_000
"""One credit in nano-credits."""

# One nano-USD of vendor cost is one nano-credit on the plan `even`, so figures read plainly.
PLANS = """
plans:
  - id: even
    allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
    default_mode: CREDITS
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
  - id: overdraft
    allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
    default_mode: CREDITS
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
    overdraft_nano_credits: 50
  - id: marked-up
    allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
    default_mode: OWN_KEY_FIRST
    credit_value_nano_usd: 10_000_000
    markup_parts_per_million: 1_200_000
    operation_prices: {IMAGE: 4_000_000_000}
  - id: credits-only
    allowed_modes: [CREDITS]
    default_mode: CREDITS
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
    shared_part_per_million: 250_000
  - id: fee-credits
    allowed_modes: [CREDITS, OWN_KEY_FIRST]
    default_mode: OWN_KEY_FIRST
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 2_000_000
    overdraft_nano_credits: 50
    operation_prices: {IMAGE: 1_000}
    fee:
      basis: CREDIT_PRICE
      rate_parts_per_million: 50_000
      source: CREDITS
      cap_nano_credits: {acme/film: 3}
  - id: fee-invoice
    allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
    default_mode: OWN_KEY_ONLY
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 2_000_000
    fee: {basis: VENDOR_COST, rate_parts_per_million: 50_000, source: INVOICE}
  - id: fee-free
    allowed_modes: [CREDITS, OWN_KEY_FIRST]
    default_mode: OWN_KEY_FIRST
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
    fee:
      basis: VENDOR_COST
      rate_parts_per_million: 500_000
      source: CREDITS
      free_request_count: 10
  - id: monthly
    allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
    default_mode: CREDITS
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
    operation_prices: {TEXT: 20, IMAGE: 30}
    model_prices: {acme/film: 7}
    monthly_grant_nano_credits: 500
  - id: overdraft-fee
    allowed_modes: [CREDITS, OWN_KEY_FIRST]
    default_mode: CREDITS
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
    overdraft_nano_credits: 50
    fee:
      basis: VENDOR_COST
      rate_parts_per_million: 500_000
      source: CREDITS
      free_request_count: 2
      cap_nano_credits: {openai/gpt-4o-mini: 90}
  - id: overdraft-monthly
    allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
    default_mode: CREDITS
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
    overdraft_nano_credits: 50
    monthly_grant_nano_credits: 500
  - id: overdraft-invoice
    allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
    default_mode: CREDITS
    credit_value_nano_usd: 1_000_000_000
    markup_parts_per_million: 1_000_000
    overdraft_nano_credits: 50
    fee: {basis: CREDIT_PRICE, rate_parts_per_million: 250_000, source: INVOICE}
"""

TOKENS = {identity: f"token-of-{identity}-0123456789" for identity in IDENTITIES}


async def migrated(dsn: str) -> None:
    """Bring a database to the ledger's schema."""
    await migrate(dsn, MIGRATIONS)


def request_id() -> str:
    """Return a new request id."""
    return str(uuid.uuid4())


def claimant() -> str:
    """Return a new claimant."""
    return f"run-{uuid.uuid4()}"


@dataclass
class Run:
    """
    One run of a router on one request.

    Args:
        stub: The ledger, as the router.
        account: Resource name of the account.
        request_id: The caller's id.
        claimant: The run's.
    """

    stub: Any
    account: str
    request_id: str = field(default_factory=request_id)
    claimant: str = field(default_factory=claimant)

    def authorize_request(self, sequence: int = 1, **fields: Any) -> pb.AuthorizeRequest:
        """Return an Authorize of this run: AUTO, no own key stored, worst case 100 nano-USD."""
        worst_case = fields.pop("worst_case", 100)
        values: dict[str, Any] = {
            "fingerprint": b"f" * 32,
            "fingerprint_version": 1,
            "source": pb.SOURCE_AUTO,
            "own_key_state": pb.OWN_KEY_STATE_NONE_STORED,
            "operation": pb.OPERATION_TEXT,
            "credits": pb.CreditTerms(
                price=pb.PriceRow(model="openai/gpt-4o-mini", provider="openai", price_id="p1"),
                worst_case_nano_usd=worst_case,
            ),
            **fields,
        }
        if values["own_key_state"] == pb.OWN_KEY_STATE_READY and "own_key" not in values:
            values["own_key"] = own_key(self.account, worst_case)
        return pb.AuthorizeRequest(
            account=self.account,
            request_id=self.request_id,
            claimant=self.claimant,
            sequence=sequence,
            **values,
        )

    async def authorize(self, sequence: int = 1, **fields: Any) -> pb.AuthorizeResponse:
        """Authorize an attempt."""
        response: pb.AuthorizeResponse = await self.stub.Authorize(
            self.authorize_request(sequence, **fields)
        )
        return response

    async def renew(self, sequence: int = 1, **fields: Any) -> pb.Authorization:
        """Renew an attempt."""
        response = await self.stub.Renew(
            pb.RenewRequest(
                account=self.account,
                request_id=self.request_id,
                claimant=self.claimant,
                sequence=sequence,
                **fields,
            )
        )
        return response.authorization

    def capture_request(
        self,
        cost: int | None,
        sequence: int = 1,
        *,
        end: pb.RequestEnd | None = None,
        **fields: Any,
    ) -> pb.CaptureRequest:
        """Return a Capture of an attempt."""
        return pb.CaptureRequest(
            account=self.account,
            request_id=self.request_id,
            claimant=self.claimant,
            sequence=sequence,
            capture=captured(cost, **fields),
            end=end,
        )

    async def capture(self, cost: int | None, sequence: int = 1, **fields: Any) -> pb.Authorization:
        """Capture an attempt."""
        response = await self.stub.Capture(self.capture_request(cost, sequence, **fields))
        return response.authorization

    async def release(
        self,
        sequence: int = 1,
        *,
        end: pb.RequestEnd | None = None,
        outcome: str = "rate_limited",
    ) -> pb.Authorization:
        """Release an attempt."""
        response = await self.stub.Release(
            pb.ReleaseRequest(
                account=self.account,
                request_id=self.request_id,
                claimant=self.claimant,
                sequence=sequence,
                release=pb.ReleaseTerms(outcome=outcome),
                end=end,
            )
        )
        return response.authorization

    def again(self) -> Run:
        """Return another run on the same request."""
        return Run(self.stub, self.account, request_id=self.request_id)


def captured(
    cost: int | None,
    *,
    delivered: bool = True,
    tokens: int = 7,
    basis: pb.UsageBasis.ValueType = pb.USAGE_BASIS_EXACT,
) -> pb.CaptureTerms:
    """Return the terms of a capture."""
    return pb.CaptureTerms(
        vendor_cost_nano_usd=cost,
        units=pb.UsageUnits(input_token_count=tokens, output_token_count=1),
        basis=basis,
        delivered=delivered,
    )


def own_key(
    account: str, worst_case: int | None = 100, *, model: str = "openai/gpt-4o-mini", **fields: Any
) -> pb.OwnKeyTerms:
    """Return the terms of an own key."""
    return pb.OwnKeyTerms(
        key=f"{account}/keys/main",
        key_version=3,
        key_etag="e7",
        price=pb.PriceRow(
            model=model, provider="openai", price_id="p1" if worst_case is not None else ""
        ),
        worst_case_nano_usd=worst_case,
        **fields,
    )


@dataclass
class RunningLedger:
    """
    A ledger that serves.

    Args:
        backend: The stub of a customer's backend.
        router: The router's stub.
        operator: An operator's stub.
        dsn: Its database.
    """

    backend: Any
    router: Any
    operator: Any
    dsn: str

    async def account(
        self, account_id: str = "demo", *, plan: str = "even", owns: int = 0, **fields: Any
    ) -> str:
        """Make an account, grant it credits and return its name."""
        await self.backend.CreateAccount(
            account_pb2.CreateAccountRequest(
                request_id=request_id(), account_id=account_id, plan=f"plans/{plan}", **fields
            )
        )
        name = f"accounts/{account_id}"
        if owns:
            await self.grant(name, owns)
        return name

    async def grant(self, account: str, amount: int, **fields: Any) -> grant_pb2.Grant:
        """Grant credits."""
        response = await self.backend.GrantCredits(
            grant_pb2.GrantCreditsRequest(
                request_id=request_id(),
                account=account,
                kind=fields.pop("kind", grant_pb2.GRANT_KIND_PURCHASED),
                amount_nano_credits=amount,
                **fields,
            )
        )
        return response.grant

    async def run_out(self, run: Run) -> None:
        """End a run's lease now, as if its router had died long ago."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(
                "UPDATE requests SET lease_expire_time = now() WHERE request_id = $1",
                run.request_id,
            )
            # Whoever writes anything of an account says so on its row.
            await connection.execute("UPDATE accounts SET stamp = 0")
        finally:
            await connection.close()

    async def balance(self, account: str) -> grant_pb2.Balance:
        """Return the balance."""
        response = await self.backend.GetBalance(grant_pb2.GetBalanceRequest(account=account))
        return response.balance

    async def set_mode(self, account: str, mode: str) -> account_pb2.SetBillingModeResponse:
        """Change the billing mode."""
        response: account_pb2.SetBillingModeResponse = await self.backend.SetBillingMode(
            account_pb2.SetBillingModeRequest(
                request_id=request_id(),
                account=account,
                billing_mode=account_pb2.BillingMode.Value(f"BILLING_MODE_{mode}"),
            )
        )
        return response

    def run(self, account: str, **fields: Any) -> Run:
        """Return a new run on a new request."""
        return Run(self.router, account, **fields)


@asynccontextmanager
async def running_ledger(
    folder: Path, dsn: str, *, clock: Clock | None = None, **settings: str
) -> AsyncIterator[RunningLedger]:
    """
    Serve a ledger on a free port.

    Args:
        folder: For tokens, plans and keys.
        dsn: A migrated database.
        clock: Time of what runs in the background; the machine's if None.
        settings: Further settings by the end of their variable's name, in lower case.
    """
    tokens = folder / "tokens"
    tokens.mkdir(parents=True, exist_ok=True)
    for identity, token in TOKENS.items():
        _write(tokens / identity, token)
    _write(folder / "dsn", dsn)
    _write(folder / "fingerprint.key", "fingerprint-key-of-the-tests-0123456789")
    (folder / "plans.yaml").write_text(PLANS)
    environ = {
        f"{PREFIX}DATABASE_DSN_FILE": str(folder / "dsn"),
        f"{PREFIX}PLANS_FILE": str(folder / "plans.yaml"),
        f"{PREFIX}TOKENS_DIR": str(tokens),
        f"{PREFIX}FINGERPRINT_KEY_FILE": str(folder / "fingerprint.key"),
        f"{PREFIX}LISTEN": "127.0.0.1:0",
        f"{PREFIX}DRAIN_SECONDS": "0",
        **{f"{PREFIX}{name.upper()}": value for name, value in settings.items()},
    }
    async with AsyncExitStack() as stack:
        spec = await stack.enter_async_context(ledger(read_config(environ), clock=clock))
        server = await start(spec)
        stack.push_async_callback(server.stop)
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{server.port}"))
        stubs = [
            Caller(pb_grpc.LedgerServiceStub(channel), identity)
            for identity in (None, ROUTER, OPERATOR)
        ]
        yield RunningLedger(*stubs, dsn=dsn)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


class Caller:
    """
    A stub that calls under one identity, with a deadline.

    Args:
        stub: The generated stub.
        identity: Whose token to send; None for none.
    """

    def __init__(self, stub: Any, identity: str | None) -> None:
        self._stub = stub
        self._metadata = call_metadata(Secret(TOKENS[identity])) if identity else ()

    def __getattr__(self, rpc: str) -> Any:
        method = getattr(self._stub, rpc)

        def call(request: Any, timeout: float = 20.0) -> Any:
            return method(request, timeout=timeout, metadata=self._metadata)

        return call


async def rewrite(dsn: str, *statements: str) -> None:
    """Run statements on rows that are never changed otherwise, as the owner of the tables may."""
    connection = await asyncpg.connect(dsn)
    # Asked for by Citus, where these tests pass too; a name without meaning elsewhere.
    await connection.execute("SET citus.enable_unsafe_triggers TO on")
    tables = await connection.fetch(
        "SELECT DISTINCT event_object_table AS name FROM information_schema.triggers "
        "WHERE event_object_schema = 'public'"
    )
    for verb in ("DISABLE", "ENABLE"):
        for row in tables:
            await connection.execute(f"ALTER TABLE {row['name']} {verb} TRIGGER USER")
        if verb == "DISABLE":
            for statement in statements:
                await connection.execute(statement)
            # In the place of the trigger that is off: what a ledger keeps no longer holds.
            await connection.execute("UPDATE accounts SET stamp = 0")
    await connection.close()


async def consistent(books: RunningLedger) -> bool:
    """Return whether verification ended; fail with the invariants that do not hold."""
    request = verification_pb2.VerifyLedgerRequest()
    messages = [message async for message in books.operator.VerifyLedger(request)]
    assert [v for message in messages for v in message.violations] == []
    return messages[-1].done and messages[-1].violation_count == 0


async def refused(call: Any) -> RichStatus:
    """Await a call that must fail and return its status."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    message = f"the call was answered: {answer}"
    raise AssertionError(message)


def told(status: RichStatus) -> tuple[Any, ...]:
    """Return what a status tells; its bytes may differ, as a map has no order on the wire."""
    return (status.code, status.reason, status.message, status.metadata, status.retry_after_seconds)
