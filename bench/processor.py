# SPDX-License-Identifier: Apache-2.0
"""Processor time of processes, from Linux' /proc (proc_pid_stat(5))."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12
"""Places of fields after the command's closing parenthesis."""


def seconds(root: int) -> float:
    """Return the processor seconds of a process and its children so far, all threads together."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = _fields(stat)
        except OSError:
            # It has ended meanwhile.
            continue
        if int(stat.parent.name) == root or int(fields[_PARENT]) == root:
            total += (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_PER_SECOND
    return total


def pin(root: int, core: int) -> None:
    """
    Keep a process, its threads and its children, and what they start from now on, on one core.

    Args:
        root: The process.
        core: Number of the core.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, parent = int(stat.parent.name), int(_fields(stat)[_PARENT])
            if root in (number, parent):
                for task in (stat.parent / "task").iterdir():
                    os.sched_setaffinity(int(task.name), {core})


def _fields(stat: Path) -> list[str]:
    return stat.read_text().rpartition(")")[2].split()
