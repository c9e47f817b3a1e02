# SPDX-License-Identifier: Apache-2.0
"""The `ownkey` command within the test's own process: its commands by their words, and one run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from client.ownkey_cli.__main__ import app

SETTINGS = ("ACCOUNT", "KEYVAULT", "ROUTER", "LEDGER", "TOKEN_FILE")
COLUMNS = "200"


@dataclass(frozen=True, slots=True)
class Ran:
    """
    A run that has ended.

    Args:
        exit_code: How.
        stdout: Standard output.
        stderr: Standard error.
    """

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Both."""
        return self.stdout + self.stderr


@cache
def commands() -> Mapping[str, Any]:
    """Every command by what people type, for example `keys add`."""
    return dict(_below(_whole(), ""))


@cache
def _whole() -> Any:
    # To make it takes longer than most runs.
    return typer.main.get_command(app)


def _below(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        path = f"{words} {name}".strip()
        if hasattr(command, "commands"):
            yield from _below(command, path)
        else:
            yield path, command


def run(*arguments: str, stdin: str | bytes = "", **environ: str) -> Ran:
    """Run a command to its end; only the settings that are given are set."""
    clear = {f"OWNKEY_{name}": None for name in SETTINGS}
    env = {**clear, "COLUMNS": COLUMNS, **environ}
    with CliRunner().isolation(input=stdin, env=env) as (stdout, stderr, _):
        with pytest.raises(SystemExit) as ended:
            _whole().main(args=list(arguments), prog_name="ownkey")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return Ran(
            exit_code=int(ended.value.code or 0),
            stdout=stdout.getvalue().decode(),
            stderr=stderr.getvalue().decode(),
        )
