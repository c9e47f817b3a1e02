# SPDX-License-Identifier: Apache-2.0
"""
How an attempt at a provider ended, in the words the whole suite uses.

Pure data: the provider dialects classify into these words, routing, key health and
consent decide by them, and nothing of a provider's own text travels with them.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """
    Why a provider call failed.
    """

    INVALID_KEY = "invalid_key"
    EXPIRED_CREDENTIALS = "expired_credentials"
    PERMISSION_DENIED = "permission_denied"
    INSUFFICIENT_CREDIT = "insufficient_credit"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH = "context_length"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    CONTENT_FILTERED = "content_filtered"
    NETWORK = "network"
    """The connection failed or was cut; the transport saw it, not the provider."""
    TIMEOUT = "timeout"
    """The provider did not answer in the time this attempt had."""


class Billed(StrEnum):
    """
    Whether the provider may charge for an attempt that failed.
    """

    NOT_SENT = "not_sent"
    """No byte of the request left this process."""
    REFUSED = "refused"
    """The provider answered with a status under which it does no work."""
    MAYBE_BILLED = "maybe_billed"
    """Work may have begun: a server error, a cut stream, a timeout after sending."""
