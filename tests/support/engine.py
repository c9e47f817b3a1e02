# SPDX-License-Identifier: Apache-2.0
"""The ports of a run, scripted: what keyvault, ledger and provider say, and what they heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.router.domain.catalogue import Catalogue
from services.router.domain.keys import AccountKeys, BroughtKey, OwnKey, ResealedKey
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import Funding, OwnKeyState
from services.router.domain.price_schedule import PriceSchedule
from services.router.domain.request import Source
from services.router.errors import CreditsNotPossibleError
from services.router.providers.base import HTTPRequest
from services.router.providers.registry import DIALECTS
from services.router.usecases.access import AccessTokens
from services.router.usecases.allotments import Allotments, Slice, Wish
from services.router.usecases.attempt import Caller
from services.router.usecases.byte_budget import ByteBudget
from services.router.usecases.engine import Engine
from services.router.usecases.experience import Experience
from services.router.usecases.media_answer import MediaReader
from services.router.usecases.ports import (
    BODY_BYTES_MAX,
    Ask,
    Capture,
    Claim,
    Grant,
    OpenedKey,
    Recorded,
    RequestEnd,
    Settled,
    Settlement,
    StaleKeyError,
)
from services.router.usecases.price_book import PriceBook
from services.router.usecases.settlement import BackgroundWork, Settler
from services.shared.clock import Clock
from services.shared.errors import PeerUnavailableError, ServiceError
from services.shared.secret import Secret
from tests.support.clock import ManualClock

MEDIA_BYTES_MAX = 64 * 1024 * 1024


class FakeHeld:
    """Keys under a lease that a test can end."""

    def __init__(self, keys: AccountKeys, *, fresh: bool = True) -> None:
        self.keys = keys
        self.fresh = fresh

    def secret(self, key: OwnKey) -> Secret:
        """Give a secret that names its key and version."""
        return Secret(f"{key.name}@{key.version}")

    def may_use(self, key: OwnKey) -> bool:
        return self.usable()

    def usable(self) -> bool:
        """Tell whether the lease stands."""
        return self.fresh

    def usable_until(self) -> float:
        """Give the lease's end: never, or past."""
        return float("inf") if self.fresh else float("-inf")


class FakeKeys:
    """Accounts; `anew` is what the next questions to keyvault itself find, in turn."""

    def __init__(self, *accounts: AccountKeys) -> None:
        self.accounts = {keys.account: keys for keys in accounts}
        self.anew: list[AccountKeys] = []
        self.away: set[str] = set()
        """Accounts that keyvault cannot be asked about."""
        self.stale = 0
        self.stale_anew = 0
        """Answers of keyvault itself whose lease has run out by the time of sending."""
        self.reports: list[tuple[str, Outcome | None]] = []
        self.openings: list[tuple[str, str]] = []
        """Client-held keys that were opened, each with the request id."""
        self.opening: Callable[[], Exception | ResealedKey | None] = lambda: None
        """Gives what an opening fails with, or what comes back sealed anew."""

    async def held(self, account: str) -> FakeHeld:
        """Give what is held; the first `stale` ones have no lease left."""
        if account in self.away:
            raise PeerUnavailableError("keyvault is away", metadata={"peer": "keyvault"})
        keys = self.accounts.get(account, AccountKeys(account=account))
        if self.stale and keys.keys and account != "accounts/platform":
            self.stale -= 1
            return FakeHeld(keys, fresh=False)
        return FakeHeld(keys)

    async def asked_anew(self, account: str) -> FakeHeld:
        """Give what keyvault says now."""
        if self.anew and account != "accounts/platform":
            self.accounts[account] = self.anew.pop(0)
        held = FakeHeld(self.accounts.get(account, AccountKeys(account=account)))
        if self.stale_anew:
            self.stale_anew -= 1
            held.fresh = False
        return held

    async def opened(self, key: OwnKey, brought: BroughtKey, *, request_id: str) -> OpenedKey:
        """Open a client-held key."""
        self.openings.append((brought.key, request_id))
        found = self.opening()
        if isinstance(found, Exception):
            raise found
        return OpenedKey(Secret(f"opened {key.name}@{key.version}"), found)

    def report(
        self,
        key: OwnKey,
        outcome: Outcome | None,
        *,
        model: str,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Take a report."""
        self.reports.append((key.name, outcome))


@dataclass
class FakeLedger:
    """Grants own keys that are ready, else credits."""

    asks: list[Ask] = field(default_factory=list)
    settled: list[tuple[Settlement, RequestEnd | None]] = field(default_factory=list)
    checkpoints: list[Capture] = field(default_factory=list)
    answer: Recorded | None = None
    refuse: Callable[[Ask], ServiceError | None] = lambda _: None
    """Gives the refusal of an ask, None to grant it."""
    gate: asyncio.Event | None = None
    """What settlements wait for."""
    settling: int = 0
    """How many settlements were asked for."""

    async def authorize(self, ask: Ask, *, timeout_seconds: float) -> Grant | Recorded:
        """Decide who pays."""
        self.asks.append(ask)
        if self.answer is not None:
            return self.answer
        if (refusal := self.refuse(ask)) is not None:
            raise refusal
        ready = ask.own_key_state is OwnKeyState.READY and ask.claim.source is not Source.CREDITS
        if not ready and ask.credits is None:
            raise CreditsNotPossibleError("nothing that credits can pay for serves this")
        return Grant(
            funding=Funding.OWN_KEY if ready else Funding.CREDITS,
            fallback=not ready and len(self.asks) > 1,
            held_nano_credits=0,
            lease_seconds=60.0,
            settled=Settled(0) if ask.settlement else None,
        )

    async def renew(
        self, claim: Claim, sequence: int, checkpoint: Capture, *, timeout_seconds: float
    ) -> None:
        """Take a checkpoint."""
        self.checkpoints.append(checkpoint)

    async def settle(
        self,
        claim: Claim,
        settlement: Settlement,
        end: RequestEnd | None,
        *,
        timeout_seconds: float,
    ) -> Settled:
        """Take a settlement; a nano-credit for a nano-USD."""
        self.settling += 1
        if self.gate is not None:
            await self.gate.wait()
        self.settled.append((settlement, end))
        terms = settlement.terms
        charged = terms.vendor_cost_nano_usd if isinstance(terms, Capture) else 0
        return Settled(charged or 0)


@dataclass
class FakeLimits:
    """Keyvault as it leases limits: each by name of key, or of key and account."""

    clock: Clock
    left: dict[tuple[str, str], int] = field(default_factory=dict)
    """What is left of the minute of each that is limited."""
    wishes: list[Wish] = field(default_factory=list)
    away: bool = False
    free_seconds: float | None = None
    """How long something used up stays so, if not until the end of the minute."""

    async def lease(self, wish: Wish) -> Slice:
        """Lease until the end of the minute on the test's clock."""
        if self.away:
            raise PeerUnavailableError("keyvault is away", metadata={"peer": "keyvault"})
        self.wishes.append(wish)
        now = self.clock.monotonic()
        until = now - now % 60 + 60
        name = (wish.key, wish.account)
        if name not in self.left and (wish.key, "") not in self.left:
            return Slice(None, 0, until)
        leased = min(wish.requests, self.left.get(name, 0))
        self.left[name] = self.left.get(name, 0) - leased
        free_at = until if self.free_seconds is None else now + self.free_seconds
        return Slice(60, leased, until, free_at)


@dataclass
class FakeAnswer:
    """One answer of a provider, piece by piece; a pause waits for the test."""

    status: int = 200
    pieces: tuple[bytes | asyncio.Event, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)

    async def read(self) -> bytes:
        """Give the whole body."""
        return b"".join([piece async for piece in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body piece by piece."""
        for piece in self.pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                yield piece


class FakeTransport:
    """Answers in turn; the last answer stays. Keeps what was sent, with its key."""

    def __init__(self, *answers: FakeAnswer) -> None:
        self.answers = list(answers)
        self.sent: list[HTTPRequest] = []

    @asynccontextmanager
    async def send(
        self,
        request: HTTPRequest,
        *,
        may_send: Callable[[], bool],
        head_seconds: float,
        idle_seconds: float,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> AsyncIterator[FakeAnswer]:
        """Send if the lease stands."""
        assert body_bytes_max >= BODY_BYTES_MAX
        if not may_send():
            raise StaleKeyError
        self.sent.append(request)
        yield self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class FakePriceList:
    """List prices by provider and model; none by default."""

    def __init__(self, prices: dict[tuple[str, str], PriceSchedule] | None = None) -> None:
        self._prices = prices or {}

    def schedule(self, provider: str, provider_model: str) -> PriceSchedule | None:
        """Give the prices that the test lists."""
        return self._prices.get((provider, provider_model))


def engine(
    catalogue: Catalogue,
    keys: FakeKeys,
    ledger: FakeLedger,
    transport: Any,
    clock: ManualClock,
    *,
    limits: FakeLimits | None = None,
    prices: FakePriceList | None = None,
) -> Engine:
    """Wire a run's ports."""
    work = BackgroundWork()
    caller = Caller(
        dialects=DIALECTS,
        base_urls={},
        transport=transport,
        tokens=AccessTokens(transport=transport, clock=clock),
        media=MediaReader(transport=transport, budget=ByteBudget(MEDIA_BYTES_MAX), clock=clock),
        clock=clock,
    )
    return Engine(
        keys=keys,
        ledger=ledger,
        caller=caller,
        experience=Experience(caller.host),
        allotments=Allotments(limits or FakeLimits(clock), clock=clock),
        settler=Settler(ledger, work, clock=clock),
        work=work,
        prices=PriceBook(catalogue, prices or FakePriceList(), clock=clock),
        clock=clock,
        chance=lambda: 0.5,
        new_claimant=lambda: "claimant-0123456789",
        fingerprint_key=Secret("a key for tests"),
    )
