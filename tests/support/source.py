# SPDX-License-Identifier: Apache-2.0
"""The project's own source, as the architecture tests read it."""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


@functools.cache
def project_files() -> tuple[Path, ...]:
    """Every file that is, or would be, committed; relative to the root, sorted."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted(set(listed.stdout.decode().split("\0")) - {""})
    return tuple(Path(name) for name in names if (ROOT / name).is_file())


def python_files(*folders: str) -> tuple[Path, ...]:
    """The project's Python files below these folders, or all of them."""
    return tuple(
        path
        for path in project_files()
        if path.suffix == ".py" and (not folders or path.parts[0] in folders)
    )


def read(path: Path) -> str:
    """The text of a project file."""
    return (ROOT / path).read_text(encoding="utf-8")


def imported_modules(path: Path) -> list[str]:
    """
    Every module that a file imports, wherever in the file, by its full name.

    `from a import b` counts as `a.b`: whether b is a module or a name in one, it is below a.
    """
    modules: list[str] = []
    for node in ast.walk(ast.parse(read(path), filename=str(path))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return modules


def is_below(module: str, *packages: str) -> bool:
    """Whether a module is one of these packages or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)
