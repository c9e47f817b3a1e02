# SPDX-License-Identifier: Apache-2.0
"""What the ledger's benchmark sends: pairs of Authorize and Capture, made before they are timed."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc.aio
from ownkey.ledger.v1 import authorization_pb2 as pb

SERVICE = "/ownkey.ledger.v1.LedgerService/"
CALL_SECONDS = 60.0
WORST_CASE_NANO_USD = 2_000_000
COST_NANO_USD = 1_234_567
PRICE = pb.PriceRow(model="openai/gpt-4o-mini", provider="openai", price_id="bench-1")


@dataclass(frozen=True, slots=True)
class Pair:
    """The two calls of one settled request, serialized."""

    authorize: pb.AuthorizeRequest
    capture: pb.CaptureRequest


def make_pair(account_id: str, *, own_key: bool) -> Pair:
    """Return a request's two calls on an account: on credits, or on an own key with a budget."""
    account = f"accounts/{account_id}"
    keys: dict[str, Any] = {
        "account": account,
        "request_id": str(uuid.uuid4()),
        "claimant": f"run-{uuid.uuid4()}",
        "sequence": 1,
    }
    terms: dict[str, Any] = {
        "own_key_state": pb.OWN_KEY_STATE_NONE_STORED,
        "credits": pb.CreditTerms(price=PRICE, worst_case_nano_usd=WORST_CASE_NANO_USD),
    }
    if own_key:
        terms["own_key_state"] = pb.OWN_KEY_STATE_READY
        terms["own_key"] = pb.OwnKeyTerms(
            key=f"{account}/keys/main",
            key_version=1,
            key_etag="1",
            price=PRICE,
            worst_case_nano_usd=WORST_CASE_NANO_USD,
            monthly_limit_nano_usd=10**12,
        )
    authorize = pb.AuthorizeRequest(
        **keys,
        fingerprint=b"f" * 32,
        fingerprint_version=1,
        source=pb.SOURCE_AUTO,
        operation=pb.OPERATION_TEXT,
        **terms,
    )
    capture = pb.CaptureRequest(
        **keys,
        capture=pb.CaptureTerms(
            vendor_cost_nano_usd=COST_NANO_USD,
            units=pb.UsageUnits(input_token_count=812, output_token_count=164),
            basis=pb.USAGE_BASIS_EXACT,
            delivered=True,
        ),
        end=pb.RequestEnd(succeeded=True),
    )
    return Pair(authorize, capture)


class UnaryRates(NamedTuple):
    """
    Unary calls a second.

    Args:
        authorize: Of Authorize.
        capture: Of Capture.
    """

    authorize: float
    capture: float

    @property
    def calls(self) -> float:
        """Of both, as many of one as of the other."""
        return 2 / (1 / self.authorize + 1 / self.capture)


class Client:
    """
    Sends serialized requests.

    Args:
        channel: To the ledger.
        metadata: The router's identity.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        self._channel = channel
        self._metadata = tuple(metadata)

    async def call(self, rpc: str, request: bytes, response: Any) -> Any:
        """Call an RPC of the ledger with serialized bytes."""
        method: Any = self._channel.unary_unary(
            SERVICE + rpc, response_deserializer=response.FromString
        )
        return await method(request, timeout=CALL_SECONDS, metadata=self._metadata)

    async def batches(self, pairs: Sequence[Pair], *, size: int, callers: int) -> float:
        """Settle pairs through the Batch RPCs and return pairs a second."""
        work = []
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            authorize = pb.BatchAuthorizeRequest(requests=[pair.authorize for pair in part])
            settle = pb.BatchSettleRequest(
                requests=[pb.SettleRequest(capture=pair.capture) for pair in part]
            )
            work.append((authorize.SerializeToString(), settle.SerializeToString()))

        async def caller() -> None:
            while work:
                authorize, settle = work.pop()
                for rpc, request, response in (
                    ("BatchAuthorize", authorize, pb.BatchAuthorizeResponse),
                    ("BatchSettle", settle, pb.BatchSettleResponse),
                ):
                    reply = await self.call(rpc, request, response)
                    failed = [one for one in reply.results if one.HasField("error")]
                    if failed:
                        message = f"{rpc} failed: {failed[0].error.message}"
                        raise RuntimeError(message)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        return len(pairs) / (time.perf_counter() - started)

    async def pair(self, authorize: bytes, capture: bytes) -> None:
        """Settle one pair by two unary calls."""
        await self.call("Authorize", authorize, pb.AuthorizeResponse)
        await self.call("Capture", capture, pb.CaptureResponse)

    async def unary(self, pairs: Sequence[Pair], *, callers: int) -> UnaryRates:
        """Authorize pairs by unary calls, then capture them."""
        authorizes, captures = zip(*map(_serialized, pairs), strict=True)
        return UnaryRates(
            await self._each("Authorize", authorizes, pb.AuthorizeResponse, callers=callers),
            await self._each("Capture", captures, pb.CaptureResponse, callers=callers),
        )

    async def _each(
        self, rpc: str, requests: Sequence[bytes], response: Any, *, callers: int
    ) -> float:
        """Call an RPC with each request and return calls a second."""
        work = list(requests)

        async def caller() -> None:
            while work:
                await self.call(rpc, work.pop(), response)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        return len(requests) / (time.perf_counter() - started)

    async def latencies(self, pairs: Sequence[Pair], *, pairs_per_second: float) -> list[float]:
        """Send pairs at a fixed rate, whatever the answers take; return seconds of each pair."""
        work = [_serialized(pair) for pair in pairs]
        seconds: list[float] = []
        started = time.perf_counter()

        async def one(due: float, calls: tuple[bytes, bytes]) -> None:
            await self.pair(*calls)
            # From when it was due: a sender that falls behind does not flatter the figure.
            seconds.append(time.perf_counter() - due)

        async with asyncio.TaskGroup() as group:
            for number, calls in enumerate(work):
                due = started + number / pairs_per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(due, calls))
        return seconds


def _serialized(pair: Pair) -> tuple[bytes, bytes]:
    return pair.authorize.SerializeToString(), pair.capture.SerializeToString()


def spread(account_count: int, count: int, *, chance: random.Random) -> list[Pair]:
    """Return pairs on accounts drawn evenly; every other account pays with its own key."""
    numbers = (chance.randrange(account_count) for _ in range(count))
    return [make_pair(account_name(number), own_key=number % 2 == 1) for number in numbers]


def account_name(number: int) -> str:
    """Return the id of the n-th account."""
    return f"bench-{number}"
