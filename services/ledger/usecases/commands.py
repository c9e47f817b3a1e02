# SPDX-License-Identifier: Apache-2.0
"""What callers ask for, checked for shape, in the ledger's own words."""

from __future__ import annotations

from typing import NamedTuple

from services.ledger.domain.modes import Operation, OwnKeyState, Source
from services.ledger.domain.requests import Capture, PriceRow, RequestEnd


class OwnKeyTerms(NamedTuple):
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


class CreditTerms(NamedTuple):
    """
    What an attempt on credits may cost.

    Args:
        price_row: The provider's price.
        worst_case_nano_usd: Upper bound of the vendor cost.
    """

    price_row: PriceRow
    worst_case_nano_usd: int


class SettleTerms(NamedTuple):
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


class AuthorizeCommand(NamedTuple):
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


class RenewCommand(NamedTuple):
    """Renew, as in the proto of the same name."""

    account_id: str
    request_id: str
    claimant: str
    sequence: int
    checkpoint: Capture | None


class SettleCommand(NamedTuple):
    """Capture or Release, as in the protos of those names."""

    account_id: str
    request_id: str
    claimant: str
    terms: SettleTerms
    end: RequestEnd | None


AttemptCommand = AuthorizeCommand | RenewCommand | SettleCommand
