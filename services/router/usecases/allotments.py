# SPDX-License-Identifier: Apache-2.0
"""
Slices of the shared keys' limits, as this process has leased them from keyvault.

1. A call on a shared key takes one request of the key's slice, unless the key has no limit, and,
   where the account's plan caps its part, one of that part's slice, also of a key without a limit;
   where either is used up, another is leased.
2. A slice ends soon, as keyvault says, and what it was cut with counts whether used or not. So it
   is small: as much as the process used of the one before, at most a twentieth of the limit.
3. Keyvault away is an error, never a key without a limit.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.router.domain.keys import AccountKeys, HealthMark, HealthState, OwnKey
from services.router.usecases.ports import PART_MAX

if TYPE_CHECKING:
    from services.shared.clock import Clock

SLICES_OF_LIMIT = 20
"""A slice is at most so small a part of its limit."""
SLICES_MAX = 10_000
TAKES_MAX = 2 * SLICES_OF_LIMIT + 2
"""How often one call finds its slice used up by others; by then the limit is too."""
WAIT_SECONDS_MIN = 0.05


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What to lease.
    """

    key: str
    """The shared key's name."""
    requests: int
    account: str = ""
    """Of whose part; empty for the limit as a whole."""
    part_per_million: int = PART_MAX


@dataclass(slots=True)
class Slice:
    """
    What may still begin before a moment.
    """

    requests_per_minute: int | None
    """Of the limit, or of the part, that it was cut from; None for no limit."""
    leased: int
    """Requests it was cut with; zero where the limit had none left."""
    until: float
    """Monotonic seconds; then another is leased."""
    free_at: float = 0.0
    """Monotonic seconds from which the limit has something left, where it has nothing now."""
    used: int = 0

    @property
    def left(self) -> int:
        """
        Count what may still begin on it.
        """
        return self.leased - self.used

    @property
    def is_dry(self) -> bool:
        """
        Tell whether the limit has nothing left, so that leasing again would be no use yet.
        """
        return self.requests_per_minute is not None and not self.leased


class SharedLimits(Protocol):
    """
    Keyvault, as it leases limits.
    """

    async def lease(self, wish: Wish) -> Slice:
        """
        Lease a slice.

        Raises:
            PeerUnavailableError: Keyvault is away.
        """
        ...


class Allotments:
    """
    One process's slices.

    Args:
        limits: Leases them.
        clock: Time.
    """

    def __init__(self, limits: SharedLimits, *, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._slices: OrderedDict[tuple[str, str], Slice] = OrderedDict()
        self._leases: dict[tuple[str, str], asyncio.Task[Slice]] = {}

    async def take(self, key: str, account: str, part_per_million: int) -> float | None:
        """
        Take one request of a shared key's limit; None if it may begin, else seconds to wait.

        Args:
            key: The shared key's name.
            account: Who asks.
            part_per_million: How much of the limit its plan lets it use.

        Raises:
            PeerUnavailableError: Keyvault is away.
        """
        for _ in range(TAKES_MAX):
            held = [await self._slice(Wish(key, 1))]
            if part_per_million < PART_MAX:
                held.append(await self._slice(Wish(key, 1, account, part_per_million)))
            held = [piece for piece in held if piece.requests_per_minute is not None]
            now = self._clock.monotonic()
            if all(piece.left and now < piece.until for piece in held):
                for piece in held:
                    piece.used += 1
                return None
            dry = [piece.free_at - now for piece in held if piece.is_dry]
            if dry:
                return max(WAIT_SECONDS_MIN, *dry)
        return WAIT_SECONDS_MIN

    def over(self, keys: AccountKeys, account: str) -> AccountKeys:
        """
        Show shared keys on which an account may begin nothing now as cooling.
        """
        now = self._clock.monotonic()
        marked = tuple(self._marked(key, account, now) for key in keys.keys)
        return keys if marked == keys.keys else dataclasses.replace(keys, keys=marked)

    def _marked(self, key: OwnKey, account: str, now: float) -> OwnKey:
        pieces = (self._slices.get((key.name, whose)) for whose in ("", account))
        free = [piece.free_at for piece in pieces if piece and piece.is_dry and now < piece.until]
        if not free:
            return key
        mark = HealthMark(HealthState.COOLING, "", max(free))
        return dataclasses.replace(key, health=(*key.health, mark))

    async def _slice(self, wish: Wish) -> Slice:
        """
        Give a slice with something left; a spent one only where its limit has nothing more.
        """
        name = (wish.key, wish.account)
        held = self._slices.get(name)
        if held is not None and self._clock.monotonic() < held.until:
            if held.left or held.is_dry or held.requests_per_minute is None:
                return held
            most = max(1, held.requests_per_minute // SLICES_OF_LIMIT)
            wish = dataclasses.replace(wish, requests=min(most, 2 * held.leased))
        lease = self._leases.get(name)
        if lease is None:
            lease = self._leases[name] = asyncio.create_task(self._lease(name, wish))
            lease.add_done_callback(lambda _: self._leases.pop(name, None))
            # Waited for below by everyone who wants it; a failure nobody waits for is theirs.
            lease.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(lease)

    async def _lease(self, name: tuple[str, str], wish: Wish) -> Slice:
        leased = await self._limits.lease(wish)
        self._slices[name] = leased
        self._slices.move_to_end(name)
        while len(self._slices) > SLICES_MAX:
            self._slices.popitem(last=False)
        return leased
