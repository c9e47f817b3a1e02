# SPDX-License-Identifier: Apache-2.0
"""
Operations that are answered once and remembered: everything that changes an account but attempts.

The answer, or the refusal, is written in the same unit of work as its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.ledger.domain.files import AccountFile, RecordedOperation
from services.ledger.domain.plans import PlanBook
from services.ledger.errors import AccountNotFoundError, Refusal, RequestIdReusedError
from services.ledger.usecases.due import bring_up_to_date
from services.ledger.usecases.lanes import require_time
from services.ledger.usecases.ports import LedgerStore, Wanted
from services.shared.boundary import current_call


@dataclass(frozen=True, slots=True)
class Operation:
    """
    One call of an operation.

    Args:
        name: Name of the RPC.
        account_id: The account.
        request_id: The caller's id for it.
        fingerprint: Keyed hash of its body.
        actor: Identity that calls.
    """

    name: str
    account_id: str
    request_id: str
    fingerprint: bytes
    actor: str


async def operate(
    store: LedgerStore,
    operation: Operation,
    work: Callable[[AccountFile], bytes],
    *,
    plans: PlanBook,
    attempt: tuple[str, str] = ("", ""),
    open_holds: bool = False,
    create: bool = False,
) -> bytes:
    """
    Do an operation once.

    Args:
        store: Keeps the ledger.
        operation: The call.
        work: Changes the file and returns the response's bytes; raises a Refusal before it has
            changed anything.
        plans: The plans.
        attempt: Request id and claimant of the attempts that the work needs; empty for none.
        open_holds: True if the work needs every open hold.
        create: True to make the account if there is none.

    Returns:
        The bytes of the response, now or then.

    Raises:
        AccountNotFoundError: If there is no such account.
        RequestIdReusedError: If the id was used with another body.
        Refusal: Why it was refused, now or then.
    """
    wanted = Wanted(
        operation.account_id,
        request_id=attempt[0],
        claimant=attempt[1],
        operation_id=operation.request_id,
        open_holds=open_holds,
        create=create,
    )

    def unit(files: Mapping[str, AccountFile]) -> bytes | Refusal:
        require_time(current_call())
        file = files.get(operation.account_id)
        if file is None:
            raise AccountNotFoundError(operation.account_id)
        known = file.operations.get(operation.request_id)
        if known is not None:
            if (known.operation, known.fingerprint) != (operation.name, operation.fingerprint):
                raise RequestIdReusedError(operation.request_id)
            return known.answer
        bring_up_to_date(file, plans)
        answer: bytes | Refusal
        try:
            answer = work(file)
            # A new plan's month begins with it.
            bring_up_to_date(file, plans)
        except Refusal as refusal:
            answer = refusal
        file.add_operation(
            RecordedOperation(operation.request_id, operation.name, operation.fingerprint, answer)
        )
        return answer

    answer = await store.change([wanted], unit)
    if isinstance(answer, Refusal):
        raise answer
    return answer
