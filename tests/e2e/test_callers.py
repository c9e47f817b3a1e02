# SPDX-License-Identifier: Apache-2.0
"""The examples in Python, Go and Node, run as a caller would run them, against the suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.suite import Suite
from tests.e2e.support import new_secret

ROOT = Path(__file__).parents[2]
MADE = ROOT / "build" / "examples"
SECONDS_MAX = 40


def command(language: str) -> list[str]:
    """The example's command line, run from the checkout."""
    if language == "python":
        return [sys.executable, "client/examples/python/main.py"]
    if language == "go":
        assert (MADE / "go" / "example").exists(), "the example in Go is missing; `make examples`"
        return ["build/examples/go/example"]
    assert (MADE / "node" / ".installed").exists(), "the one in Node is missing; `make examples`"
    node = shutil.which("node")
    assert node is not None, "the example in Node needs Node 20 or newer on PATH; install it"
    return [node, "build/examples/node/main.js"]


@pytest.mark.requirement("O12")
@pytest.mark.parametrize("language", ["python", "go", "node"])
def test_a_caller_in_each_language_goes_the_whole_way(suite: Suite, language: str) -> None:
    addresses = suite.addresses
    done = subprocess.run(
        command(language),
        cwd=ROOT,
        input=new_secret() + "\n",
        env={
            **os.environ,
            "OWNKEY_KEYVAULT": addresses.keyvault,
            "OWNKEY_ROUTER": addresses.router,
            "OWNKEY_LEDGER": addresses.ledger,
        },
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    account, refused, stored, paid, *text, finished = done.stdout.splitlines()
    # Granted twice under one request_id, which counts once.
    assert account.startswith(f"account accounts/{language}-")
    assert account.endswith(" has 10 credits")
    assert refused == "refused SECRET_MALFORMED, looks like openrouter"
    assert stored.startswith("stored sk-proj-…")
    assert paid == "paid by FUNDING_OWN_KEY at openai"
    assert "".join(text)
    assert finished == "finished FINISH_REASON_STOP"
