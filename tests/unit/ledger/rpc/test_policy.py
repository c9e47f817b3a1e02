# SPDX-License-Identifier: Apache-2.0
"""The policy names every RPC of the service, and no other."""

from __future__ import annotations

import pytest
from ownkey.ledger.v1 import ledger_service_pb2

from services.ledger.rpc.policy import DESCRIPTOR, SERVICE
from services.shared.identity import ANONYMOUS, BACKEND, KEYVAULT, OPERATOR, ROUTER
from services.shared.policy_file import load_policy
from tests.support.source import ROOT

POLICY = load_policy(ROOT / "services/ledger/policy.yaml", DESCRIPTOR)
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
    identities = (ANONYMOUS, BACKEND, ROUTER, KEYVAULT, OPERATOR)
    return {one for one in identities if POLICY.denial(one, f"/{SERVICE}/{rpc}", []) is None}


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
