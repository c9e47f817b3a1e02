# SPDX-License-Identifier: Apache-2.0
"""
The version before this one, whole, for the upgrade drill; `make previous-version` packs it.

A clone has no history for certain, so the services and protos of that version lie beside the drill
as they were committed, packed. The target packs those of the newest commit; run it once a version
is released, and the next one is upgraded to from there.
"""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.source import ROOT

PACKED = ROOT / "tests" / "upgrade" / "previous.tar.xz"
FOLDERS = ("services", "protos")
STUBS_SECONDS_MAX = 100


@dataclass(frozen=True, slots=True)
class PreviousVersion:
    """
    The code, unpacked.

    Args:
        root: Holds `services` and `protos`.
        stubs: Generated from those protos.
    """

    root: Path
    stubs: Path


def unpack(folder: Path) -> PreviousVersion:
    """Unpack it into a folder and generate its own stubs."""
    version = PreviousVersion(folder / "previous", folder / "previous-stubs")
    with tarfile.open(PACKED) as packed:
        packed.extractall(version.root, filter="data")
    subprocess.run(
        ["sh", str(ROOT / "deploy/docker/stubs.sh"), sys.executable, str(version.stubs)],
        cwd=version.root,
        timeout=STUBS_SECONDS_MAX,
        check=True,
    )
    return version


def pack() -> None:
    """Pack the newest commit's."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", "HEAD", *FOLDERS],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as made:
        assert any(one.name.startswith("services/keyvault/") for one in made)
    PACKED.parent.mkdir(exist_ok=True)
    PACKED.write_bytes(lzma.compress(archive, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    pack()
