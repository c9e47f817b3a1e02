# SPDX-License-Identifier: Apache-2.0
"""
What all routers share: slices of shared keys' limits, and outages of providers.

1. A limit is counted by the database's clock, as a whole and by customer. What slices let begin in
   any minute never adds up to more than the limit.
2. An outage only ever grows: a later end extends it, an earlier one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.names import PLATFORM
from services.keyvault.errors import KeyNotFoundError
from services.keyvault.usecases.idempotency import Caller

WISHES_MAX = 100
OUTAGES_FOUND_MAX = 100
OUTAGES_MAX = 1_000
OUTAGE_MAX = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What a router would like to begin on one shared key.

    Args:
        key_id: The key, of the account `platform`.
        requests: How many requests.
        customer: Of whose part of the limit; empty for the limit as a whole.
        part_per_million: How large that part is; of a key without a limit, it is counted of
            `UNLIMITED_REQUESTS`.
    """

    key_id: str
    requests: int
    customer: str = ""
    part_per_million: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Allotment:
    """
    A slice of one shared key's limit.

    Args:
        wish: What was asked for.
        requests_per_minute: What all routers share; None for no limit.
        requests: How many may begin; 0 without a limit.
        remaining: For how long it counts.
        free_in: Where it is empty, after how long something can be leased again.
    """

    wish: Wish
    requests_per_minute: int | None
    requests: int
    remaining: timedelta
    free_in: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """
    A shared key's limit, and how much of it is in use.

    Args:
        requests_per_minute: What all routers share; None for no limit.
        leased: Requests that were leased to routers in the minute before.
    """

    requests_per_minute: int | None
    leased: int


@dataclass(frozen=True, slots=True)
class Outage:
    """
    A provider's model that is passed over for a while.

    Args:
        provider: Provider id.
        host: Where it is called.
        model: `vendor/model`.
        remaining: For how long yet.
    """

    provider: str
    host: str
    model: str
    remaining: timedelta


class SharingStore(Protocol):
    """
    Keeps limits and outages.
    """

    async def set_limit(
        self, key_id: str, requests_per_minute: int | None, entry: AuditEntry
    ) -> bool:
        """Set or lift a limit and record it; False if there is no such key."""
        ...

    async def limit(self, key_id: str) -> SharedLimit | None:
        """Read a key's limit; None if there is no such key."""
        ...

    async def lease(self, wishes: Sequence[Wish]) -> list[Allotment]:
        """Lease slices, in the order of the wishes."""
        ...

    async def exchange(self, found: Sequence[Outage], *, limit: int) -> list[Outage]:
        """Add outages and return those that are not over, the longest first."""
        ...


class Sharing:
    """
    The use cases.

    Args:
        store: Keeps limits and outages.
    """

    def __init__(self, store: SharingStore) -> None:
        self._store = store

    async def set_limit(self, caller: Caller, key_id: str, requests_per_minute: int | None) -> None:
        """
        Set or lift a shared key's limit.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        limit = "none" if requests_per_minute is None else str(requests_per_minute)
        entry = AuditEntry(
            account=PLATFORM,
            actor=caller.identity,
            action=AuditAction.UPDATE,
            key_id=key_id,
            details={"requests_per_minute": limit},
        )
        if not await self._store.set_limit(key_id, requests_per_minute, entry):
            raise KeyNotFoundError(PLATFORM, key_id)

    async def limit(self, key_id: str) -> SharedLimit:
        """
        Read a shared key's limit.

        Raises:
            KeyNotFoundError: There is no such key.
        """
        found = await self._store.limit(key_id)
        if found is None:
            raise KeyNotFoundError(PLATFORM, key_id)
        return found

    async def lease(self, wishes: Sequence[Wish]) -> list[Allotment]:
        """Lease slices, in the order of the wishes."""
        return await self._store.lease(wishes)

    async def exchange(self, found: Sequence[Outage]) -> list[Outage]:
        """Take a router's outages in and return what every router found."""
        return await self._store.exchange(found, limit=OUTAGES_MAX)
