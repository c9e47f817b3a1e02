# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes overlays as they are applied: rendered once, and looked at object by object."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.programs import KUSTOMIZE, ProgramMissingError

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
RENDER_TIMEOUT_SECONDS = 50
POD_OWNERS = ("Deployment", "StatefulSet", "Job")

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """Whatever makes pods."""

    owner: Object

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.owner["metadata"]["name"])

    @property
    def template(self) -> Object:
        """The template of its pods."""
        template: Object = self.owner["spec"]["template"]
        return template

    @property
    def pod(self) -> Object:
        """What its pods are."""
        spec: Object = self.template["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        """What its pods are labelled with."""
        labels: Mapping[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def containers(self) -> list[Object]:
        """All its containers, those that run first included."""
        return [*self.pod["containers"], *self.pod.get("initContainers", [])]

    def container(self, name: str) -> Object:
        """One of its containers."""
        return next(one for one in self.containers if one["name"] == name)

    def environ(self, name: str) -> dict[str, str]:
        """The environment of one of its containers, as far as it stands in the manifest."""
        return {
            one["name"]: one["value"]
            for one in self.container(name).get("env", [])
            if "value" in one
        }


@cache
def rendered(overlay: str) -> tuple[Object, ...]:
    """
    Render an overlay, as `kubectl apply -k` would.

    Raises:
        ProgramMissingError: There is no Kustomize yet; a test's time is too short to build one.
    """
    program = KUSTOMIZE.find()
    if program is None:
        raise ProgramMissingError("The overlays are rendered by Kustomize; run `make kustomize`.")
    result = subprocess.run(
        [str(program), "build", str(OVERLAYS / overlay)],
        capture_output=True,
        text=True,
        check=False,
        timeout=RENDER_TIMEOUT_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    return tuple(yaml.safe_load_all(result.stdout))


def of_kind(overlay: str, *kinds: str) -> Iterator[Object]:
    """Give the objects of some kinds."""
    return (one for one in rendered(overlay) if one["kind"] in kinds)


def named(overlay: str, kind: str, name: str) -> Object:
    """Give one object."""
    return next(one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name)


def workloads(overlay: str) -> list[Workload]:
    """Give everything that makes pods."""
    return [Workload(one) for one in of_kind(overlay, *POD_OWNERS)]


def workload(overlay: str, name: str) -> Workload:
    """Give one that makes pods."""
    return next(one for one in workloads(overlay) if one.name == name)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector takes these labels; an empty one takes all."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_holds(one, labels) for one in selector.get("matchExpressions", []))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    assert expression["operator"] == "In", "the manifests use no other operator"
    return labels.get(expression["key"]) in expression["values"]
