# SPDX-License-Identifier: Apache-2.0
"""
An account's hash chain: each entry's link is a keyed hash of the entry and of the link before it.

Whoever changes, removes or inserts an entry without the key breaks the chain at that entry.
"""

from __future__ import annotations

from services.ledger.domain.entries import Entry
from services.shared.fingerprint import fingerprint
from services.shared.secret import Secret

CHAIN_VERSION = 1
"""Version of the list of fields that a link is taken of."""

CHAIN_START = bytes(32)
"""What stands before an account's first link."""


def link(key: Secret, previous: bytes, account_id: str, entry: Entry) -> bytes:
    """Return an entry's link, 32 bytes."""
    cause = entry.cause
    values = {
        "account": account_id,
        "sequence": entry.sequence,
        "kind": entry.kind.value,
        "debit": entry.debit.value,
        "credit": entry.credit.value,
        "amount": entry.amount,
        "posted_after": entry.posted_after,
        "grant": entry.grant_id,
        "authorization": cause.authorization,
        "mode_epoch": cause.mode_epoch,
        "credits_asked": cause.credits_asked,
        "reason": cause.reason,
        "actor": cause.actor,
        "create_time": entry.create_time.isoformat(),
    }
    fields = [("previous", previous)]
    fields += [(name, str(value).encode()) for name, value in values.items()]
    return fingerprint(key, version=CHAIN_VERSION, fields=fields)
