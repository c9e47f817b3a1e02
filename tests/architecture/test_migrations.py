# SPDX-License-Identifier: Apache-2.0
"""Every migration is numbered, says which code it leaves working, and never does both at once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/migrations"))
TAKES_AWAY = re.compile(r"\b(DROP (TABLE|COLUMN)|RENAME (TO|COLUMN)|SET NOT NULL)\b")


def recorded(path: Path) -> tuple[int, int]:
    """Return the number that a migration records and the lowest code it names."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "record_version"
    ]
    (call,) = calls
    return ast.literal_eval(call.args[0]), ast.literal_eval(call.keywords[0].value)


def known_and_needed(service: str) -> list[int]:
    """Return the newest schema number that a service knows and the lowest it works on."""
    text = (ROOT / "services" / service / "bootstrap.py").read_text()
    return [
        int(number)
        for name in ("CODE", "NEEDED")
        for number in re.findall(rf"^SCHEMA_{name} = (\d+)$", text, re.MULTILINE)
    ]


@pytest.mark.requirement("O7")
@pytest.mark.parametrize("service", SERVICES)
class TestMigrations:
    def test_they_are_numbered_in_a_row_up_to_what_the_code_knows(self, service: str) -> None:
        paths = sorted((ROOT / "services" / service / "migrations/versions").glob("*.py"))
        known, needed = known_and_needed(service)
        numbers = [recorded(path)[0] for path in paths]
        assert numbers == list(range(1, len(paths) + 1)) == [int(p.name[:4]) for p in paths]
        assert numbers[-1] == known >= needed

    def test_what_takes_away_raises_the_lowest_code_and_what_adds_need_not(
        self, service: str
    ) -> None:
        lowest_before = 0
        for path in sorted((ROOT / "services" / service / "migrations/versions").glob("*.py")):
            number, lowest = recorded(path)
            assert lowest_before <= lowest <= number, path.name
            if TAKES_AWAY.search(path.read_text()):
                assert lowest > lowest_before, path.name
            lowest_before = lowest
