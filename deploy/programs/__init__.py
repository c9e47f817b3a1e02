# SPDX-License-Identifier: Apache-2.0
"""The programs of others that tests and local suites need."""

from __future__ import annotations

from pathlib import Path

from deploy.programs.chromium import Chromium
from deploy.programs.go import GoProgram, ProgramMissingError

__all__ = ["CHROMIUM", "KUSTOMIZE", "VAULT", "ProgramMissingError"]

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

CHROMIUM = Chromium()
