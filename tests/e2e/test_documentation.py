# SPDX-License-Identifier: Apache-2.0
"""The commands that the documentation marks to be run, run against the suite as they stand."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from ownkey.ledger.v1 import account_pb2

from deploy.local.suite import Suite
from tests.e2e import support
from tests.e2e.terminal import ROOT, Person
from tests.support.doc_commands import shown_commands

COMMAND_SECONDS_MAX = 45
PAGES = sorted({command.page for command in shown_commands() if command.run})


@pytest.fixture
def person(suite: Suite, tmp_path: Path) -> Person:
    """An operator beside an account with credits and the key `main`."""

    async def account() -> str:
        async with support.clients_of(suite) as clients:
            return await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)

    made = Person(suite, asyncio.run(account()), tmp_path)
    secret = support.new_secret()
    made.run(
        "keys", "add", "--provider", "openai", "--id", "main", "--secret-file", "-", stdin=secret
    )
    return made


@pytest.mark.requirement("O4")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_marked_to_be_run_runs(person: Person, page: Path) -> None:
    lines = [one.line for one in shown_commands() if one.page == page and one.run]
    environ = {
        **person.environ,
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OWNKEY_TOKEN_FILE": str(person.suite.state.tokens / "operator"),
    }
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", "\n".join(lines)],
        cwd=person.folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
