# SPDX-License-Identifier: Apache-2.0
"""
Pause receipts, and the proof that a pause took nothing but what was asked for.

A receipt's digest is SHA-256 over the canonical bytes of its fields; whoever holds the receipt can
work it out again. Its MAC shows that this ledger made it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from services.ledger.domain.entries import Entry, EntryKind
from services.shared.fingerprint import canonical, fingerprint
from services.shared.secret import Secret

RECEIPT_VERSION = 1
OPEN_HOLDS_SHOWN_MAX = 1000
PROOF_ENTRIES_SHOWN_MAX = 1000

_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, slots=True)
class OpenHold:
    """
    A hold that was open when credits were paused.

    Args:
        authorization: Id of the attempt.
        held: Nano-credits.
    """

    authorization: str
    held: int


@dataclass(frozen=True, slots=True)
class GrantState:
    """
    A grant as it stood when credits were paused.

    Args:
        grant_id: The grant.
        remaining: Nano-credits left, holds included.
        reserved: Part of them that holds reserve.
    """

    grant_id: str
    remaining: int
    reserved: int


@dataclass(frozen=True, slots=True)
class PauseReceipt:
    """
    What an account held when its credits were paused.

    Args:
        account_id: The account.
        mode_epoch: The epoch that began with the pause.
        pause_time: When it began.
        posted: Owned, holds included.
        reserved: Part of it that open holds reserved.
        entry_sequence: Number of the last entry before it.
        open_hold_count: How many holds were open.
        open_holds: The first OPEN_HOLDS_SHOWN_MAX of them.
        grants: Grants with something left, in the order they are spent.
        digest: SHA-256 over all of the above.
        mac: HMAC over the digest.
    """

    account_id: str
    mode_epoch: int
    pause_time: datetime
    posted: int
    reserved: int
    entry_sequence: int
    open_hold_count: int
    open_holds: tuple[OpenHold, ...]
    grants: tuple[GrantState, ...]
    digest: bytes = b""
    mac: bytes = b""

    def sealed(self, key: Secret) -> PauseReceipt:
        """Return it with digest and MAC."""
        digest = self._digest()
        return replace(self, digest=digest, mac=_mac(key, digest))

    def genuine(self, key: Secret) -> bool:
        """Return whether digest and MAC hold."""
        digest = self._digest()
        return hmac.compare_digest(digest, self.digest) and hmac.compare_digest(
            _mac(key, digest), self.mac
        )

    def _digest(self) -> bytes:
        parts: list[int | str] = [
            RECEIPT_VERSION,
            self.account_id,
            self.mode_epoch,
            (self.pause_time - _EPOCH) // timedelta(microseconds=1),
            self.posted,
            self.reserved,
            self.entry_sequence,
            self.open_hold_count,
            len(self.open_holds),
        ]
        for hold in self.open_holds:
            parts += [hold.authorization, hold.held]
        for grant in self.grants:
            parts += [grant.grant_id, grant.remaining, grant.reserved]
        return hashlib.sha256(canonical([str(part).encode() for part in parts])).digest()


@dataclass(frozen=True, slots=True)
class Resumption:
    """
    How an account stood when its credits resumed.

    Args:
        resume_time: When.
        entry_sequence: Number of its last entry.
        posted: Owned, holds included.
        reserved: Part of it that open holds reserved.
    """

    resume_time: datetime
    entry_sequence: int
    posted: int
    reserved: int


@dataclass(frozen=True, slots=True)
class PauseSums:
    """
    What moved during a pause, nano-credits.

    Args:
        explicit_charged: Charged to requests that asked for credits.
        earlier_holds_charged: Charged by holds from before the pause.
        granted: Granted.
        adjusted: Adjustments, up less down.
        corrected: Given back and refunded, less taken after all.
        expired: Expired.
        unexplained: Charged for no reason that a pause allows.
    """

    explicit_charged: int = 0
    earlier_holds_charged: int = 0
    granted: int = 0
    adjusted: int = 0
    corrected: int = 0
    expired: int = 0
    unexplained: int = 0

    @property
    def change(self) -> int:
        """By how much all of it changed what the account owns."""
        taken = self.explicit_charged + self.earlier_holds_charged + self.expired
        return self.granted + self.adjusted + self.corrected - taken - self.unexplained


@dataclass(frozen=True, slots=True)
class ResumeProof:
    """
    The proof.

    Args:
        receipt: Of the pause that ended.
        resumption: How the account stood at its end.
        sums: What moved in between.
        proven: Whether it adds up, everything is explained and the receipt is genuine.
        entries: The first PROOF_ENTRIES_SHOWN_MAX entries behind the sums.
    """

    receipt: PauseReceipt
    resumption: Resumption
    sums: PauseSums
    proven: bool
    entries: tuple[Entry, ...]


def add(sums: PauseSums, entries: Iterable[Entry], *, pause_epoch: int) -> PauseSums:
    """Add entries of a pause to its sums."""
    for entry in entries:
        name = _column(entry, pause_epoch)
        change = entry.posted_change
        if name in {"granted", "adjusted", "corrected"}:
            sums = replace(sums, **{name: getattr(sums, name) + change})
        else:
            sums = replace(sums, **{name: getattr(sums, name) - change})
    return sums


def prove(
    receipt: PauseReceipt,
    resumption: Resumption,
    sums: PauseSums,
    *,
    entries: tuple[Entry, ...],
    key: Secret,
) -> ResumeProof:
    """Hold the sums against the receipt and what is on record."""
    proven = (
        receipt.genuine(key)
        and sums.unexplained == 0
        and sums.expired == 0
        and receipt.posted + sums.change == resumption.posted
    )
    return ResumeProof(receipt, resumption, sums, proven, entries)


def _column(entry: Entry, pause_epoch: int) -> str:
    if entry.kind is EntryKind.GRANT:
        return "granted"
    if entry.kind is EntryKind.ADJUSTMENT:
        return "adjusted"
    if entry.kind in {EntryKind.CORRECTION, EntryKind.REFUND}:
        return "corrected"
    if entry.kind is EntryKind.EXPIRY:
        return "expired"
    if entry.kind is EntryKind.REPAYMENT or entry.cause.mode_epoch < pause_epoch:
        return "earlier_holds_charged"
    return "explicit_charged" if entry.cause.credits_asked else "unexplained"


def _mac(key: Secret, digest: bytes) -> bytes:
    return fingerprint(key, version=RECEIPT_VERSION, fields=[("pause_receipt", digest)])
