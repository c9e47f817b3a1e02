# SPDX-License-Identifier: Apache-2.0
"""What the pods ask for is what `make bench-resources` measured, with room that is named here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest

from tests.support.manifests import OVERLAYS, ROOT, Workload, named, workloads

REQUESTS_PER_SECOND = 250
"""Of one router's replica: what its processor request is counted on."""
PROCESSOR_FLOOR = 0.1
"""Cores; less makes a start slow."""
PROCESSOR_ROOM = 3.0
MEMORY_ROOM = 2.5
"""How much more than was measured may be asked for at most."""
LIMIT_ROOM = 2.0
"""How much more than was measured a limit must leave at least: caches fill up to their bounds."""
SERVICES = ("keyvault", "router", "ledger")
NAME = "app.kubernetes.io/name"
UNITS = {"Mi": 1.0, "Gi": 1024.0}

pytestmark = pytest.mark.requirement("O7")


def measured() -> Mapping[str, float]:
    read = json.loads((ROOT / "bench/results/resources.json").read_text())
    return {one["figure"]: one["value"] for one in read["figures"]}


MEASURED = measured()
PARTS = sorted({name.partition("_memory")[0] for name in MEASURED if "_memory_at_most" in name})


def mebibytes(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def cores(text: str) -> float:
    return int(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


@pytest.mark.parametrize("part", PARTS)
def test_memory_is_asked_for_as_it_was_measured(part: str) -> None:
    at_most = MEASURED[f"{part}_memory_at_most"]
    found = [
        one
        for overlay in OVERLAYS.iterdir()
        for workload in workloads(overlay.name)
        for one in workload.containers
        if part == (one["name"] if one["name"] != "migrate" else workload.labels[NAME])
    ]
    assert found, part
    for container in found:
        resources = container["resources"]
        request = mebibytes(resources["requests"]["memory"])
        assert at_most <= request <= MEMORY_ROOM * at_most
        assert mebibytes(resources["limits"]["memory"]) >= LIMIT_ROOM * at_most


@pytest.mark.parametrize("service", SERVICES)
def test_processors_are_asked_for_as_requests_were_measured(service: str) -> None:
    """The least replicas share what the least routers take in."""
    replicas = {
        one: named("production", "HorizontalPodAutoscaler", one)["spec"]["minReplicas"]
        for one in SERVICES
    }
    rate = REQUESTS_PER_SECOND * replicas["router"] / replicas[service]
    needed = rate * MEASURED[f"{service}_processor_time_of_a_request"] / 1000
    for overlay in OVERLAYS.iterdir():
        container = Workload(named(overlay.name, "Deployment", service)).container(service)
        request = cores(container["resources"]["requests"]["cpu"])
        assert needed <= request <= max(PROCESSOR_FLOOR, PROCESSOR_ROOM * needed)
