# SPDX-License-Identifier: Apache-2.0
"""
What routers share through keyvault, over gRPC: slices of shared keys' limits, and outages.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf import duration_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2_grpc
from ownkey.keyvault.v1 import sharing_pb2 as pb

from services.router.domain.breaker import OPEN_SECONDS_MAX
from services.router.usecases.allotments import Slice, Wish
from services.shared.errors import InternalError, PeerUnavailableError
from services.shared.identity import call_metadata
from services.shared.logging import get_logger
from services.shared.status import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.router.usecases.experience import Experience, Outage
    from services.shared.clock import Clock
    from services.shared.secret import Secret

LEASE_SECONDS_MAX = 2.0
EXCHANGE_SECONDS = 2.0
"""Between two exchanges of outages; what was found in between goes as one."""
EXCHANGE_SECONDS_MAX = 2.0
FOUND_MAX = 100
PEER_RETRY_SECONDS = 1.0

log = get_logger()


class GrpcSharedLimits:
    """
    Leases limits.

    Args:
        channel: To keyvault.
        token: The router's identity; None where its certificate shows it.
        clock: Time.
    """

    def __init__(self, channel: grpc.aio.Channel, *, token: Secret | None, clock: Clock) -> None:
        self._stub = keyvault_service_pb2_grpc.KeyvaultServiceStub(channel)
        self._metadata = call_metadata(token)
        self._clock = clock

    async def lease(self, wish: Wish) -> Slice:
        """
        Lease a slice; see the port. It is counted from when it was asked for: it never ends late.
        """
        asked_at = self._clock.monotonic()
        request = pb.LeaseAllotmentsRequest(
            wishes=[
                pb.AllotmentWish(
                    key=wish.key,
                    request_count=wish.requests,
                    account=wish.account,
                    part_per_million=wish.part_per_million if wish.account else 0,
                )
            ]
        )
        try:
            response: pb.LeaseAllotmentsResponse = await self._stub.LeaseAllotments(
                request, timeout=LEASE_SECONDS_MAX, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as fault:
            status = from_rpc_error(fault)
            log.warning("allotment_failed", code=status.code.name, reason=status.reason)
            raise PeerUnavailableError(
                "keyvault cannot be reached, so nobody can say what the service's own keys may "
                "still do; try again shortly",
                metadata={"peer": "keyvault"},
                retry_after_seconds=PEER_RETRY_SECONDS,
            ) from None
        if len(response.allotments) != 1:
            raise InternalError("keyvault answered about another number of allotments")
        [leased] = response.allotments
        return Slice(
            requests_per_minute=None if leased.unlimited else leased.requests_per_minute,
            leased=leased.request_count,
            until=asked_at + leased.remaining_millis / 1000,
            free_at=asked_at + leased.free_in_millis / 1000,
        )


class OutageExchange:
    """
    Tells keyvault which providers this process found failing, and learns what others found.

    Args:
        channel: To keyvault.
        token: The router's identity; None where its certificate shows it.
        experience: Gives and takes outages.
        clock: Time.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        token: Secret | None,
        experience: Experience,
        clock: Clock,
    ) -> None:
        self._stub = keyvault_service_pb2_grpc.KeyvaultServiceStub(channel)
        self._metadata = call_metadata(token)
        self._experience = experience
        self._clock = clock
        self._exchanging: asyncio.Task[None] | None = None

    def open(self) -> None:
        """
        Begin to exchange.
        """
        self._exchanging = asyncio.create_task(self._exchange_forever())

    async def close(self) -> None:
        """
        Stop.
        """
        if self._exchanging is not None:
            self._exchanging.cancel()
            await asyncio.gather(self._exchanging, return_exceptions=True)

    async def _exchange_forever(self) -> None:
        while True:
            found = self._experience.outages_found(FOUND_MAX)
            try:
                await self._exchange(found)
            except grpc.aio.AioRpcError as fault:
                # What was found stands here all the same, and is told with the next exchange.
                self._experience.outages_untold(found)
                log.warning("outages_not_exchanged", code=fault.code().name)
            await self._clock.sleep(EXCHANGE_SECONDS)

    async def _exchange(self, found: Sequence[Outage]) -> None:
        asked_at = self._clock.monotonic()
        request = pb.ExchangeOutagesRequest(
            found=[_message(outage, asked_at) for outage in found if outage.until > asked_at]
        )
        response: pb.ExchangeOutagesResponse = await self._stub.ExchangeOutages(
            request, timeout=EXCHANGE_SECONDS_MAX, metadata=self._metadata
        )
        for told in response.outages:
            until = asked_at + min(OPEN_SECONDS_MAX, told.remaining.ToTimedelta().total_seconds())
            self._experience.outage_told((told.provider, told.host, told.model), until, asked_at)


def _message(outage: Outage, now: float) -> pb.Outage:
    provider, host, model = outage.name
    remaining = duration_pb2.Duration()
    remaining.FromTimedelta(timedelta(seconds=outage.until - now))
    return pb.Outage(provider=provider, host=host, model=model, remaining=remaining)
