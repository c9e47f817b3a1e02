# SPDX-License-Identifier: Apache-2.0
"""The words of who pays. Their values are stored and sent; they never change meaning."""

from __future__ import annotations

from services.ledger.domain.words import Word


class BillingMode(Word):
    """Who pays for an account's requests."""

    CREDITS = "CREDITS"
    OWN_KEY_FIRST = "OWN_KEY_FIRST"
    OWN_KEY_ONLY = "OWN_KEY_ONLY"


class FallbackConsent(Word):
    """For which failures of an own key a request may fall back to credits."""

    NEVER = "NEVER"
    RATE_LIMIT = "RATE_LIMIT"
    KEY_FAILURE = "KEY_FAILURE"
    ANY = "ANY"

    @property
    def breadth(self) -> int:
        """How much it allows: each consent includes those of lesser breadth."""
        return list(FallbackConsent).index(self)


class Source(Word):
    """Which side a caller wants to pay."""

    AUTO = "AUTO"
    OWN_KEY = "OWN_KEY"
    CREDITS = "CREDITS"


class Funding(Word):
    """Which side pays for one attempt."""

    OWN_KEY = "OWN_KEY"
    CREDITS = "CREDITS"


class OwnKeyState(Word):
    """Whether an own key serves an attempt and, if none does, why."""

    READY = "READY"
    NONE_STORED = "NONE_STORED"
    NONE_FOR_MODEL = "NONE_FOR_MODEL"
    DISABLED = "DISABLED"
    COOLING = "COOLING"
    REJECTED = "REJECTED"
    NO_CREDIT = "NO_CREDIT"
    UNKNOWN = "UNKNOWN"
    PROVIDER_FAILED = "PROVIDER_FAILED"
    LIMIT_REACHED = "LIMIT_REACHED"


class Operation(Word):
    """The kind of work."""

    TEXT = "TEXT"
    IMAGE = "IMAGE"
    SPEECH = "SPEECH"
    JOB = "JOB"
