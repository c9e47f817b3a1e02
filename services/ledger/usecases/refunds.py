# SPDX-License-Identifier: Apache-2.0
"""
Refund a captured charge: credits go back to the grants they came from, in the reverse of the
recorded order, whatever the plan says today.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.ledger.domain.entries import Entry
from services.ledger.domain.files import AccountFile
from services.ledger.domain.requests import Authorization, AuthorizationState
from services.ledger.errors import ChargeNotRefundableError, RefundExceedsChargeError
from services.ledger.usecases.settle import attempt_name, find_attempt, record_settlement

REVISIONS_MAX = 100
"""Settlements that one attempt may have, refunds included."""


@dataclass(frozen=True, slots=True)
class RefundCommand:
    """
    A refund.

    Args:
        request_id: The refunded attempt's request.
        claimant: Its run.
        sequence: Its number within the run.
        amount: Nano-credits; None for all that is left.
        reason: Why.
    """

    request_id: str
    claimant: str
    sequence: int
    amount: int | None
    reason: str


def refund(
    file: AccountFile, command: RefundCommand, *, actor: str
) -> tuple[Authorization, list[Entry]]:
    """
    Refund an attempt's charge, or a part of it; it lands also while credits are paused.

    Returns:
        The attempt and the entries written.

    Raises:
        AuthorizationNotFoundError: If there is no such attempt.
        ChargeNotRefundableError: If it was not captured, or was refunded too often.
        RefundExceedsChargeError: If less than the amount, or nothing, is left to refund.
    """
    attempt = find_attempt(file, command.request_id, command.claimant, command.sequence)
    name, settlement = attempt_name(file, attempt), attempt.settlement
    if settlement is None or settlement.state is not AuthorizationState.CAPTURED:
        message = f"{name} is {attempt.state}, and only what was captured can be refunded"
        raise ChargeNotRefundableError(
            message, metadata={"authorization": name, "state": attempt.state.value}
        )
    if len(attempt.settlements) >= REVISIONS_MAX:
        message = f"{name} was refunded {REVISIONS_MAX - 1} times; use AdjustCredits for more"
        raise ChargeNotRefundableError(
            message, metadata={"authorization": name, "state": attempt.state.value}
        )
    left = settlement.charge.customer
    amount = left if command.amount is None else command.amount
    if not 0 < amount <= left:
        message = f"{left} nano-credits of what {name} charged are left to refund"
        raise RefundExceedsChargeError(
            message, metadata={"authorization": name, "left_nano_credits": str(left)}
        )
    before = len(file.book.entries)
    cause = attempt.cause._replace(reason=command.reason, actor=actor)
    charge = file.book.refund(settlement.charge, amount, cause=cause, income=attempt.income)
    refunded = settlement.refunded + amount
    record_settlement(file, attempt, settlement._replace(charge=charge, refunded=refunded))
    return attempt, file.book.entries[before:]
