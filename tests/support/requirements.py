# SPDX-License-Identifier: Apache-2.0
"""
Which tests prove which requirement, read from the tests' source.

`python -m tests.support.requirements` prints each id of docs/requirements.md with its tests.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| ([KRLO]\d+) \| (.+?) \|$", re.MULTILINE)


def requirements() -> dict[str, str]:
    """Each id with its one-line promise, in the order of the document."""
    return dict(_ROW.findall((ROOT / "docs" / "requirements.md").read_text()))


def citations() -> dict[str, list[str]]:
    """Each cited id with the tests that cite it, as `path::Class::test`."""
    cited: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        module = ast.parse(path.read_text(), filename=str(path))
        everywhere = [
            requirement
            for statement in module.body
            if isinstance(statement, ast.Assign) and _targets_pytestmark(statement)
            for requirement in _cited_by([statement.value])
        ]
        for name, ids in _tests(module.body, prefix="", inherited=everywhere):
            for requirement in dict.fromkeys(ids):
                cited.setdefault(requirement, []).append(f"{path.relative_to(ROOT)}{name}")
    return cited


def _tests(
    body: list[ast.stmt], *, prefix: str, inherited: list[str]
) -> Iterator[tuple[str, list[str]]]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        ids = inherited + _cited_by(node.decorator_list)
        name = f"{prefix}::{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _tests(node.body, prefix=name, inherited=ids)
        elif node.name.startswith("test"):
            yield name, ids


def _cited_by(marks: list[ast.expr]) -> list[str]:
    """The arguments of every `pytest.mark.requirement(...)` in these expressions."""
    return [
        argument.value
        for mark in marks
        for call in ast.walk(mark)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "requirement"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def _targets_pytestmark(statement: ast.Assign) -> bool:
    return any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in statement.targets)


def main() -> int:
    """Prints the table; gives the exit code."""
    cited = citations()
    promised = requirements()
    for requirement, promise in promised.items():
        tests = cited.get(requirement, [])
        sys.stdout.write(f"{requirement:<4} {promise}\n")
        for test in tests or ["missing"]:
            sys.stdout.write(f"       {test}\n")
    proven = sum(requirement in cited for requirement in promised)
    sys.stdout.write(f"requirements: {proven} of {len(promised)} have tests\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
