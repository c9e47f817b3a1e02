# SPDX-License-Identifier: Apache-2.0
"""
What the use cases need of the outside: keys, the ledger, a way to the providers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from services.router.domain.operation import Operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from services.router.domain.attempts import UsageBasis
    from services.router.domain.estimate import CreditTariff
    from services.router.domain.keys import AccountKeys, BroughtKey, OwnKey, ResealedKey
    from services.router.domain.outcomes import Outcome
    from services.router.domain.plan import Funding, OwnKeyState
    from services.router.domain.request import Source
    from services.router.domain.text import Usage
    from services.router.providers.base import HTTPRequest
    from services.shared.secret import Secret

PART_MAX = 1_000_000
"""A part in parts per million that is the whole."""
PLATFORM = "accounts/platform"
"""Owner of the product's shared keys."""
BODY_BYTES_MAX = 32 * 1024 * 1024
"""Of a provider's answer, unless said otherwise."""


class HeldKeys(Protocol):
    """
    An account's keys with their secrets, under a lease.
    """

    @property
    def keys(self) -> AccountKeys:
        """Give the keys without their secrets."""
        ...

    def secret(self, key: OwnKey) -> Secret:
        """Give the secret of an enabled key's current version."""
        ...

    def usable(self) -> bool:
        """Tell whether the lease still stands; asked again right before bytes are sent."""
        ...

    def may_use(self, key: OwnKey) -> bool:
        """Tell whether the lease stands and, for a version in its overlap, that lasts."""
        ...

    def usable_until(self) -> float:
        """Give when the lease ends as it stands, unless renewed, in monotonic seconds."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class OpenedKey:
    """
    A client-held key, opened for one run; kept no longer than that.
    """

    secret: Secret
    resealed: ResealedKey | None
    """Set where it was sealed anew."""


class Keys(Protocol):
    """
    Keyvault, as the router uses it.
    """

    async def held(self, account: str) -> HeldKeys:
        """
        Give an account's keys, from memory under a fresh lease or from keyvault.

        Raises:
            PeerUnavailableError: Keyvault is away; never read as an account without keys.
        """
        ...

    async def asked_anew(self, account: str) -> HeldKeys:
        """
        Give an account's keys as keyvault knows them now.

        Raises:
            PeerUnavailableError: Keyvault is away.
        """
        ...

    async def opened(self, key: OwnKey, brought: BroughtKey, *, request_id: str) -> OpenedKey:
        """
        Open a client-held key that a request brings.

        Raises:
            SealedKeyRefusedError: It is not the key's, damaged or out of date.
            ProofRefusedError: Its proof is not fresh or not for this request.
            StaleKeyError: The key was changed meanwhile.
            PeerUnavailableError: Keyvault is away.
        """
        ...

    def report(
        self,
        key: OwnKey,
        outcome: Outcome | None,
        *,
        model: str,
        retry_after_seconds: float | None = None,
    ) -> None:
        """
        Tell what a call found out about a key, without waiting; None is success.
        """
        ...


@dataclass(frozen=True, slots=True)
class PriceRow:
    """
    The price an attempt is authorized by; an empty id is an unpriced model.
    """

    model: str
    provider: str
    price_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    One run of a request, as the ledger knows it.
    """

    account: str
    request_id: str
    claimant: str
    fingerprint: bytes
    fingerprint_version: int
    source: Source
    always_use: bool
    operation: Operation = Operation.TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTerms:
    """
    What an attempt on an own key may cost.
    """

    key: OwnKey
    price: PriceRow
    worst_case_nano_usd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditTerms:
    """
    What an attempt on credits may cost.
    """

    price: PriceRow
    worst_case_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """
    Closes an attempt for an amount; None only for an unpriced model on an own key.
    """

    vendor_cost_nano_usd: int | None
    usage: Usage
    basis: UsageBasis
    delivered: bool


@dataclass(frozen=True, slots=True)
class Release:
    """
    Closes an attempt for nothing.
    """

    outcome: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """
    The end of one attempt.
    """

    sequence: int
    terms: Capture | Release


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """
    The end of a request: whether the caller got an answer, and what a repeat is told.
    """

    succeeded: bool
    outcome: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """
    Asks for one attempt.
    """

    claim: Claim
    sequence: int
    own_key_state: OwnKeyState
    own: OwnTerms | None
    credits: CreditTerms | None
    settlement: Settlement | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """
    What a settled attempt was charged.
    """

    charged_nano_credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """
    One attempt may run.
    """

    funding: Funding
    fallback: bool
    held_nano_credits: int
    lease_seconds: float
    settled: Settled | None = None
    """The previous attempt, where the ask carried its settlement."""
    shared_part_per_million: int = PART_MAX
    """How much of a shared key's minute the account's plan lets it use."""


class RecordedState(StrEnum):
    """
    How a request that is on record ended.
    """

    SUCCEEDED = "succeeded"
    FAILED_CHARGED = "failed_charged"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAttempt:
    """
    One attempt of a request that has ended, as the ledger keeps it.
    """

    provider: str
    model: str
    funding: Funding
    key: str
    fallback: bool
    charged_nano_credits: int
    vendor_cost_nano_usd: int | None
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """
    The request had ended before; nothing was granted.
    """

    state: RecordedState
    outcome: bytes
    """As `RequestEnd` left it; empty if that run's lease lapsed."""
    attempts: tuple[RecordedAttempt, ...]


class Ledger(Protocol):
    """
    Who pays.
    """

    async def authorize(self, ask: Ask, *, timeout_seconds: float) -> Grant | Recorded:
        """
        Claim the request and decide who pays for the next attempt.

        Raises:
            LedgerRefusalError: With the ledger's reason.
            PeerUnavailableError: The ledger is away.
        """
        ...

    async def renew(
        self, claim: Claim, sequence: int, checkpoint: Capture, *, timeout_seconds: float
    ) -> None:
        """
        Extend an attempt's lease, with the usage so far.
        """
        ...

    async def settle(
        self,
        claim: Claim,
        settlement: Settlement,
        end: RequestEnd | None,
        *,
        timeout_seconds: float,
    ) -> Settled:
        """
        Close an attempt, and with an end the request.
        """
        ...


class Tariffs(Protocol):
    """
    What the accounts' plans charge in credits.
    """

    async def of(self, account: str, *, timeout_seconds: float) -> CreditTariff:
        """
        Give the terms of an account's plan.

        Raises:
            AccountNotFoundError: The ledger knows no such account.
            PeerUnavailableError: The ledger is away.
        """
        ...


class StaleKeyError(Exception):
    """
    The lease of a key ran out before its request was sent; nothing was sent.
    """


class HTTPAnswer(Protocol):
    """
    The head of an answer, and its body as it comes.
    """

    @property
    def status(self) -> int:
        """Give the HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Give the headers, names in lower case."""
        ...

    async def read(self) -> bytes:
        """
        Read the whole body.

        Raises:
            ProviderError: The connection broke, was too slow, or the body is too large.
        """
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """
        Read the body as it comes; raises as `read`.
        """
        ...


class Transport(Protocol):
    """
    The way to the providers.
    """

    def send(
        self,
        request: HTTPRequest,
        *,
        may_send: Callable[[], bool],
        head_seconds: float,
        idle_seconds: float,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> AbstractAsyncContextManager[HTTPAnswer]:
        """
        Send a request and give its answer.

        Args:
            request: What to send.
            may_send: Asked once a connection is in hand, right before the first byte.
            head_seconds: Time for the answer's head.
            idle_seconds: Time for each further piece of the body.
            body_bytes_max: The most that a body may hold.

        Raises:
            StaleKeyError: `may_send` said no.
            ProviderError: NETWORK or TIMEOUT.
        """
        ...
