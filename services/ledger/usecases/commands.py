# SPDX-License-Identifier: Apache-2.0
"""What callers ask for, checked for shape, in the ledger's own words."""

from __future__ import annotations

from dataclasses import dataclass

from services.ledger.domain.modes import Operation, OwnKeyState, Source
from services.ledger.domain.requests import Capture, PriceRow, RequestEnd


@dataclass(frozen=True, slots=True)
class OwnKeyTerms:
    """
    What an own key's attempt may cost.

    Args:
        key: Resource name of the key.
        key_version: Its version.
        key_etag: Its etag.
        price_row: The provider's price.
        worst_case_nano_usd: Upper bound of the vendor cost; None for an unpriced model.
        monthly_limit_nano_usd: The key's spending limit; None for none.
    """

    key: str
    key_version: int
    key_etag: str
    price_row: PriceRow
    worst_case_nano_usd: int | None
    monthly_limit_nano_usd: int | None


@dataclass(frozen=True, slots=True)
class CreditTerms:
    """
    What an attempt on credits may cost.

    Args:
        price_row: The provider's price.
        worst_case_nano_usd: Upper bound of the vendor cost.
    """

    price_row: PriceRow
    worst_case_nano_usd: int


@dataclass(frozen=True, slots=True)
class SettleTerms:
    """
    How an attempt is settled.

    Args:
        sequence: Its number within the run.
        digest: Digest of these terms.
        capture: What was used; None to release.
        outcome: Outcome word of a released attempt.
    """

    sequence: int
    digest: bytes
    capture: Capture | None
    outcome: str


@dataclass(frozen=True, slots=True)
class AuthorizeCommand:
    """
    Authorize, as in the proto of the same name.

    Args:
        digest: Digest of the whole command.
    """

    account_id: str
    request_id: str
    claimant: str
    sequence: int
    fingerprint: bytes
    fingerprint_version: int
    digest: bytes
    source: Source
    own_key_state: OwnKeyState
    always_use: bool
    operation: Operation
    own_key: OwnKeyTerms | None
    credits: CreditTerms | None
    settlement: SettleTerms | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class RenewCommand:
    """Renew, as in the proto of the same name."""

    account_id: str
    request_id: str
    claimant: str
    sequence: int
    checkpoint: Capture | None


@dataclass(frozen=True, slots=True)
class SettleCommand:
    """Capture or Release, as in the protos of those names."""

    account_id: str
    request_id: str
    claimant: str
    terms: SettleTerms
    end: RequestEnd | None


AttemptCommand = AuthorizeCommand | RenewCommand | SettleCommand
