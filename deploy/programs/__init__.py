# SPDX-License-Identifier: Apache-2.0
"""The programs of others that tests and local suites need."""

from __future__ import annotations

from pathlib import Path

from deploy.programs.chromium import Chromium
from deploy.programs.go import GoProgram, ProgramMissingError
from deploy.programs.modules import GoModule, ModuleFiles

__all__ = [
    "CHROMIUM",
    "CUSTOM_RESOURCES",
    "GRPCURL",
    "KUSTOMIZE",
    "VAULT",
    "ProgramMissingError",
]

_SOURCES = Path(__file__).parent

VAULT = GoProgram(
    name="vault",
    title="HashiCorp Vault",
    version="1.21.0",
    source=_SOURCES / "vault",
    go="1.25",
    takes="9 minutes",
    timeout_seconds=45 * 60,
)

KUSTOMIZE = GoProgram(
    name="kustomize",
    title="Kustomize",
    version="5.7.1",
    source=_SOURCES / "kustomize",
    go="1.24",
    takes="half a minute",
    timeout_seconds=15 * 60,
)

GRPCURL = GoProgram(
    name="grpcurl",
    title="grpcurl",
    version="1.9.4",
    source=_SOURCES / "grpcurl",
    package="github.com/fullstorydev/grpcurl/cmd/grpcurl",
    go="1.25",
    takes="a minute",
    timeout_seconds=15 * 60,
)

CUSTOM_RESOURCES = ModuleFiles(
    name="custom-resources",
    title="the definitions of cert-manager's and the Prometheus operator's objects",
    modules=(
        GoModule(
            path="github.com/cert-manager/cert-manager",
            version="v1.18.2",
            sum="h1:H2P75ycGcTMauV3gvpkDqLdS3RSXonWF2S49QGA1PZE=",
            files="deploy/crds/crd-*.yaml",
        ),
        GoModule(
            path="github.com/prometheus-operator/prometheus-operator",
            version="v0.85.0",
            sum="h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
            files="example/prometheus-operator-crd/*.yaml",
        ),
    ),
)

CHROMIUM = Chromium()
