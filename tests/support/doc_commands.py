# SPDX-License-Identifier: Apache-2.0
"""
The commands that the documentation shows: what stands in fenced blocks of `sh`.

A block marked `sh run` is run by a test, each line as it stands.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.source import ROOT, project_files

_BLOCK = re.compile(r"^( *)```sh( run)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_REDIRECTION = re.compile(r"\s[<>]\s*\S+")


@dataclass(frozen=True, slots=True)
class ShownCommand:
    """
    One command.

    Args:
        page: Where it is shown, relative to the root.
        line: As it is shown.
        run: Whether it is marked to be run.
    """

    page: Path
    line: str
    run: bool

    @property
    def words(self) -> list[str]:
        """The program and its arguments, without what is told behind a `#`."""
        return shlex.split(_REDIRECTION.sub("", self.line), comments=True)

    def __str__(self) -> str:
        """What a test is called by."""
        return f"{self.page.stem}: {self.line}"


def pages() -> list[Path]:
    """Every page of the documentation, relative to the root."""
    return [path for path in project_files() if path.suffix == ".md"]


def shown_commands() -> list[ShownCommand]:
    """Every command of every page."""
    found = []
    for page in pages():
        for _, run, body in _BLOCK.findall((ROOT / page).read_text()):
            joined = body.replace("\\\n", " ")
            lines = (line.strip() for line in joined.splitlines())
            found += [
                ShownCommand(page, line, bool(run))
                for line in lines
                if line and not line.startswith("#")
            ]
    return found
