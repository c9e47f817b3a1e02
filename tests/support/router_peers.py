# SPDX-License-Identifier: Apache-2.0
"""
Keyvault and ledger as the router sees them: real gRPC servers on loopback with state in memory.

They keep to the contract where the router depends on it: the feed and its lineage, the claim and
its numbering, settlement once, refusals that settle what they carry. One nano-credit is one
nano-USD.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2, keyvault_service_pb2_grpc
from ownkey.keyvault.v1 import resolution_pb2 as resolution
from ownkey.keyvault.v1 import sharing_pb2 as sharing
from ownkey.ledger.v1 import account_pb2, ledger_service_pb2_grpc, plan_pb2
from ownkey.ledger.v1 import authorization_pb2 as pb

LEASE_SECONDS = 60


def stored_key(
    account: str, key_id: str, provider: str, secret: str, **fields: Any
) -> resolution.ResolvedKey:
    """Give a key as keyvault resolves it: active, enabled, healthy unless said otherwise."""
    key = key_pb2.Key(
        name=f"accounts/{account}/keys/{key_id}",
        provider=provider,
        hint=f"{secret[:3]}…{secret[-4:]}",
        version=1,
        etag="1",
        state=key_pb2.KEY_STATE_ENABLED,
        active=True,
    )
    key.MergeFrom(key_pb2.Key(**fields))
    if "active" in fields:
        key.active = fields["active"]
    enabled = key.state == key_pb2.KEY_STATE_ENABLED
    return resolution.ResolvedKey(key=key, secret=secret if enabled else "")


class FakeKeyvault(keyvault_service_pb2_grpc.KeyvaultServiceServicer):
    """Keys by account, a change feed, and the reports that came in."""

    def __init__(self) -> None:
        self.accounts: dict[str, resolution.AccountKeys] = {}
        self.reports: list[resolution.ReportKeyHealthRequest] = []
        self.resolved: list[str] = []
        self.away = False
        self.watch_cut = False
        self.limits: dict[str, int] = {}
        """What is left of the minute of each shared key that is limited; of an account's part of it
        under `{key} {account}`."""
        self.sealed: dict[str, str] = {}
        """What is in the client-held keys, by name; what is brought comes back sealed as it was."""
        self.outages: list[sharing.Outage] = []
        self._sequence = 1
        self._changes: list[tuple[int, str]] = []
        self._lineage = "database/1"

    def put(self, account: str, *keys: resolution.ResolvedKey, **settings: Any) -> None:
        """Store an account's keys in place of what it had."""
        name = f"accounts/{account}"
        self.accounts[name] = resolution.AccountKeys(
            account=name, settings=key_pb2.Settings(**settings), keys=keys
        )
        self.changed(account)

    def changed(self, account: str) -> None:
        """Write a change of an account into the feed."""
        self._sequence += 1
        self._changes.append((self._sequence, f"accounts/{account}"))

    async def ResolveKeys(self, request: Any, context: Any) -> resolution.ResolveKeysResponse:  # noqa: N802
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "keyvault is away")
        self.resolved.extend(request.accounts)
        answers = []
        for name in request.accounts:
            empty = resolution.AccountKeys(account=name)
            answers.append(self.accounts.get(name, empty))
        return resolution.ResolveKeysResponse(accounts=answers, position=self._position())

    async def WatchChanges(  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[resolution.WatchChangesResponse]:
        told = None
        async for question in request_iterator:
            if self.away or self.watch_cut:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the channel is cut")
            if told is None:
                told = question.start.sequence if question.HasField("start") else self._sequence
            changed = sorted({name for number, name in self._changes if number > told})
            told = self._sequence
            yield resolution.WatchChangesResponse(
                nonce=question.nonce, changed_accounts=changed, position=self._position()
            )

    async def OpenSealedKey(  # noqa: N802
        self, request: Any, context: Any
    ) -> keyvault_service_pb2.OpenSealedKeyResponse:
        secret = self.sealed[request.name]
        return keyvault_service_pb2.OpenSealedKeyResponse(
            secret=secret, resealed_key=request.sealed_key, hint=f"{secret[:3]}…{secret[-4:]}"
        )

    async def ReportKeyHealth(  # noqa: N802
        self, request: Any, context: Any
    ) -> resolution.ReportKeyHealthResponse:
        self.reports.append(request)
        return resolution.ReportKeyHealthResponse(applied=True)

    async def LeaseAllotments(  # noqa: N802
        self, request: Any, context: Any
    ) -> sharing.LeaseAllotmentsResponse:
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "keyvault is away")
        response = sharing.LeaseAllotmentsResponse()
        for wish in request.wishes:
            name = f"{wish.key} {wish.account}".strip()
            left = self.limits.get(name)
            if left is None:
                response.allotments.add(key=wish.key, unlimited=True, remaining_millis=60_000)
                continue
            leased = min(wish.request_count, left)
            self.limits[name] = left - leased
            response.allotments.add(
                key=wish.key,
                request_count=leased,
                requests_per_minute=60,
                remaining_millis=60_000,
                free_in_millis=0 if leased else 60_000,
            )
        return response

    async def ExchangeOutages(  # noqa: N802
        self, request: Any, context: Any
    ) -> sharing.ExchangeOutagesResponse:
        self.outages += request.found
        return sharing.ExchangeOutagesResponse(outages=self.outages)

    def _position(self) -> resolution.FeedPosition:
        return resolution.FeedPosition(lineage=self._lineage, sequence=self._sequence)


@dataclass
class Run:
    """One request at the fake ledger."""

    claimant: str
    fingerprint: bytes
    last_sequence: int = 0
    state: Any = pb.REQUEST_STATE_RUNNING
    outcome: bytes = b""
    attempts: dict[int, pb.Authorization] = field(default_factory=dict)


class FakeLedger(ledger_service_pb2_grpc.LedgerServiceServicer):
    """One account's rules: a mode, a consent, a balance in nano-credits."""

    def __init__(self) -> None:
        self.mode = "OWN_KEY_FIRST"
        self.consent = "ANY"
        self.balance = 10**12
        self.asked: list[pb.AuthorizeRequest] = []
        self.settled: list[pb.SettleRequest] = []
        self.renewed: list[pb.RenewRequest] = []
        self.batches: list[int] = []
        self.away = False
        self.settling_fault: grpc.StatusCode | None = None
        self.shared_part_per_million = 0
        self.plans = {
            "demo": plan_pb2.Plan(
                name="plans/standard",
                credit_value_nano_usd=10_000_000,
                markup_parts_per_million=1_200_000,
            )
        }
        self.runs: dict[str, Run] = {}

    async def BatchAuthorize(self, request: Any, context: Any) -> pb.BatchAuthorizeResponse:  # noqa: N802
        await self._check(context)
        self.batches.append(len(request.requests))
        return pb.BatchAuthorizeResponse(results=[self._result(r) for r in request.requests])

    async def BatchRenew(self, request: Any, context: Any) -> pb.BatchRenewResponse:  # noqa: N802
        await self._check(context)
        self.renewed.extend(request.requests)
        return pb.BatchRenewResponse(
            results=[
                pb.SettleResult(authorization=self.runs[r.request_id].attempts[r.sequence])
                for r in request.requests
            ]
        )

    async def BatchSettle(self, request: Any, context: Any) -> pb.BatchSettleResponse:  # noqa: N802
        await self._check(context)
        if self.settling_fault is not None:
            await context.abort(self.settling_fault, "the ledger cannot settle now")
        results = []
        for item in request.requests:
            self.settled.append(item)
            which = item.capture if item.HasField("capture") else item.release
            run = self.runs[which.request_id]
            authorization = self._settle(run, which.sequence, item)
            if which.HasField("end"):
                charged = any(a.charged_nano_credits for a in run.attempts.values())
                maybe = any(
                    a.state == pb.AUTHORIZATION_STATE_CAPTURED for a in run.attempts.values()
                )
                failed = (
                    pb.REQUEST_STATE_FAILED_CHARGED
                    if charged or maybe
                    else pb.REQUEST_STATE_FAILED_UNCHARGED
                )
                run.state = pb.REQUEST_STATE_SUCCEEDED if which.end.succeeded else failed
                run.outcome = which.end.outcome
            results.append(pb.SettleResult(authorization=authorization))
        return pb.BatchSettleResponse(results=results)

    async def GetAccount(self, request: Any, context: Any) -> account_pb2.GetAccountResponse:  # noqa: N802
        plan = self.plans.get(request.name.removeprefix("accounts/"))
        if plan is None:
            status = _RefusedError(grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND").status
            await context.abort_with_status(rpc_status.to_status(status))
        return account_pb2.GetAccountResponse(
            account=account_pb2.Account(name=request.name, plan=plan.name)
        )

    async def ListPlans(self, request: Any, context: Any) -> plan_pb2.ListPlansResponse:  # noqa: N802
        return plan_pb2.ListPlansResponse(plans=self.plans.values())

    async def _check(self, context: Any) -> None:
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the ledger is away")

    def _result(self, ask: pb.AuthorizeRequest) -> pb.AuthorizeResult:
        self.asked.append(ask)
        try:
            return pb.AuthorizeResult(response=self._authorize(ask))
        except _RefusedError as refusal:
            return pb.AuthorizeResult(error=refusal.status)

    def _authorize(self, ask: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        run = self.runs.get(ask.request_id)
        recorded = self._recorded(ask, run) if run is not None else None
        if recorded is not None:
            return pb.AuthorizeResponse(recorded=recorded)
        if run is None or run.claimant != ask.claimant:
            run = Run(ask.claimant, ask.fingerprint)
        if ask.sequence in run.attempts:
            return pb.AuthorizeResponse(granted=run.attempts[ask.sequence])
        if ask.sequence != run.last_sequence + 1:
            raise _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_OUT_OF_ORDER")
        if not ask.dry_run:
            self.runs[ask.request_id] = run
            run.last_sequence = ask.sequence
        response = pb.AuthorizeResponse(shared_part_per_million=self.shared_part_per_million)
        if ask.HasField("settlement"):
            item = pb.SettleRequest()
            if ask.settlement.HasField("capture"):
                item.capture.capture.CopyFrom(ask.settlement.capture)
            else:
                item.release.release.CopyFrom(ask.settlement.release)
            response.settled.CopyFrom(self._settle(run, ask.settlement.sequence, item))
        if any(a.state == pb.AUTHORIZATION_STATE_OPEN for a in run.attempts.values()):
            raise _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_OUT_OF_ORDER")
        funding, fallback = self._decide(ask)
        granted = self._grant(ask, funding, fallback=fallback)
        if not ask.dry_run:
            run.attempts[ask.sequence] = granted
            self.balance -= granted.held_nano_credits
        response.granted.CopyFrom(granted)
        return response

    def _recorded(self, ask: pb.AuthorizeRequest, run: Run) -> pb.RequestRecord | None:
        if run.fingerprint != ask.fingerprint:
            raise _RefusedError(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        if run.claimant == ask.claimant or run.state == pb.REQUEST_STATE_FAILED_UNCHARGED:
            return None
        if run.state == pb.REQUEST_STATE_RUNNING:
            raise _RefusedError(grpc.StatusCode.UNAVAILABLE, "REQUEST_IN_PROGRESS", retry_seconds=1)
        return pb.RequestRecord(
            request_id=ask.request_id,
            state=run.state,
            outcome=run.outcome,
            authorizations=run.attempts.values(),
        )

    def _decide(self, ask: pb.AuthorizeRequest) -> tuple[pb.Funding.ValueType, bool]:
        if ask.source == pb.SOURCE_CREDITS:
            return pb.FUNDING_CREDITS, False
        if self.mode == "CREDITS":
            if ask.source == pb.SOURCE_OWN_KEY:
                raise _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "SOURCE_NOT_ALLOWED")
            return pb.FUNDING_CREDITS, False
        if ask.own_key_state == pb.OWN_KEY_STATE_READY:
            return pb.FUNDING_OWN_KEY, False
        if ask.source == pb.SOURCE_OWN_KEY or self.mode == "OWN_KEY_ONLY":
            raise _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "NO_USABLE_OWN_KEY")
        needed = _CONSENT_NEEDED.get(ask.own_key_state)
        if needed is None:
            return pb.FUNDING_CREDITS, False
        if ask.always_use or _CONSENTS.index(self.consent) < _CONSENTS.index(needed):
            raise _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "FALLBACK_NOT_ALLOWED")
        return pb.FUNDING_CREDITS, True

    def _grant(
        self, ask: pb.AuthorizeRequest, funding: pb.Funding.ValueType, *, fallback: bool
    ) -> pb.Authorization:
        own = funding == pb.FUNDING_OWN_KEY
        if not own and not ask.HasField("credits"):
            raise _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "CREDITS_NOT_POSSIBLE")
        held = 0 if own else ask.credits.worst_case_nano_usd
        if held > self.balance:
            raise _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS")
        return pb.Authorization(
            name=f"{ask.account}/authorizations/a{secrets.token_hex(4)}",
            request_id=ask.request_id,
            sequence=ask.sequence,
            state=pb.AUTHORIZATION_STATE_OPEN,
            funding=funding,
            fallback=fallback,
            held_nano_credits=held,
            lease_duration=duration_pb2.Duration(seconds=LEASE_SECONDS),
            price=ask.own_key.price if own else ask.credits.price,
            key=ask.own_key.key if own else "",
            key_version=ask.own_key.key_version if own else 0,
        )

    def _settle(self, run: Run, sequence: int, item: pb.SettleRequest) -> pb.Authorization:
        authorization = run.attempts[sequence]
        if authorization.state != pb.AUTHORIZATION_STATE_OPEN:
            return authorization
        charged = 0
        authorization.state = pb.AUTHORIZATION_STATE_RELEASED
        if item.HasField("capture"):
            terms = item.capture.capture
            authorization.state = pb.AUTHORIZATION_STATE_CAPTURED
            authorization.units.CopyFrom(terms.units)
            authorization.basis = terms.basis
            if terms.HasField("vendor_cost_nano_usd"):
                authorization.vendor_cost_nano_usd = terms.vendor_cost_nano_usd
            if authorization.funding == pb.FUNDING_CREDITS and terms.delivered:
                charged = terms.vendor_cost_nano_usd
        authorization.charged_nano_credits = charged
        self.balance += authorization.held_nano_credits - charged
        return authorization


_CONSENTS = ("NEVER", "RATE_LIMIT", "KEY_FAILURE", "ANY")
_CONSENT_NEEDED = {
    pb.OWN_KEY_STATE_COOLING: "RATE_LIMIT",
    pb.OWN_KEY_STATE_REJECTED: "KEY_FAILURE",
    pb.OWN_KEY_STATE_NO_CREDIT: "KEY_FAILURE",
    pb.OWN_KEY_STATE_PROVIDER_FAILED: "ANY",
}


class _RefusedError(Exception):
    """A refusal with its status."""

    def __init__(
        self, code: grpc.StatusCode, reason: str, *, retry_seconds: int | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status_pb2.Status(code=code.value[0], message=f"the ledger says {reason}")
        info = error_details_pb2.ErrorInfo(reason=reason, domain="ledger.ownkey")
        self.status.details.add().Pack(info)
        if retry_seconds is not None:
            delay = duration_pb2.Duration(seconds=retry_seconds)
            self.status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))


@dataclass(frozen=True)
class Peers:
    """Both servers, and where they listen."""

    keyvault: FakeKeyvault
    ledger: FakeLedger
    keyvault_address: str
    ledger_address: str


@asynccontextmanager
async def peers() -> AsyncIterator[Peers]:
    """Serve both."""
    keyvault, ledger = FakeKeyvault(), FakeLedger()
    servers = [grpc.aio.server(), grpc.aio.server()]
    keyvault_service_pb2_grpc.add_KeyvaultServiceServicer_to_server(keyvault, servers[0])
    ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(ledger, servers[1])
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for server in servers:
        await server.start()
    try:
        yield Peers(keyvault, ledger, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    finally:
        await asyncio.gather(*(server.stop(0) for server in servers))


def write_tokens(folder: Path) -> None:
    """Write a token file for each internal identity."""
    for name in ("router", "keyvault", "operator", "web"):
        path = folder / name
        path.write_text(secrets.token_hex(16))
        path.chmod(0o600)
