# SPDX-License-Identifier: Apache-2.0
"""
What plans charge in credits, read from the ledger over gRPC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ownkey.ledger.v1 import account_pb2, authorization_pb2, ledger_service_pb2_grpc, plan_pb2

from services.router.adapters.ledger_client import retried
from services.router.domain.estimate import CreditTariff
from services.router.domain.operation import Operation
from services.shared.errors import InternalError
from services.shared.identity import call_metadata

if TYPE_CHECKING:
    import grpc.aio

    from services.shared.secret import Secret

CALL_SECONDS_MAX = 2.0

_OPERATIONS = {
    authorization_pb2.OPERATION_TEXT: Operation.TEXT,
    authorization_pb2.OPERATION_IMAGE: Operation.IMAGE,
    authorization_pb2.OPERATION_SPEECH: Operation.SPEECH,
    authorization_pb2.OPERATION_JOB: Operation.JOB,
}


class GrpcTariffs:
    """
    Reads an account's plan.

    Args:
        channel: To the ledger.
        token: The router's identity; None where its certificate shows it.
    """

    def __init__(self, channel: grpc.aio.Channel, *, token: Secret | None) -> None:
        self._stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        self._metadata = call_metadata(token)

    async def of(self, account: str, *, timeout_seconds: float) -> CreditTariff:
        """
        Give the terms of an account's plan; see the port.
        """

        async def attempt() -> CreditTariff:
            found: account_pb2.GetAccountResponse = await self._stub.GetAccount(
                account_pb2.GetAccountRequest(name=account),
                timeout=CALL_SECONDS_MAX,
                metadata=self._metadata,
            )
            listed: plan_pb2.ListPlansResponse = await self._stub.ListPlans(
                plan_pb2.ListPlansRequest(), timeout=CALL_SECONDS_MAX, metadata=self._metadata
            )
            for plan in listed.plans:
                if plan.name == found.account.plan:
                    return _tariff(plan)
            raise InternalError("the ledger lists no plan of the name that the account is on")

        return await retried(attempt, timeout_seconds)


def _tariff(plan: plan_pb2.Plan) -> CreditTariff:
    fixed = {
        _OPERATIONS[price.operation]: price.price_nano_credits
        for price in plan.operation_prices
        if price.operation in _OPERATIONS
    }
    return CreditTariff(
        credit_value_nano_usd=plan.credit_value_nano_usd,
        markup_parts_per_million=plan.markup_parts_per_million,
        fixed_nano_credits=fixed,
        model_nano_credits=dict(plan.model_price_nano_credits),
    )
