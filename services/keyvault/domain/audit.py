# SPDX-License-Identifier: Apache-2.0
"""Entries of the audit trail. They are only ever added, and never hold a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class AuditAction(StrEnum):
    """What was done."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    REPLACE = "REPLACE"
    DELETE = "DELETE"
    ENABLE = "ENABLE"
    DISABLE = "DISABLE"
    ACTIVATE = "ACTIVATE"
    UPDATE_SETTINGS = "UPDATE_SETTINGS"
    TEST = "TEST"
    HEALTH = "HEALTH"
    RELEASE = "RELEASE"
    DESTROY_VERSION = "DESTROY_VERSION"
    ROTATE_KEK = "ROTATE_KEK"
    REENCRYPT = "REENCRYPT"
    RETIRE_KEK = "RETIRE_KEK"
    MOVE = "MOVE"
    REWRAP = "REWRAP"
    REPLAY = "REPLAY"
    ACCEPT_RESTORE = "ACCEPT_RESTORE"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """
    An entry to be written.

    Args:
        account: Account id.
        actor: Identity of the caller.
        action: What was done.
        key_id: The key; "" if it is about the account.
        version: The key's version; 0 if it is about none.
        request_id: The caller's id, where the call has one.
        details: What exactly, by field.
    """

    account: str
    actor: str
    action: AuditAction
    key_id: str = ""
    version: int = 0
    request_id: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """
    An entry as it was written.

    Args:
        number: Rises with time over all accounts.
        event_time: When, on the database's clock.
        entry: What was written.
    """

    number: int
    event_time: datetime
    entry: AuditEntry
