# SPDX-License-Identifier: Apache-2.0
"""A person at a terminal: runs the real `ownkey` command against a suite and reads what it says."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.suite import Suite
from tests.e2e.support import SECRETS

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-P", "-m", "client.ownkey_cli")
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours and movements, https://www.xfree86.org/current/ctlseqs.html"""
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
        assert "\x1b" not in done.out + done.err, "what is piped has no colours"
        assert holds_no_secret(done.out + done.err)
        return done

    def at_terminal(self, *arguments: str, operator: bool = False) -> Done:
        """Run a command at a terminal of 80 columns; its output is the text that came there."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        with self.start(*arguments, operator=operator, **terminal) as running:
            os.close(theirs)
            shown = read_rest(ours).decode()
            code = running.wait(timeout=COMMAND_SECONDS_MAX)
        os.close(ours)
        assert code == 0, shown
        assert holds_no_secret(shown)
        return Done(code, _CONTROLS.sub("", shown), "")

    def start(
        self, *arguments: str, operator: bool = False, **settings: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command, to be watched while it runs."""
        command = self.command(*arguments, operator=operator)
        return subprocess.Popen(command, cwd=self.folder, env=self.environ, **settings)

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


def read_until(terminal: int, words: bytes) -> bytes:
    """What stands on a terminal once the words do."""
    shown, end = b"", time.monotonic() + COMMAND_SECONDS_MAX
    while words not in shown:
        assert time.monotonic() < end, shown
        shown += os.read(terminal, 1024)
    return shown


def read_rest(terminal: int) -> bytes:
    """What stands on a terminal after that; it ends in an error once nobody writes any more."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 1024)
        except OSError:
            return shown
        if not piece:
            return shown
        shown += piece
