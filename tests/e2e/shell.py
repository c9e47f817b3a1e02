# SPDX-License-Identifier: Apache-2.0
"""A shell in which lines of the documentation are run as they stand."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.postgres import binaries
from deploy.programs import GRPCURL, VAULT
from tests.e2e import support
from tests.e2e.terminal import ROOT, Person, holds_no_secret, read_rest, read_until

SECONDS_MAX = 180
"""Longer than any script of these tests takes, also on a busy machine."""


@dataclass(frozen=True, slots=True)
class Shell:
    """
    A shell beside a suite.

    Args:
        person: Whose account and suite it is; an operator.
        environ: More variables.
        places: What a line names, and what stands there on this machine.
    """

    person: Person
    environ: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def run(self, *lines: str, code: int = 0) -> str:
        """Run lines, up to the first that fails; give what they wrote on standard output."""
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", "\n".join(map(self._placed, lines))],
            cwd=self.person.folder,
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        assert holds_no_secret(done.stdout + done.stderr)
        assert done.returncode == code, done.stderr + done.stdout[-1000:]
        return done.stdout

    def run_prompting(self, line: str) -> None:
        """Run a line that asks for a secret at a terminal, and type one."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            ["bash", "-c", self._placed(line)],
            cwd=self.person.folder,
            env=self._environ(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as running:
            os.close(theirs)
            shown = read_until(ours, b"(not shown)")
            os.write(ours, f"{support.new_secret()}\n".encode())
            shown += read_rest(ours)
            code = running.wait(timeout=SECONDS_MAX)
        os.close(ours)
        assert holds_no_secret(shown.decode())
        assert code == 0, shown.decode()

    def _placed(self, line: str) -> str:
        """A line for this suite, which listens elsewhere than that of `make run`."""
        addresses = self.person.suite.addresses
        listens = {
            "127.0.0.1:7101": addresses.keyvault,
            "127.0.0.1:7102": addresses.router,
            "127.0.0.1:7103": addresses.ledger,
        }
        for shown, here in {**listens, **self.places}.items():
            line = line.replace(shown, here)
        return line

    def _environ(self) -> dict[str, str]:
        grpcurl, vault = GRPCURL.find(), VAULT.find()
        assert grpcurl is not None, "run `make grpcurl`"
        assert vault is not None, "run `make vault`"
        folders = (ROOT / ".venv" / "bin", grpcurl.parent, vault.parent, binaries())
        return {
            **self.person.environ,
            "PATH": os.pathsep.join([*map(str, folders), os.environ["PATH"]]),
            "OWNKEY_TOKEN_FILE": str(self.person.suite.state.tokens / "operator"),
            **self.environ,
        }


def prompts(lines: Sequence[str]) -> list[str]:
    """Those of the lines that ask for a secret."""
    asking = ("ownkey keys add ", "ownkey keys replace ")
    return [one for one in lines if one.removeprefix(".venv/bin/").startswith(asking)]


def link_checkout(folder: Path) -> None:
    """Have a folder look like the checkout to lines that are shown as they are called in it."""
    (folder / ".venv").symlink_to(ROOT / ".venv")
