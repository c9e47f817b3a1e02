# SPDX-License-Identifier: Apache-2.0
"""
Double entry: every movement takes an amount out of one sub-ledger of an account into another.

All sub-ledgers belong to the account they mirror, the house's included, so no two accounts ever
meet in one row and one account's books always sum to zero by themselves.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from services.ledger.domain.words import Word


class SubLedger(Word):
    """A part of one account's books."""

    CREDITS = "CREDITS"
    OVERDRAFT = "OVERDRAFT"
    ISSUED = "ISSUED"
    SPENT = "SPENT"
    FEES = "FEES"
    INVOICE = "INVOICE"
    ABSORBED = "ABSORBED"
    EXPIRED = "EXPIRED"


class EntryKind(Word):
    """Why credits moved."""

    GRANT = "GRANT"
    ADJUSTMENT = "ADJUSTMENT"
    CHARGE = "CHARGE"
    FEE = "FEE"
    CORRECTION = "CORRECTION"
    EXPIRY = "EXPIRY"
    REPAYMENT = "REPAYMENT"
    REFUND = "REFUND"


class Income(Word):
    """What the house charges for, and from what."""

    WORK = "WORK"
    FEE = "FEE"
    INVOICED_FEE = "INVOICED_FEE"

    @property
    def kind(self) -> EntryKind:
        """The kind of its entries."""
        return EntryKind.CHARGE if self is Income.WORK else EntryKind.FEE

    @property
    def sub_ledger(self) -> SubLedger:
        """Where it is counted."""
        return SubLedger.SPENT if self is Income.WORK else SubLedger.FEES


class Cause(NamedTuple):
    """
    What stands behind a movement.

    Args:
        mode_epoch: Epoch under which the attempt was authorized, else the account's current one.
        authorization: Id of the attempt; empty for others.
        credits_asked: True if the attempt's request asked for credits by name.
        reason: The adjustment's reason or the grant's note.
        actor: Identity that called; empty for the ledger itself.
    """

    mode_epoch: int
    authorization: str = ""
    credits_asked: bool = False
    reason: str = ""
    actor: str = ""


class Entry(NamedTuple):
    """
    One movement.

    Args:
        sequence: Its number in the account, from 1 without gaps.
        kind: Why.
        debit: What the amount was taken from.
        credit: What it was added to.
        amount: Nano-credits, more than zero.
        posted_after: What the account owned after it.
        grant_id: Grant whose credits moved; empty if no grant's did.
        cause: What stands behind it.
        create_time: On the account's time.
    """

    sequence: int
    kind: EntryKind
    debit: SubLedger
    credit: SubLedger
    amount: int
    posted_after: int
    grant_id: str
    cause: Cause
    create_time: datetime

    @property
    def posted_change(self) -> int:
        """By how much it changed what the account owns."""
        owned = (SubLedger.CREDITS, SubLedger.OVERDRAFT)
        return self.amount * ((self.credit in owned) - (self.debit in owned))
