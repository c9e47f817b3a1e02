# SPDX-License-Identifier: Apache-2.0
"""`python -m deploy.programs vault chromium`: makes sure that programs are here and names them."""

from __future__ import annotations

import sys

from deploy.programs import (
    CHROMIUM,
    CUSTOM_RESOURCES,
    GRPCURL,
    KUSTOMIZE,
    VAULT,
    ProgramMissingError,
)
from deploy.programs.chromium import Chromium
from deploy.programs.go import GoProgram
from deploy.programs.modules import ModuleFiles

_KNOWN: dict[str, GoProgram | ModuleFiles | Chromium] = {
    program.name: program for program in (VAULT, KUSTOMIZE, GRPCURL, CUSTOM_RESOURCES, CHROMIUM)
}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(names: list[str]) -> int:
    """Finds or builds each program; gives the exit code."""
    unknown = [name for name in names if name not in _KNOWN]
    if unknown or not names:
        sys.stderr.write(f"usage: python -m deploy.programs {{{'|'.join(_KNOWN)}}} ...\n")
        return 2
    try:
        for name in names:
            _say(f"{name}: {_KNOWN[name].path(say=_say)}")
    except ProgramMissingError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
