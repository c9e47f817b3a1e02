# SPDX-License-Identifier: Apache-2.0
"""The examples in Python, Go and Node, run against the suite as the quick start shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.suite import Suite
from tests.e2e.shell import Shell, link_checkout
from tests.e2e.support import new_secret
from tests.e2e.terminal import ROOT, Person
from tests.support.doc_commands import Runner, lines_for

MADE = ROOT / "build" / "examples"
LAST_MADE = {"go": "example", "node": ".built"}
SHOWN = {Path(line.split(" <")[0].split()[-1]).parts[2]: line for line in lines_for(Runner.CALLERS)}
"""The command line of each language."""


def assert_made(language: str) -> None:
    """It is built, with stubs, from the sources as they stand."""
    made = MADE / language
    found = (made / LAST_MADE[language]).exists()
    assert found, f"the example in {language} is missing; run `make examples`"
    assert any((made / "stubs").rglob("*")), f"no stubs were generated for {language}"
    for source in (ROOT / "client" / "examples" / language).iterdir():
        same = (made / source.name).read_bytes() == source.read_bytes()
        assert same, f"{source.name} has changed since; run `make examples`"


@pytest.mark.requirement("O12")
@pytest.mark.parametrize("language", ["python", "go", "node"])
def test_a_caller_in_each_language_goes_the_whole_way(
    suite: Suite, tmp_path: Path, language: str
) -> None:
    if language in LAST_MADE:
        assert_made(language)
    link_checkout(tmp_path)
    for folder in ("client", "build"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "secret").write_text(new_secret() + "\n")

    told = Shell(Person(suite, "accounts/nobody", tmp_path)).run(SHOWN[language])

    account, refused, stored, paid, *text, finished = told.splitlines()
    # Granted twice under one request_id, which counts once.
    assert account.startswith(f"account accounts/{language}-")
    assert account.endswith(" has 10 credits")
    assert refused == "refused SECRET_MALFORMED, looks like openrouter"
    assert stored.startswith("stored sk-proj-…")
    assert paid == "paid by FUNDING_OWN_KEY at openai"
    assert "".join(text)
    assert finished == "finished FINISH_REASON_STOP"
