# SPDX-License-Identifier: Apache-2.0
"""The documentation holds: generated pages are current, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.doc_commands import (
    STAND_INS,
    Runner,
    ShownCommand,
    lines_for,
    pages,
    shown_commands,
)
from tests.support.manifests import OVERLAYS, rendered
from tests.support.reference import FOLDER, PAGES
from tests.support.source import ROOT

_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
KUBECTL = {"apply", "create", "describe", "get", "label", "logs", "rollout", "top", "wait"}
"""Its verbs that are shown."""
COMMANDS = shown_commands()
STOOD_IN = [one for one in COMMANDS if one.stand_in]


@pytest.mark.requirement("O6")
@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make reference`"


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", (ROOT / page).read_text())
    for path, anchor in _LINK.findall(text):
        if "://" in path:
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {path}"
        if anchor:
            assert anchor.removeprefix("#") in anchors(target), f"{page}: {path}{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.requirement("O4")
def test_every_command_that_is_shown_is_run_or_says_why_not() -> None:
    left = [str(one) for one in COMMANDS if one.runner is None and one.stand_in is None]
    assert left == [], "no test runs these"
    assert {one.stand_in for one in STOOD_IN} == set(STAND_INS), "a reason is left over"
    for runner in {one.runner for one in COMMANDS} - {None}:
        text = (ROOT / str(runner)).read_text()
        assert "doc_commands import" in text, f"{runner} runs nothing of the documentation"


@pytest.mark.parametrize("line", lines_for(Runner.PAGES))
def test_a_key_for_keyed_hashes_is_made_as_shown(line: str) -> None:
    """64 hex digits; what stands before them is the name of a Python."""
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=20, check=True
    )
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout)


@pytest.mark.requirement("O4")
@pytest.mark.parametrize("command", STOOD_IN, ids=str)
def test_what_cannot_be_run_names_what_there_is(command: ShownCommand) -> None:
    program, *arguments = command.words
    checks = {
        "make": check_make,
        "kubectl": check_kubectl,
        "docker": check_docker,
        "python": check_python,
        "export": check_export,
    }
    checks[program](arguments)


def check_export(arguments: list[str]) -> None:
    """What it sets is a setting of the command's."""
    texts = "".join(path.read_text() for path in (ROOT / "client" / "ownkey_cli").rglob("*.py"))
    for argument in arguments:
        assert f'"{argument.partition("=")[0]}"' in texts


def check_make(arguments: list[str]) -> None:
    """Its target is there."""
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text()))
    named = [argument for argument in arguments if "=" not in argument]
    assert set(named) <= targets


def check_kubectl(arguments: list[str]) -> None:
    """Verb, overlay, and the things and labels that it names are there."""
    made = [one for overlay in OVERLAYS.iterdir() for one in rendered(overlay.name)]
    for option in ("--namespace", "-n"):
        if option in arguments:
            at = arguments.index(option)
            assert arguments[at + 1] in {one["metadata"].get("namespace") for one in made}
            arguments = arguments[:at] + arguments[at + 2 :]
    assert arguments[0] in KUBECTL
    if "--kustomize" in arguments:
        assert (ROOT / arguments[arguments.index("--kustomize") + 1]).parent == OVERLAYS
    named = {(one["kind"].lower(), one["metadata"]["name"]) for one in made}
    for argument in arguments:
        kind, slash, name = argument.partition("/")
        if slash and kind in {"deployment", "job", "secret", "statefulset"}:
            assert (kind, name) in named, argument
    if "--selector" in arguments:
        kind, label = arguments[arguments.index("--selector") - 1 :][:3:2]
        name, _, value = label.partition("=")
        assert any(
            one["kind"].lower() == kind and one["metadata"]["labels"].get(name) == value
            for one in made
        )


def check_docker(arguments: list[str]) -> None:
    """Its file has the target."""
    file = arguments[arguments.index("--file") + 1]
    target = arguments[arguments.index("--target") + 1]
    assert f" AS {target}\n" in (ROOT / file).read_text()


def check_python(arguments: list[str]) -> None:
    """The module has the verb."""
    source = (ROOT / arguments[1].replace(".", "/") / "__main__.py").read_text()
    assert all(f'"{verb}"' in source for verb in arguments[2:])
