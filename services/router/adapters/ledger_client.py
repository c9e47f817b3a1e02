# SPDX-License-Identifier: Apache-2.0
"""
The ledger, over gRPC: single calls coalesced into its Batch RPCs.

UNAVAILABLE is tried again with the same claimant and sequence, which the ledger answers with the
stored grant, until the caller's time is up. What the ledger refuses is told one to one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Never, TypeVar

import grpc
import grpc.aio
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import ledger_service_pb2_grpc

from services.router import errors
from services.router.adapters import ledger_mapping as mapping
from services.router.adapters.batching import Batcher
from services.router.usecases.ports import Grant
from services.shared import tracing
from services.shared.errors import (
    InternalError,
    OverloadedError,
    PeerUnavailableError,
    ServiceError,
)
from services.shared.handshake import handshake_advice
from services.shared.identity import call_metadata
from services.shared.logging import get_logger
from services.shared.status import RichStatus, from_rpc_error, read_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from google.rpc import status_pb2

    from services.router.usecases.ports import (
        Ask,
        Capture,
        Claim,
        Recorded,
        RequestEnd,
        Settled,
        Settlement,
    )
    from services.shared.secret import Secret

BATCH_SECONDS_MAX = 5.0
RETRY_SECONDS_BASE = 0.05
RETRY_SECONDS_MAX = 2.0
PEER_RETRY_SECONDS = 1.0

REFUSALS: dict[str, type[errors.LedgerRefusalError]] = {
    "ACCOUNT_NOT_FOUND": errors.AccountNotFoundError,
    "REQUEST_ID_REUSED": errors.RequestIdReusedError,
    "REQUEST_IN_PROGRESS": errors.RequestInProgressError,
    "SOURCE_NOT_ALLOWED": errors.SourceNotAllowedError,
    "NO_USABLE_OWN_KEY": errors.NoUsableOwnKeyError,
    "OWN_KEYS_UNKNOWN": errors.OwnKeysUnknownError,
    "FALLBACK_NOT_ALLOWED": errors.FallbackNotAllowedError,
    "FALLBACK_CAP_REACHED": errors.FallbackCapReachedError,
    "INSUFFICIENT_CREDITS": errors.InsufficientCreditsError,
    "CREDITS_NOT_POSSIBLE": errors.CreditsNotPossibleError,
    "PRICE_REQUIRED": errors.PriceRequiredError,
    "OWN_KEY_LIMIT_REACHED": errors.OwnKeyLimitReachedError,
    "FIELD_NOT_SUPPORTED": errors.FieldNotSupportedError,
}
_TRY_AGAIN = frozenset({"", "STORE_UNAVAILABLE", "OVERLOADED", "DEADLINE_TOO_SHORT"})

T = TypeVar("T")

log = get_logger()


class GrpcLedger:
    """
    The ledger's client.

    Args:
        channel: To the ledger.
        token: The router's identity; None where its certificate shows it.
    """

    def __init__(self, channel: grpc.aio.Channel, *, token: Secret | None) -> None:
        self._stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        self._metadata = call_metadata(token)
        self._authorize = Batcher(self._send_authorize)
        self._renew = Batcher(self._send_renew)
        self._settle = Batcher(self._send_settle)

    async def authorize(self, ask: Ask, *, timeout_seconds: float) -> Grant | Recorded:
        """
        Claim the request and decide who pays; see the port.
        """
        request = mapping.authorize_request(ask)

        async def attempt() -> pb.AuthorizeResponse:
            result = await self._authorize.submit(request)
            return result.response if result.HasField("response") else _raise(result.error)

        with tracing.span("authorize", dry_run=request.dry_run) as span:
            grant = mapping.grant(await retried(attempt, timeout_seconds))
            if isinstance(grant, Grant):
                span.set(funding=grant.funding.name)
            return grant

    async def renew(
        self, claim: Claim, sequence: int, checkpoint: Capture, *, timeout_seconds: float
    ) -> None:
        """
        Extend an attempt's lease; see the port.
        """
        request = mapping.renew_request(claim, sequence, checkpoint)

        async def attempt() -> pb.Authorization:
            return _authorization(await self._renew.submit(request))

        await retried(attempt, timeout_seconds)

    async def settle(
        self,
        claim: Claim,
        settlement: Settlement,
        end: RequestEnd | None,
        *,
        timeout_seconds: float,
    ) -> Settled:
        """
        Close an attempt; see the port.
        """
        request = mapping.settle_request(claim, settlement, end)

        async def attempt() -> pb.Authorization:
            try:
                return _authorization(await self._settle.submit(request))
            except InternalError:
                # A fault of the ledger's own must not leave an answer unpaid: settling is
                # idempotent, so it is tried as long as there is time.
                raise _away() from None

        with tracing.span("settle"):
            return mapping.settled(
                await retried(attempt, timeout_seconds, passing=_PASSING_SETTLING)
            )

    async def _send_authorize(
        self, items: Sequence[pb.AuthorizeRequest]
    ) -> Sequence[pb.AuthorizeResult]:
        request = pb.BatchAuthorizeRequest(requests=items)
        response: pb.BatchAuthorizeResponse = await self._stub.BatchAuthorize(
            request, timeout=BATCH_SECONDS_MAX, metadata=self._metadata
        )
        return response.results

    async def _send_renew(self, items: Sequence[pb.RenewRequest]) -> Sequence[pb.SettleResult]:
        request = pb.BatchRenewRequest(requests=items)
        response: pb.BatchRenewResponse = await self._stub.BatchRenew(
            request, timeout=BATCH_SECONDS_MAX, metadata=self._metadata
        )
        return response.results

    async def _send_settle(self, items: Sequence[pb.SettleRequest]) -> Sequence[pb.SettleResult]:
        request = pb.BatchSettleRequest(requests=items)
        response: pb.BatchSettleResponse = await self._stub.BatchSettle(
            request, timeout=BATCH_SECONDS_MAX, metadata=self._metadata
        )
        return response.results


_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)
_PASSING_SETTLING = _PASSING | {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


async def retried(
    attempt: Callable[[], Awaitable[T]],
    timeout_seconds: float,
    *,
    passing: Collection[grpc.StatusCode] = _PASSING,
) -> T:
    """
    Try until it is answered, refused, or the time is up.

    Args:
        attempt: Makes one try.
        timeout_seconds: How long to go on.
        passing: Codes after which another try can help.
    """
    pause = RETRY_SECONDS_BASE
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                try:
                    return await attempt()
                except grpc.aio.AioRpcError as fault:
                    status = from_rpc_error(fault)
                    log.warning(
                        "ledger_call_failed",
                        code=status.code.name,
                        reason=status.reason,
                        **handshake_advice(fault.details()),
                    )
                    if status.reason in REFUSALS:
                        raise _refusal(status) from None
                    if status.code not in passing:
                        raise InternalError(
                            "the ledger did not take the router's call; it is logged"
                        ) from None
                except (PeerUnavailableError, OverloadedError):
                    log.warning("ledger_call_deferred")
                await asyncio.sleep(pause)
                pause = min(RETRY_SECONDS_MAX, pause * 2)
    except TimeoutError:
        raise _away() from None


def _authorization(result: pb.SettleResult) -> pb.Authorization:
    return result.authorization if result.HasField("authorization") else _raise(result.error)


def _raise(status: status_pb2.Status) -> Never:
    raise _refusal(read_status(status))


def _refusal(status: RichStatus) -> ServiceError:
    """
    Give our error for one item's status.
    """
    cls = REFUSALS.get(status.reason)
    if cls is not None:
        return cls(
            status.message,
            metadata={**status.metadata, "ledger_reason": status.reason},
            retry_after_seconds=status.retry_after_seconds,
        )
    if status.code in _PASSING and status.reason in _TRY_AGAIN:
        return _away()
    log.error("ledger_refused_unexpectedly", reason=status.reason, code=status.code.name)
    return InternalError("the ledger refused the router's call; it is logged")


def _away() -> PeerUnavailableError:
    return PeerUnavailableError(
        "the ledger cannot be reached, so nobody can say who pays; try again with the same request "
        "id",
        metadata={"peer": "ledger"},
        retry_after_seconds=PEER_RETRY_SECONDS,
    )
