# SPDX-License-Identifier: Apache-2.0
"""Each complaint about other gateways, and each rule of routing, is shown by a test."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import msgspec
import pytest

TESTS = Path("tests")
COUNTS = {"5": 21, "6": 14}
"""How many there are, whatever parts they have."""


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """
    One complaint or rule.

    Args:
        words: What it is about.
        tests: Tests that show how it is here, by file.
    """

    words: str
    tests: dict[str, list[str]]


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """All of them, by number."""

    complaints: dict[str, Row]
    semantics: dict[str, Row]


TABLE = msgspec.yaml.decode((TESTS / "architecture/complaints.yaml").read_bytes(), type=Table)
ROWS = TABLE.complaints | TABLE.semantics


@cache
def names_in(path: Path) -> frozenset[str]:
    """Give the names of the tests in a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(path.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, functions))


@pytest.mark.requirement("R9", "R10", "R11")
@pytest.mark.parametrize("number", ROWS)
def test_each_is_shown_by_a_test_that_is_there(number: str) -> None:
    row = ROWS[number]
    assert any(row.tests.values()), f"nothing shows {number}: {row.words}"
    for file, names in row.tests.items():
        path = TESTS / file
        assert path.is_file(), f"{number} ({row.words}): {path} is gone"
        gone = set(names) - names_in(path)
        assert not gone, f"{number} ({row.words}): {path} has no {', '.join(sorted(gone))}"


@pytest.mark.requirement("R9", "R10", "R11")
def test_none_is_left_out() -> None:
    whole = {number.rstrip("abc") for number in ROWS}
    assert whole == {f"{part}.{n + 1}" for part, count in COUNTS.items() for n in range(count)}
