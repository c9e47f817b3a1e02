# SPDX-License-Identifier: Apache-2.0
"""Who may call what. What is not listed is denied."""

from __future__ import annotations

from ownkey.ledger.v1 import ledger_service_pb2

from services.shared.identity import ANONYMOUS, OPERATOR, ROUTER, Policy

_BACKENDS = frozenset({ANONYMOUS, OPERATOR})
_READERS = frozenset({ANONYMOUS, ROUTER, OPERATOR})
_ROUTER = frozenset({ROUTER})
_OPERATORS = frozenset({OPERATOR})

# Loading the file that declares the service also lets reflection find it.
SERVICE = ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"].full_name

POLICY = Policy(
    {
        f"/{SERVICE}/{rpc}": identities
        for rpc, identities in {
            "CreateAccount": _BACKENDS,
            "GetAccount": _READERS,
            "UpdateAccount": _BACKENDS,
            "ListPlans": _READERS,
            "GrantCredits": _BACKENDS,
            "AdjustCredits": _BACKENDS,
            "RefundCharge": _OPERATORS,
            "GetBalance": _READERS,
            "SetBillingMode": _BACKENDS,
            "Authorize": _ROUTER,
            "Renew": _ROUTER,
            "Capture": _ROUTER,
            "Release": _ROUTER,
            "BatchAuthorize": _ROUTER,
            "BatchRenew": _ROUTER,
            "BatchSettle": _ROUTER,
            "GetAuthorization": _READERS,
            "ListAuthorizations": _READERS,
            "ListEntries": _READERS,
            "GetUsage": _READERS,
            "ExportStatement": _READERS,
            "VerifyLedger": _OPERATORS,
        }.items()
    }
)
