# SPDX-License-Identifier: Apache-2.0
"""Pause receipts prove themselves; proofs add up or say that they do not."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.ledger.domain.entries import Cause, Entry, EntryKind, SubLedger
from services.ledger.domain.receipts import (
    GrantState,
    OpenHold,
    PauseReceipt,
    PauseSums,
    Resumption,
    add,
    prove,
)
from services.shared.secret import Secret

KEY = Secret("receipt-key-of-the-tests")
NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
EPOCH = 4


def receipt() -> PauseReceipt:
    """Return a sealed receipt."""
    return PauseReceipt(
        account_id="demo",
        mode_epoch=EPOCH,
        pause_time=NOW,
        posted=1000,
        reserved=40,
        entry_sequence=7,
        open_hold_count=1,
        open_holds=(OpenHold("r-1-1", 40),),
        grants=(GrantState("g1", 1000, 40),),
    ).sealed(KEY)


def entry(kind: EntryKind, change: int, *, epoch: int = EPOCH, asked: bool = False) -> Entry:
    """Return an entry that changes what the account owns."""
    debit, credit = SubLedger.SPENT, SubLedger.CREDITS
    if change < 0:
        debit, credit = credit, debit
    cause = Cause(mode_epoch=epoch, credits_asked=asked)
    return Entry(8, kind, debit, credit, abs(change), 0, "g1", cause, NOW)


@pytest.mark.requirement("L4")
class TestReceipt:
    def test_a_sealed_receipt_is_genuine(self) -> None:
        assert receipt().genuine(KEY)

    def test_its_canonical_bytes_are_those_of_the_contract(self) -> None:
        texts = ["1", "demo", "4", "1795262400123456", "1000", "40", "7", "1", "1"]
        texts += ["r-1-1", "40", "g1", "1000", "40"]
        canonical = b"".join(len(t).to_bytes(8, "big") + t.encode() for t in texts)
        assert receipt().digest == hashlib.sha256(canonical).digest()

    def test_another_ledgers_receipt_is_not(self) -> None:
        assert not receipt().genuine(Secret("another key"))

    @pytest.mark.parametrize(
        "change",
        [
            {"account_id": "other"},
            {"mode_epoch": 5},
            {"pause_time": NOW + timedelta(microseconds=1)},
            {"posted": 1001},
            {"reserved": 41},
            {"entry_sequence": 8},
            {"open_hold_count": 2},
            {"open_holds": ()},
            {"open_holds": (OpenHold("r-1-2", 40),)},
            {"grants": (GrantState("g1", 1000, 41),)},
            {"digest": b"\0" * 32},
            {"mac": b"\0" * 32},
        ],
    )
    def test_every_field_is_sealed(self, change: dict[str, Any]) -> None:
        assert not replace(receipt(), **change).genuine(KEY)


@pytest.mark.requirement("L4")
class TestProof:
    def proven(self, *entries: Entry, posted: int) -> bool:
        sums = add(PauseSums(), entries, pause_epoch=EPOCH)
        end = Resumption(NOW, 7 + len(entries), posted, 0)
        return prove(receipt(), end, sums, entries=entries, key=KEY).proven

    def test_nothing_consumed_and_the_balance_identical(self) -> None:
        assert self.proven(posted=1000)

    def test_what_was_asked_for_granted_adjusted_and_held_before_is_explained(self) -> None:
        entries = (
            entry(EntryKind.CHARGE, -30, asked=True),
            entry(EntryKind.CHARGE, -15, epoch=EPOCH - 1),
            entry(EntryKind.GRANT, 500),
            entry(EntryKind.ADJUSTMENT, -5),
            entry(EntryKind.CORRECTION, 3),
        )
        assert self.proven(*entries, posted=1453)
        assert not self.proven(*entries, posted=1452)

    def test_a_charge_that_nobody_asked_for_disproves_it(self) -> None:
        assert not self.proven(entry(EntryKind.CHARGE, -30), posted=970)

    def test_an_expiry_disproves_it(self) -> None:
        assert not self.proven(entry(EntryKind.EXPIRY, -30), posted=970)
