# SPDX-License-Identifier: Apache-2.0
"""
Every command of `ownkey`, run against the suite: as it is meant, with `--json`, and wrongly.

They run in the test's own process; `test_command` runs what needs a process or a terminal.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ownkey_cli.exits import Exit
from deploy.local.suite import Suite
from tests.e2e.support import EVENTUALLY_SECONDS, clients_of, new_account, new_secret
from tests.e2e.terminal import holds_no_secret
from tests.support.command_line import Ran, commands, run

pytestmark = [pytest.mark.requirement("O4"), pytest.mark.timeout(180)]

OPENAI = "openai/gpt-4o-mini"
OWN_KEY = "--source own-key"

SCRIPT = (
    "accounts create {name} --plan standard --mode own-key-first --fallback any",
    "accounts show",
    "accounts update --fallback rate-limit --fallback-cap 5",
    "credits grant 20 --kind promotional --note gift",
    "credits adjust --by -1 --reason mistyped",
    "credits balance",
    "mode set own-key-first",
    "mode show",
    "plans",
    "providers",
    "models --provider openai",
    "keys add --provider openai --id main --label mine --secret-file {folder}/first",
    "keys add --provider openai --id spare --secret-file {folder}/second",
    "keys list",
    "keys show main",
    "keys test main",
    "keys update main --label ours --order 1 --monthly-limit 20",
    "keys update main --monthly-limit none",
    "keys replace main --secret-file {folder}/third --overlap 604800",
    "keys activate spare",
    "keys disable spare",
    "keys enable spare",
    "settings set --active-provider openai --use-backups",
    "settings show",
    f"generate Hello --model {OPENAI} --max-tokens 16",
    "image Lighthouse --model stability/core --source credits --out {folder}/picture",
    "speech Hello --model openai/tts-1 --out {folder}/sound",
    f"explain --model {OPENAI}",
    f"estimate --generations 10 --model {OPENAI}",
    "keys add --provider replicate --id video --secret-file {folder}/fourth",
    "jobs start google/veo-3.1 Lighthouse --length 4 " + OWN_KEY,
    "jobs list",
    "jobs show {job}",
    "jobs wait {job}",
    "jobs output {job} --out {folder}/made",
    "jobs cancel {job}",
    "usage --by model",
    "entries",
    "statement export",
    "keys delete spare --yes",
    "audit list",
    "certs init {folder}/certificates --days 1",
    "certs show {folder}/certificates",
    "certs renew {folder}/certificates",
)
"""One way through everything that people do with an account."""

CARE = (
    "keys add --account platform --provider stability --id {name} --secret-file {folder}/shared",
    "shared-limits set {name} --per-minute 1200",
    "shared-limits show",
    "keys delete {name} --account platform --yes",
    "kek rotate",
    "rewrap --rate 1000",
    "kek status",
    "verify --only {account}",
    "revocations status",
    "revocations export {folder}/revocations",
    "revocations replay {folder}/revocations",
    "revocations accept --name Ada",
)
"""What operators do."""

REPLAY = CARE[-2]
"""Refused here: nothing was restored. The restore drill sees it serve."""

WRONG = {
    "keys add": ("--provider nobody --secret-file {folder}/first", Exit.USAGE, "nobody"),
    "keys list": ("--account No_Account", Exit.USAGE, "INVALID_ARGUMENT"),
    "keys show": ("none", Exit.NOT_FOUND, "KEY_NOT_FOUND"),
    "keys test": ("none", Exit.NOT_FOUND, "KEY_NOT_FOUND"),
    "keys replace": ("none --secret-file {folder}/first", Exit.NOT_FOUND, "KEY_NOT_FOUND"),
    "keys update": ("none --label x", Exit.NOT_FOUND, "KEY_NOT_FOUND"),
    "keys activate": ("none", Exit.NOT_FOUND, "KEY_NOT_FOUND"),
    "keys enable": ("none", Exit.NOT_FOUND, "KEY_NOT_FOUND"),
    "keys disable": ("No_Key", Exit.USAGE, "INVALID_ARGUMENT"),
    "keys delete": ("none --yes", Exit.NOT_FOUND, "KEY_NOT_FOUND"),
    "settings show": ("--account No_Account", Exit.USAGE, "INVALID_ARGUMENT"),
    "settings set": ("--active-provider gemini", Exit.REFUSED, "PROVIDER_WITHOUT_KEY"),
    "audit list": ("--limit 0", Exit.USAGE, "--limit"),
    "generate": ("hi --model nobody/none", Exit.NOT_FOUND, "MODEL_NOT_FOUND"),
    "image": (f"boat --model {OPENAI} --out {{folder}}/no", Exit.USAGE, "does not make images"),
    "speech": ("hi --model openai/tts-1 --voice nobody --out {folder}/no", Exit.USAGE, "voice"),
    "jobs start": ("google/veo-3.1", Exit.USAGE, "a prompt"),
    "jobs list": ("--account No_Account", Exit.USAGE, "INVALID_ARGUMENT"),
    "jobs show": ("none", Exit.NOT_FOUND, "JOB_NOT_FOUND"),
    "jobs wait": ("none", Exit.NOT_FOUND, "JOB_NOT_FOUND"),
    "jobs cancel": ("none", Exit.NOT_FOUND, "JOB_NOT_FOUND"),
    "jobs output": ("none --out {folder}", Exit.NOT_FOUND, "JOB_NOT_FOUND"),
    "explain": ("--max-tokens 0", Exit.USAGE, "--max-tokens"),
    "estimate": ("--model nobody/none", Exit.NOT_FOUND, "MODEL_NOT_FOUND"),
    "models": ("--provider nobody", Exit.USAGE, "INVALID_ARGUMENT"),
    "providers": ("--curate", Exit.USAGE, "--curated"),
    "accounts create": ("none --plan golden", Exit.REFUSED, "PLAN_NOT_FOUND"),
    "accounts show": ("--account nobody", Exit.NOT_FOUND, "ACCOUNT_NOT_FOUND"),
    "accounts update": ("", Exit.USAGE, "Say what to change"),
    "credits balance": ("--account nobody", Exit.NOT_FOUND, "ACCOUNT_NOT_FOUND"),
    "credits grant": ("-- -5", Exit.USAGE, ""),
    "credits adjust": ("--by=-5000 --reason x", Exit.REFUSED, "INSUFFICIENT_CREDITS"),
    "mode show": ("--account nobody", Exit.NOT_FOUND, "ACCOUNT_NOT_FOUND"),
    "mode set": ("sometimes", Exit.USAGE, "own-key-only"),
    "usage": ("--from 2026-13-01", Exit.USAGE, "--from"),
    "entries": ("--limit 1001", Exit.USAGE, "--limit"),
    "statement export": ("--output {folder}/first", Exit.USAGE, "--force"),
    "plans": ("--verbose", Exit.USAGE, "--verbose"),
    "kek status": ("", Exit.NOT_ALLOWED, "--token-file"),
    "kek rotate": ("", Exit.NOT_ALLOWED, "--token-file"),
    "rewrap": ("--rate 0", Exit.USAGE, "--rate"),
    "verify": ("", Exit.NOT_ALLOWED, "--token-file"),
    "shared-limits show": ("", Exit.NOT_ALLOWED, "--token-file"),
    "shared-limits set": ("main", Exit.USAGE, "--per-minute"),
    "revocations status": ("", Exit.NOT_ALLOWED, "--token-file"),
    "revocations export": ("{folder}/new", Exit.NOT_ALLOWED, "--token-file"),
    "revocations replay": ("{folder}/first", Exit.USAGE, "{folder}/first"),
    "revocations accept": ("", Exit.USAGE, "--name"),
    "certs init": ("{folder} --days 0", Exit.USAGE, "--days"),
    "certs renew": ("{folder}", Exit.USAGE, "{folder}"),
    "certs show": ("{folder}/none", Exit.USAGE, "{folder}/none"),
}
"""A wrong use of each command: its exit code, and what the answer names."""


class Desk:
    """
    Runs commands for an account, with files beside it.

    Args:
        suite: Where.
        account: `accounts/{account}`.
        folder: Holds secrets of the simulated kind.
    """

    def __init__(self, suite: Suite, account: str, folder: Path) -> None:
        self._suite = suite
        self._names = {"folder": str(folder), "account": account}
        self._names["name"] = account.removeprefix("accounts/")
        for name in ("first", "second", "third"):
            (folder / name).write_text(new_secret())
        (folder / "shared").write_text(new_secret("stability"))
        (folder / "fourth").write_text(new_secret("replicate"))

    def run(self, line: str, *, operator: bool = False) -> Ran:
        """Run a line; nobody is shown a traceback, a secret or a colour that is not asked for."""
        addresses = self._suite.addresses
        if "{job}" in line:
            [job] = self.document("jobs list --json")["jobs"]
            self._names["job"] = job["name"].rpartition("/")[2]
        token = {"OWNKEY_TOKEN_FILE": str(self._suite.state.tokens / "operator")}
        done = run(
            *shlex.split(self.filled(line)),
            OWNKEY_ACCOUNT=self._names["account"],
            OWNKEY_KEYVAULT=addresses.keyvault,
            OWNKEY_ROUTER=addresses.router,
            OWNKEY_LEDGER=addresses.ledger,
            **(token if operator else {}),
        )
        told = done.stdout + done.stderr
        assert holds_no_secret(told)
        assert "Traceback" not in told
        assert "\x1b" not in told
        return done

    def run_once_known(self, line: str, *, operator: bool = False) -> Ran:
        """Run a line that a key must pay for: a router may know the keys of a second ago."""
        deadline = time.monotonic() + EVENTUALLY_SECONDS
        while "NO_USABLE_OWN_KEY" in (done := self.run(line, operator=operator)).stderr:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.1)
        return done

    def document(self, line: str) -> dict[str, list[dict[str, str]]]:
        """Run a line that prints one document."""
        found: dict[str, list[dict[str, str]]] = json.loads(self.run(line).stdout)
        return found

    def filled(self, text: str) -> str:
        """A line with the names of this desk."""
        for name, value in self._names.items():
            text = text.replace(f"{{{name}}}", value)
        return text


@pytest.fixture
def desk(suite: Suite, tmp_path: Path) -> Desk:
    """A desk for an account that is not made yet."""
    return Desk(suite, f"accounts/every-{secrets.token_hex(6)}", tmp_path)


def command_of(line: str) -> str:
    """The command that a line runs."""
    words = line.split()
    return next(name for name in (words[0], " ".join(words[:2])) if name in commands())


def test_the_lines_of_this_page_are_all_commands() -> None:
    assert {command_of(line) for line in (*SCRIPT, *CARE)} == set(commands())
    assert set(WRONG) == set(commands())


@pytest.mark.parametrize("as_json", [False, True], ids=["for people", "for programs"])
def test_every_command_does_what_it_is_for(desk: Desk, as_json: bool) -> None:
    for line in (*SCRIPT, *CARE):
        shown = f"{line} --json" if as_json else line
        run_one = desk.run_once_known if OWN_KEY in line else desk.run
        done = run_one(shown, operator=line in CARE)
        if line == REPLAY:
            assert done.exit_code == Exit.REFUSED, (line, done.stderr)
            assert "RESTORE_REFUSED" in done.stderr
            continue
        assert done.exit_code == Exit.DONE, (line, done.stderr)
        assert done.stdout or done.stderr, line
        if as_json:
            assert done.stderr == "", line
            assert list(documents(done.stdout)), line


def documents(text: str) -> Iterator[dict[str, object]]:
    """One document over several lines, or a document on each line."""
    try:
        yield json.loads(text)
    except json.JSONDecodeError:
        for line in text.splitlines():
            yield json.loads(line)


def test_every_command_tells_wrong_input_by_its_exit_code_and_a_sentence(
    suite: Suite, tmp_path: Path
) -> None:
    async def account() -> str:
        async with clients_of(suite) as clients:
            return await new_account(clients)

    desk = Desk(suite, asyncio.run(account()), tmp_path)
    for command, (wrong, code, named) in WRONG.items():
        done = desk.run(f"{command} {wrong}")
        assert done.exit_code == code, (command, done.stderr)
        assert done.stdout == "", command
        assert desk.filled(named) in done.stderr, (command, done.stderr)
        if code is not Exit.USAGE:
            # A service refused: its reason first, and what to do.
            assert done.stderr.split()[0].isupper(), (command, done.stderr)
