# SPDX-License-Identifier: Apache-2.0
"""
The commands that the documentation shows, in fenced blocks of `sh`, and what runs each.

Every one is run by a test, or stands in STAND_INS with the reason why it cannot be and what is held
instead. Runners take all that is theirs from here, so that none is left out.
"""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.support.source import ROOT, project_files

_BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_REDIRECTION = re.compile(r"\s[<>]\s*\S+")

DRILLED = (Path("docs/operate/rotate.md"), Path("docs/operate/backup.md"))
"""Pages whose commands are the steps of the restore drill, in their order."""
ADD_SHARED_KEY = "ownkey keys add --account platform --provider openai --label shared"
"""Beside them: what would change the product's own keys under other tests."""


class Runner(StrEnum):
    """Which test runs a command."""

    SUITE = "tests/e2e/test_documentation.py"
    VAULT = "tests/integration/local/test_documented_vault.py"
    DRILL = "tests/e2e/test_restore.py"
    CALLERS = "tests/e2e/test_callers.py"
    UPGRADE = "tests/e2e/test_upgrade.py"
    PAGES = "tests/docs/test_pages.py"


STAND_INS = {
    "make run": "`make tour` starts the same and stops; tests/e2e/test_tour.py runs that",
    "make test": "it runs the test that would run it",
    "make examples": "`make test` begins with it",
    "make deploy-check": "it is tests/deploy, which is part of `make test`",
    "docker build": "it needs a container builder; tests/deploy/test_images.py reads its file",
    "kubectl": "it needs a cluster; tests/deploy holds what is applied to Kubernetes' own schemas, "
    "tests/docs/test_pages.py what is named to what is applied",
    "python -m services.keyvault serve": "it does not end; every suite of the tests is started so",
    "export": "it only sets what the commands after it read, as the test does that runs those",
}
"""What no test runs, by how it begins: why not, and what is held instead."""
_PROGRAMS = {
    "ownkey": Runner.SUITE,
    "grpcurl": Runner.SUITE,
    "psql": Runner.SUITE,
    "vault": Runner.VAULT,
    "example": Runner.CALLERS,
    "node": Runner.CALLERS,
    "python3": Runner.PAGES,
}
_PYTHON = {"-m": Runner.UPGRADE, "client/examples/python/main.py": Runner.CALLERS}


@dataclass(frozen=True, slots=True)
class ShownCommand:
    """
    One command.

    Args:
        page: Where it is shown, relative to the root.
        line: As it is shown.
    """

    page: Path
    line: str

    @property
    def words(self) -> list[str]:
        """The program and its arguments, without what is told behind a `#`."""
        return shlex.split(_REDIRECTION.sub("", self.line), comments=True)

    @property
    def call(self) -> tuple[str, ...]:
        """What is called with what, wherever the program lies."""
        program, *arguments = self.words
        return (Path(program).name, *arguments)

    @property
    def stand_in(self) -> str | None:
        """How it begins, where no test runs it."""
        found = (start for start in STAND_INS if f"{self.line} ".startswith(f"{start} "))
        return next(found, None)

    @property
    def runner(self) -> Runner | None:
        """Which test runs it; None where none does."""
        if self.stand_in is not None:
            return None
        if self.page in DRILLED or self.call in _drilled():
            return Runner.DRILL
        program, *arguments = self.call
        return _PYTHON.get(arguments[0]) if program == "python" else _PROGRAMS.get(program)

    def __str__(self) -> str:
        """What a test is called by."""
        return f"{self.page.stem}: {self.line}"


def pages() -> list[Path]:
    """Every page of the documentation, relative to the root."""
    return [path for path in project_files() if path.suffix == ".md"]


def commands_of(page: Path) -> list[ShownCommand]:
    """Every command of a page, in its order."""
    found = []
    for _, body in _BLOCK.findall((ROOT / page).read_text()):
        lines = (line.strip() for line in body.replace("\\\n", " ").splitlines())
        found += [ShownCommand(page, line) for line in lines if line and not line.startswith("#")]
    return found


def shown_commands() -> list[ShownCommand]:
    """Every command of every page."""
    return [command for page in pages() for command in commands_of(page)]


def lines_for(runner: Runner) -> list[str]:
    """What a test has to run, page by page as it is shown, each call once."""
    found: dict[tuple[str, ...], str] = {}
    for command in shown_commands():
        if command.runner is runner:
            found.setdefault(command.call, command.line)
    return list(found.values())


@functools.cache
def _drilled() -> frozenset[tuple[str, ...]]:
    drilled = {command.call for page in DRILLED for command in commands_of(page)}
    return frozenset(drilled | {tuple(ADD_SHARED_KEY.split())})
