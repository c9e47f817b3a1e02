# SPDX-License-Identifier: Apache-2.0
"""The policy names every RPC of the service, and no other."""

from __future__ import annotations

import pytest
from ownkey.ledger.v1 import ledger_service_pb2

from services.ledger.rpc.policy import POLICY, SERVICE
from services.shared.errors import AccessDeniedError
from services.shared.identity import ANONYMOUS, KEYVAULT, OPERATOR, ROUTER

RPCS = [
    method.name
    for method in ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"].methods
]
ROUTERS_OWN = {
    "Authorize",
    "Renew",
    "Capture",
    "Release",
    "BatchAuthorize",
    "BatchRenew",
    "BatchSettle",
}


def allowed(rpc: str) -> set[str]:
    """Return the identities that may call an RPC."""
    found = set()
    for identity in (ANONYMOUS, ROUTER, KEYVAULT, OPERATOR):
        try:
            POLICY.check(identity, f"/{SERVICE}/{rpc}")
        except AccessDeniedError:
            continue
        found.add(identity)
    return found


@pytest.mark.requirement("O3")
class TestPolicy:
    @pytest.mark.parametrize("rpc", RPCS)
    def test_every_rpc_may_be_called_by_somebody_and_never_by_keyvault(self, rpc: str) -> None:
        assert allowed(rpc)
        assert KEYVAULT not in allowed(rpc)

    @pytest.mark.parametrize("rpc", sorted(ROUTERS_OWN))
    def test_only_the_router_holds_and_settles(self, rpc: str) -> None:
        assert allowed(rpc) == {ROUTER}

    def test_what_is_not_listed_is_denied(self) -> None:
        assert not allowed("MintCredits")
