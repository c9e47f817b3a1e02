# SPDX-License-Identifier: Apache-2.0
"""The commands that the documentation shows, and those that `make run` prints, as they stand."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ownkey.ledger.v1 import account_pb2
from rich.console import Console

from deploy.local.__main__ import print_doors
from deploy.local.suite import Suite
from tests.e2e import support
from tests.e2e.shell import SECONDS_MAX, Shell, link_checkout, prompts
from tests.e2e.terminal import Person
from tests.support import backups
from tests.support.doc_commands import Runner, lines_for

pytestmark = pytest.mark.timeout(SECONDS_MAX + 60)


@pytest.fixture
def shell(suite: Suite, tmp_path: Path) -> Shell:
    """An operator's, beside an account with credits and the key `main`."""

    async def account() -> str:
        async with support.clients_of(suite) as clients:
            return await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)

    person = Person(suite, asyncio.run(account()), tmp_path)
    secret = support.new_secret()
    person.run(
        "keys", "add", "--provider", "openai", "--id", "main", "--secret-file", "-", stdin=secret
    )
    link_checkout(tmp_path)
    places = {"/run/ownkey/tls": "trial-certificates/operator"}
    return Shell(person, backups.environ(suite.postgres.server.dsn), places)


@pytest.mark.requirement("O3", "O4")
def test_what_is_shown_runs(shell: Shell) -> None:
    lines = lines_for(Runner.SUITE)
    asking = prompts(lines)
    assert asking
    for line in asking:
        shell.run_prompting(line)
    shell.run(*(line for line in lines if line not in asking))


@pytest.mark.requirement("O1", "O3", "O9")
def test_what_make_run_prints_runs(shell: Shell, settings_account: str) -> None:
    told = io.StringIO()
    print_doors(Console(file=told, width=1000), shell.person.suite, shell.person.account)
    shown = [line.strip() for line in told.getvalue().splitlines()]
    programs = ("grpcurl ", "export ", ".venv/bin/ownkey ")
    lines = [line for line in shown if line.startswith(programs)]
    assert {line.split()[0] for line in lines} == {one.strip() for one in programs}
    shell.run(*lines)
    [curl] = [line for line in shown if line.startswith("curl ")]
    assert send_as_curl(curl)["choices"]


def send_as_curl(line: str) -> Any:
    """Send what a line has curl send; curl itself need not be on this machine."""
    _, url, _, header, _, body = shlex.split(line)
    name, _, value = header.partition(": ")
    # What curl says of a body of -d: https://curl.se/docs/manpage.html#-d
    form = {name: value, "Content-Type": "application/x-www-form-urlencoded"}
    request = urllib.request.Request(url, data=body.encode(), headers=form)  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=support.CALL_SECONDS_MAX) as answer:  # noqa: S310
        return json.load(answer)
