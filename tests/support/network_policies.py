# SPDX-License-Identifier: Apache-2.0
"""
What an overlay's network policies let pass, worked out as a cluster does.

A pod that no policy selects in a direction is open in it; a selected one is closed but for what any
of its policies names. https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.support.manifests import Object, of_kind, selects, workloads

_SIDES = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}
_NAME = "app.kubernetes.io/name"
ALWAYS_TRIED = (22, 53, 80, 443, 5432, 6443, 8200)
"""Ports that are tried beside those of the manifests."""


@dataclass(frozen=True, slots=True)
class Place:
    """
    What may call or be called.

    Args:
        name: What the table calls it.
        labels: Of a pod; None for what is no pod.
        namespace: Labels of a pod's namespace.
        address: Of what is no pod.
        own: Whether it is a pod of the overlay.
    """

    name: str
    labels: Mapping[str, str] | None = None
    namespace: Mapping[str, str] | None = None
    address: str = ""
    own: bool = False


def flows(overlay: str, outside: list[Place]) -> dict[str, set[str]]:
    """
    Give all that passes: callers by name, each with `callee:port` for all that it reaches.

    Args:
        overlay: Name of the overlay.
        outside: What is not of the overlay.
    """
    policies = [one["spec"] for one in of_kind(overlay, "NetworkPolicy")]
    places = [*_own(overlay), *outside]
    ports = sorted(set(_ports(overlay, policies)))
    return {
        source.name: {
            f"{target.name}:{port}"
            for target in places
            for port in ports
            if (source.own or target.own)
            and _open(policies, source, target, port, "Egress")
            and _open(policies, target, source, port, "Ingress")
        }
        for source in places
    }


def _own(overlay: str) -> Iterator[Place]:
    (namespace,) = of_kind(overlay, "Namespace")
    labels = {
        **namespace["metadata"]["labels"],
        "kubernetes.io/metadata.name": namespace["metadata"]["name"],
    }
    for found in workloads(overlay):
        yield Place(found.labels[_NAME], found.labels, labels, own=True)


def _ports(overlay: str, policies: list[Object]) -> Iterator[int]:
    yield from ALWAYS_TRIED
    for policy in policies:
        for rules, _ in _SIDES.values():
            yield from (port["port"] for rule in policy.get(rules, []) for port in rule["ports"])
    for found in workloads(overlay):
        for container in found.containers:
            yield from (port["containerPort"] for port in container.get("ports", []))


def _open(policies: list[Object], place: Place, other: Place, port: int, direction: str) -> bool:
    """Tell whether a place's own policies let it speak with another in a direction."""
    if not place.own or place.labels is None:
        return True
    rules, peers = _SIDES[direction]
    held = [
        policy
        for policy in policies
        if direction in policy["policyTypes"] and selects(policy["podSelector"], place.labels)
    ]
    return not held or any(
        port in {one["port"] for one in rule["ports"]}
        and (peers not in rule or any(_is(peer, other) for peer in rule[peers]))
        for policy in held
        for rule in policy.get(rules, [])
    )


def _is(peer: Object, place: Place) -> bool:
    """Tell whether a rule's peer names a place."""
    if "ipBlock" in peer:
        return bool(place.address) and _within(peer["ipBlock"], place.address)
    if place.labels is None or not selects(peer.get("podSelector", {}), place.labels):
        return False
    if "namespaceSelector" in peer:
        return selects(peer["namespaceSelector"], place.namespace or {})
    return place.own


def _within(block: Object, address: str) -> bool:
    found = ipaddress.ip_address(address)
    return found in ipaddress.ip_network(block["cidr"]) and not any(
        found in ipaddress.ip_network(one) for one in block.get("except", [])
    )
