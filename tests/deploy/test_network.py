# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: everything is closed, and each way that is open is one of the table's."""

from __future__ import annotations

import pytest

from tests.support.manifests import OVERLAYS, of_kind
from tests.support.network_policies import Place, flows

NAMES = sorted(path.name for path in OVERLAYS.iterdir())
PROVIDER = "8.8.8.8"
"""Stands for any public address."""
PRIVATE = ("10.1.2.3", "172.18.0.2", "192.168.49.2")
"""The cluster's own machines, and those of the networks beside it."""
ELSEWHERE = ("169.254.169.254", "100.64.0.1", "127.0.0.1", "2001:4860:4860::8888", "fd00::1")
"""Where clouds answer questions about a machine's identity, and others that nobody needs."""
OUTSIDE = [
    *(Place(address, address=address) for address in (PROVIDER, *PRIVATE, *ELSEWHERE)),
    Place("dns", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}),
    Place("kube-system", {}, {"kubernetes.io/metadata.name": "kube-system"}),
    Place("backend", {}, {"ownkey.dev/caller": "true"}),
    Place("monitoring", {}, {"ownkey.dev/monitoring": "true"}),
    Place("stranger", {"app.kubernetes.io/name": "router"}, {}),
]
API_SERVER = {f"{address}:{port}" for address in PRIVATE for port in (443, 6443)}
"""Its address is the cluster's affair, so the demo opens the private networks."""
DNS, TRACES, PROVIDERS = "dns:53", "monitoring:4317", f"{PROVIDER}:443"
NOBODY: dict[str, set[str]] = {one.name: set() for one in OUTSIDE}

IN_BOTH = {
    "backend": {"keyvault:7101", "router:7102", "router:7180", "ledger:7103"},
    "monitoring": {"keyvault:7120", "router:7120", "ledger:7120"},
}
ALLOWED: dict[str, dict[str, set[str]]] = {
    "demo": {
        **NOBODY,
        **IN_BOTH,
        "keyvault": {"router:7102", "vault:8200", "postgres:5432", TRACES, DNS},
        "router": {"keyvault:7101", "ledger:7103", "postgres:5432", PROVIDERS, TRACES, DNS},
        "ledger": {"postgres:5432", TRACES, DNS},
        "keyvault-migrate": {"postgres:5432", DNS},
        "router-migrate": {"postgres:5432", DNS},
        "ledger-migrate": {"postgres:5432", DNS},
        "keeper": {"postgres:5432", "vault:8200", *API_SERVER, DNS},
        "postgres": {DNS},
        "vault": {*API_SERVER, DNS},
        "web": {"keyvault:7101", "router:7102", "ledger:7103", DNS},
    },
    "production": {
        **NOBODY,
        **IN_BOTH,
        "keyvault": {"router:7102", "10.1.2.3:8200", "10.1.2.3:5432", TRACES, DNS},
        "router": {"keyvault:7101", "ledger:7103", "10.1.2.3:5432", PROVIDERS, TRACES, DNS},
        "ledger": {"10.1.2.3:5432", TRACES, DNS},
        "keyvault-migrate": {"10.1.2.3:5432", DNS},
        "router-migrate": {"10.1.2.3:5432", DNS},
        "ledger-migrate": {"10.1.2.3:5432", DNS},
    },
}
"""All that passes, by caller; in production PostgreSQL and Vault stand at a private address."""


@pytest.mark.requirement("O7", "R16")
class TestNetwork:
    @pytest.mark.parametrize("overlay", NAMES)
    def test_what_passes_is_what_the_table_says_and_nothing_else(self, overlay: str) -> None:
        assert flows(overlay, OUTSIDE) == ALLOWED[overlay]

    @pytest.mark.parametrize("overlay", NAMES)
    def test_a_pod_that_nobody_thought_of_is_closed(self, overlay: str) -> None:
        (closed,) = (
            one["spec"]
            for one in of_kind(overlay, "NetworkPolicy")
            if one["metadata"]["name"] == "deny-all"
        )
        assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    def test_the_table_lets_the_router_alone_out_and_keyvault_alone_to_vault(self) -> None:
        """What the table must say, whatever is written into it one day."""
        for table in ALLOWED.values():
            out = {caller for caller, reached in table.items() if PROVIDERS in reached}
            assert out == {"router"}
        production, demo = ALLOWED["production"], ALLOWED["demo"]
        assert {one for one, reached in production.items() if "10.1.2.3:8200" in reached} == {
            "keyvault"
        }
        assert {one for one, reached in demo.items() if "vault:8200" in reached} == {
            "keyvault",
            "keeper",
        }
