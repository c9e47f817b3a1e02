# SPDX-License-Identifier: Apache-2.0
"""The tour walks once through the main job, says so by its exit code and leaves nothing running."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.source import ROOT

TOUR_SECONDS_MAX = 150
STEPS = 7


def left_running(mark: str) -> list[str]:
    """Command lines of the processes that carry a mark in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # It ended meanwhile, or is nobody's to read.
            continue
    return found


@pytest.mark.requirement("O1")
@pytest.mark.timeout(TOUR_SECONDS_MAX + 30)
@pytest.mark.parametrize("kek", ["local", "vault"])
def test_the_tour_proves_the_main_job_and_leaves_nothing_behind(kek: str, tmp_path: Path) -> None:
    mark = f"tour-{uuid.uuid4()}"
    # Everything that the tour starts inherits the mark, so that what it leaves running is found.
    environ = {**os.environ, "OWNKEY_TOUR_MARK": mark, "TMPDIR": str(tmp_path)}
    tour = subprocess.run(
        [sys.executable, "-m", "deploy.local", "tour", "--kek", kek],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=TOUR_SECONDS_MAX,
        check=False,
    )
    assert tour.returncode == 0, tour.stdout + tour.stderr
    assert "Traceback" not in tour.stdout + tour.stderr
    for number in range(1, STEPS + 1):
        assert f"\n{number}. " in tour.stdout, f"step {number} was not taken"
    assert left_running(mark) == []
    assert list(tmp_path.iterdir()) == []
