# SPDX-License-Identifier: Apache-2.0
"""
What a repeat of a request is told: written with the request's end, read when it comes again.

It holds outcome, attempts and cost, never prompt or answer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from services.router import errors
from services.router.domain.attempts import (
    OK,
    AttemptBilled,
    AttemptRecord,
    PriceUsed,
    Receipt,
    UsageBasis,
)
from services.router.domain.text import FinishReason
from services.router.usecases.ports import RecordedState
from services.shared.errors import ServiceError

if TYPE_CHECKING:
    from services.router.usecases.ports import Recorded, RecordedAttempt

OUTCOME_VERSION = 1
OUTCOME_BYTES_MAX = 16 * 1024


class _Failure(msgspec.Struct, frozen=True):
    error: str
    message: str
    metadata: dict[str, str]


class _Outcome(msgspec.Struct, frozen=True):
    version: int
    attempts: tuple[AttemptRecord, ...]
    price: PriceUsed | None = None
    notes: tuple[str, ...] = ()
    finish_reason: FinishReason | None = None
    failure: _Failure | None = None


_ERRORS = {
    cls.__name__: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, errors.GenerationError)
}
_decode = msgspec.json.Decoder(_Outcome).decode


def encode_receipt(receipt: Receipt) -> bytes:
    """
    Write down an answer's receipt.
    """
    return _encode(
        _Outcome(
            version=OUTCOME_VERSION,
            attempts=receipt.attempts,
            price=receipt.price,
            notes=receipt.notes,
            finish_reason=receipt.finish_reason,
        )
    )


def encode_failure(error: ServiceError, attempts: tuple[AttemptRecord, ...]) -> bytes:
    """
    Write down a failure.
    """
    failure = _Failure(type(error).__name__, error.message, error.metadata)
    return _encode(_Outcome(version=OUTCOME_VERSION, attempts=attempts, failure=failure))


def replayed(recorded: Recorded, request_id: str) -> Receipt:
    """
    Give the receipt of a request that had ended.

    Raises:
        GenerationError: It had failed: the same failure again.
    """
    outcome = _decode(recorded.outcome) if recorded.outcome else None
    attempts = _attempts(recorded, outcome.attempts if outcome else ())
    if recorded.state is RecordedState.FAILED_CHARGED:
        failure = outcome.failure if outcome else None
        cls = _ERRORS.get(failure.error if failure else "", errors.RequestAbandonedError)
        message = (
            failure.message
            if failure
            else "an earlier run of this request broke off; what it had delivered was settled: "
            "ask again under a new request id"
        )
        metadata = {"request_id": request_id} | (failure.metadata if failure else {})
        raise cls(message, attempts=attempts, metadata=metadata)
    return Receipt(
        attempts=attempts,
        price=outcome.price if outcome else None,
        settled=True,
        notes=outcome.notes if outcome else (),
        finish_reason=outcome.finish_reason if outcome else None,
        replayed=True,
    )


def _attempts(recorded: Recorded, kept: tuple[AttemptRecord, ...]) -> tuple[AttemptRecord, ...]:
    """
    Join what the router wrote down with what the ledger charged in the end.
    """
    if len(kept) != len(recorded.attempts):
        return tuple(_from_ledger(attempt) for attempt in recorded.attempts)
    return tuple(
        dataclasses.replace(record, charged_nano_credits=settled.charged_nano_credits)
        for record, settled in zip(kept, recorded.attempts, strict=True)
    )


def _from_ledger(attempt: RecordedAttempt) -> AttemptRecord:
    return AttemptRecord(
        provider=attempt.provider,
        model=attempt.model,
        provider_model="",
        funding=attempt.funding,
        key=attempt.key,
        key_hint="",
        outcome=OK,
        billed=AttemptBilled.MAYBE,
        latency_seconds=0.0,
        fallback=attempt.fallback,
        usage=attempt.usage,
        basis=UsageBasis.ESTIMATED,
        cost_nano_usd=attempt.vendor_cost_nano_usd,
        charged_nano_credits=attempt.charged_nano_credits,
    )


def _encode(outcome: _Outcome) -> bytes:
    data = msgspec.json.encode(outcome)
    if len(data) > OUTCOME_BYTES_MAX:
        # The ledger keeps every attempt itself; only their finer points are lost.
        data = msgspec.json.encode(msgspec.structs.replace(outcome, attempts=()))
    return data
