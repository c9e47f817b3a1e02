# SPDX-License-Identifier: Apache-2.0
"""
What the door tells beside an answer: who pays, who served, each attempt, what it cost.

In headers where they can still be sent, at a stream's end in its last event. Header values are
ASCII; JSON escapes the rest.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import grpc

from services.router.errors import GenerationError
from services.router.rpc.mapping_receipt import duration
from services.router.rpc.status import STATUS_TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.router.domain.attempts import AttemptRecord, Receipt
    from services.router.usecases.engine import Started
    from services.shared.errors import ServiceError

REQUEST_ID = "X-Ownkey-Request-Id"
ACCOUNT = "X-Ownkey-Account"
SOURCE = "X-Ownkey-Source"
ATTEMPTS = "X-Ownkey-Attempts"
SHOULD_RETRY = "x-should-retry"
"""Read by the SDKs before their own rules."""

_Code = grpc.StatusCode
_HTTP = {
    _Code.INVALID_ARGUMENT: 400,
    _Code.UNAUTHENTICATED: 401,
    _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404,
    _Code.ALREADY_EXISTS: 409,
    _Code.FAILED_PRECONDITION: 400,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.UNAVAILABLE: 503,
    _Code.DEADLINE_EXCEEDED: 504,
    _Code.UNIMPLEMENTED: 501,
    _Code.INTERNAL: 500,
}
_HTTP_BY_REASON = {
    # Not 401: the SDK would say that its own key is wrong, and that one is this door's.
    "KEY_INVALID": 424,
    "KEY_FORBIDDEN": 424,
    "NO_USABLE_OWN_KEY": 424,
    "KEY_NO_CREDIT": 402,
    "INSUFFICIENT_CREDITS": 402,
    "FALLBACK_CAP_REACHED": 402,
    "FALLBACK_NOT_ALLOWED": 403,
    "SOURCE_NOT_ALLOWED": 403,
    "REQUEST_ABANDONED": 409,
    "CONTEXT_TOO_LONG": 413,
}


def http_status(error: ServiceError) -> tuple[int, str]:
    """
    Give the HTTP status and the reason of a failure.
    """
    code, reason = STATUS_TABLE.row(error)
    return _HTTP_BY_REASON.get(reason, _HTTP.get(code, 500)), reason


def failure_headers(error: ServiceError) -> dict[str, str]:
    """
    Give the headers of a failure: the attempts, and whether the SDK may try again by itself.
    """
    attempts = _attempts_of(error)
    billable = any(attempt.may_be_billed for attempt in attempts)
    wait = error.retry_after_seconds
    headers = {SHOULD_RETRY: "true" if wait is not None and not billable else "false"}
    if attempts:
        headers[ATTEMPTS] = attempts_json(attempts)
    if wait is not None:
        headers["retry-after"] = str(math.ceil(wait))
        headers["retry-after-ms"] = str(math.ceil(wait * 1000))
    return headers


def started_headers(started: Started) -> dict[str, str]:
    """
    Give what stands once an answer has begun; the attempts are those made before it.
    """
    return {
        ATTEMPTS: attempts_json(started.attempts),
        "X-Ownkey-Payer": started.payer,
        "X-Ownkey-Provider": started.provider,
        "X-Ownkey-Model": started.model,
        "X-Ownkey-Fallback": json.dumps(started.fallback),
    }


def receipt_headers(receipt: Receipt) -> dict[str, str]:
    """
    Give what stands once an answer is whole.
    """
    headers = {
        ATTEMPTS: attempts_json(receipt.attempts),
        "X-Ownkey-Charged-Nano-Credits": str(receipt.charged_nano_credits),
    }
    if receipt.cost_nano_usd is not None:
        headers["X-Ownkey-Cost-Nano-Usd"] = str(receipt.cost_nano_usd)
    return headers


def receipt_object(receipt: Receipt) -> dict[str, Any]:
    """
    Give the same for the last event of a stream.
    """
    served = receipt.served
    return {
        "payer": served.funding,
        "provider": served.provider,
        "model": served.model,
        "fallback": served.fallback,
        "attempts": _attempts(receipt.attempts),
        "cost_nano_usd": receipt.cost_nano_usd,
        "charged_nano_credits": receipt.charged_nano_credits,
        "settled": receipt.settled,
        "notes": list(receipt.notes),
    }


def failed_attempts(error: ServiceError) -> list[dict[str, Any]]:
    """
    Give the attempts of a failure for the event that ends a stream.
    """
    return _attempts(_attempts_of(error))


def attempts_json(attempts: Iterable[AttemptRecord]) -> str:
    """
    Write attempts into one line of ASCII.
    """
    return json.dumps(_attempts(attempts), separators=(",", ":"))


def _attempts_of(error: ServiceError) -> tuple[AttemptRecord, ...]:
    return error.attempts if isinstance(error, GenerationError) else ()


def _attempts(attempts: Iterable[AttemptRecord]) -> list[dict[str, Any]]:
    return [_attempt(attempt) for attempt in attempts]


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "provider": attempt.provider,
        "model": attempt.model,
        "payer": attempt.funding,
        "key_hint": attempt.key_hint,
        "outcome": attempt.outcome,
        "billed": attempt.billed,
        "cost_nano_usd": attempt.cost_nano_usd,
        # As JSON writes the contract's Duration: "0.250s".
        "latency": duration(attempt.latency_seconds).ToJsonString(),
    }
