# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: everything is closed, and each way that is open is one of the picture's."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

import pytest

from tests.support.manifests import OVERLAYS, Object, Workload, of_kind, selects, workloads

NAMES = sorted(path.name for path in OVERLAYS.iterdir())
BOTH = pytest.mark.parametrize("overlay", NAMES)
PROVIDER = ipaddress.ip_address("8.8.8.8")
"""Stands for any public address."""
INSIDE = [
    ipaddress.ip_address(text)
    for text in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1")
]
"""The cluster's own networks, and where clouds answer questions about a machine's identity."""
MIGRATIONS = {f"{service}-migrate" for service in ("keyvault", "router", "ledger")}


def policies(overlay: str, labels: Mapping[str, str], direction: str) -> list[Object]:
    """The policies that hold for pods of these labels in one direction."""
    return [
        one["spec"]
        for one in of_kind(overlay, "NetworkPolicy")
        if direction in one["spec"]["policyTypes"] and selects(one["spec"]["podSelector"], labels)
    ]


def peers(overlay: str, found: Workload, direction: str) -> Iterator[tuple[Object | None, int]]:
    """Every way that is open to or from a workload: a peer, None being anybody, and a port."""
    side = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}[direction]
    for policy in policies(overlay, found.labels, direction):
        for rule in policy.get(side[0], []):
            for port in rule["ports"]:
                for peer in rule.get(side[1], [None]):
                    yield peer, port["port"]


def pods_reached(overlay: str, name: str) -> set[tuple[str, int]]:
    """The pods that one may call, with the port."""
    found = next(one for one in workloads(overlay) if one.labels["app.kubernetes.io/name"] == name)
    return {
        (other.labels["app.kubernetes.io/name"], port)
        for peer, port in peers(overlay, found, "Egress")
        if peer is not None and "podSelector" in peer
        for other in workloads(overlay)
        if selects(peer["podSelector"], other.labels)
    }


def reaches(peer: Object | None, address: ipaddress.IPv4Address) -> bool:
    if peer is None:
        return True
    if "ipBlock" not in peer:
        return False
    block = peer["ipBlock"]
    if address not in ipaddress.ip_network(block["cidr"]):
        return False
    return not any(address in ipaddress.ip_network(one) for one in block.get("except", []))


def names_reaching(overlay: str, address: ipaddress.IPv4Address, port: int) -> set[str]:
    return {
        found.labels["app.kubernetes.io/name"]
        for found in workloads(overlay)
        if any(
            open_port == port and reaches(peer, address)
            for peer, open_port in peers(overlay, found, "Egress")
        )
    }


@pytest.mark.requirement("O7", "R16")
class TestNetwork:
    @BOTH
    def test_every_pod_is_closed_unless_opened(self, overlay: str) -> None:
        for found in workloads(overlay):
            for direction in ("Ingress", "Egress"):
                assert policies(overlay, found.labels, direction)
        (closed,) = (
            one["spec"]
            for one in of_kind(overlay, "NetworkPolicy")
            if one["metadata"]["name"] == "deny-all"
        )
        assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    @BOTH
    def test_only_the_router_reaches_providers_and_nothing_inside_that_way(
        self, overlay: str
    ) -> None:
        # In the demo the keeper and Vault ask the API server, whose address is not known here.
        others = {"keeper", "vault"} if overlay == "demo" else set()
        assert names_reaching(overlay, PROVIDER, 443) == {"router"} | others
        for address in INSIDE:
            assert names_reaching(overlay, address, 443) <= others

    @BOTH
    def test_the_parts_reach_each_other_as_the_picture_shows(self, overlay: str) -> None:
        services = {"keyvault", "router", "ledger"}
        assert {
            name: {pair for pair in pods_reached(overlay, name) if pair[0] in services}
            for name in services
        } == {
            "keyvault": {("router", 7102)},
            "router": {("keyvault", 7101), ("ledger", 7103)},
            "ledger": set(),
        }

    def test_only_keyvault_reaches_vault_in_production(self) -> None:
        vault = ipaddress.ip_address("10.1.2.3")
        assert names_reaching("production", vault, 8200) == {"keyvault"}
        postgres = {"keyvault", "router", "ledger"} | MIGRATIONS
        assert names_reaching("production", vault, 5432) == postgres

    def test_only_keyvault_and_the_keeper_reach_vault_in_the_demo(self) -> None:
        reaching = {
            found.labels["app.kubernetes.io/name"]
            for found in workloads("demo")
            if ("vault", 8200) in pods_reached("demo", found.labels["app.kubernetes.io/name"])
        }
        assert reaching == {"keyvault", "keeper"}

    @BOTH
    def test_whoever_is_reached_lets_the_caller_in(self, overlay: str) -> None:
        for found in workloads(overlay):
            name = found.labels["app.kubernetes.io/name"]
            for other, port in pods_reached(overlay, name):
                target = next(
                    one
                    for one in workloads(overlay)
                    if one.labels["app.kubernetes.io/name"] == other
                )
                assert any(
                    open_port == port
                    and peer is not None
                    and "podSelector" in peer
                    and selects(peer["podSelector"], found.labels)
                    for peer, open_port in peers(overlay, target, "Ingress")
                ), f"{name} to {other}:{port}"
