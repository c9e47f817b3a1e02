# SPDX-License-Identifier: Apache-2.0
"""A person at a terminal: runs the real `ownkey` command against a suite and reads what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.suite import Suite
from tests.e2e.support import SECRETS

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-P", "-m", "client.ownkey_cli")
COMMAND_SECONDS_MAX = 30.0
"""Longer than any command of these tests takes, shorter than a test may."""


@dataclass(frozen=True, slots=True)
class Done:
    """
    A command that has ended.

    Args:
        code: Its exit code.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def failure(self) -> Any:
        """The failure that a command with --json tells on standard error."""
        return json.loads(self.err)["error"]


@dataclass(frozen=True, slots=True)
class Person:
    """
    Runs commands for an account.

    Args:
        suite: Where.
        account: `accounts/{account}`.
        folder: Where files are kept and commands are run.
    """

    suite: Suite
    account: str
    folder: Path

    def run(
        self, *arguments: str, stdin: str | bytes = "", code: int = 0, operator: bool = False
    ) -> Done:
        """Run a command to its end, which must be `code`; no output may hold a secret."""
        ended = subprocess.run(
            self.command(*arguments, operator=operator),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            check=False,
            cwd=self.folder,
            env=self.environ,
            timeout=COMMAND_SECONDS_MAX,
        )
        done = Done(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
        assert done.code == code, done
        assert "Traceback" not in done.err
        assert holds_no_secret(done.out + done.err)
        return done

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        """Start a command, to be watched while it runs."""
        return subprocess.Popen(
            self.command(*arguments), cwd=self.folder, env=self.environ, **settings
        )

    def command(self, *arguments: str, operator: bool = False) -> list[str]:
        """The process's arguments."""
        token = ("--token-file", str(self.suite.state.tokens / "operator")) if operator else ()
        return [*COMMAND, *arguments, *token]

    @property
    def environ(self) -> dict[str, str]:
        """The process's environment: where the suite is, and the account."""
        addresses = self.suite.addresses
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        files = self.suite.tls_files("operator")
        if files is not None:
            kept["OWNKEY_TLS_CERTIFICATE_FILE"] = str(files.certificate)
            kept["OWNKEY_TLS_KEY_FILE"] = str(files.key)
            kept["OWNKEY_TLS_CA_FILE"] = str(files.ca)
        return {
            **kept,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'build' / 'stubs'}",
            "OWNKEY_ACCOUNT": self.account,
            "OWNKEY_KEYVAULT": addresses.keyvault,
            "OWNKEY_ROUTER": addresses.router,
            "OWNKEY_LEDGER": addresses.ledger,
        }


def holds_no_secret(text: str) -> bool:
    """Whether no secret that was sent stands in a text; the text itself is not shown."""
    return not any(secret in text for secret in SECRETS)
