# SPDX-License-Identifier: Apache-2.0
"""The documentation holds: generated pages are current, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from client.ownkey_cli.__main__ import app
from deploy.local.postgres import binaries
from deploy.programs import VAULT
from tests.support.doc_commands import ShownCommand, pages, shown_commands
from tests.support.reference import FOLDER, PAGES
from tests.support.source import ROOT

_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
OTHERS = {"grpcurl", "openssl", "export"}
"""Programs of others that are shown without being looked into."""
KUBECTL = {"apply", "create", "delete", "get", "label", "logs", "rollout", "scale", "top", "wait"}
KUBECTL |= {"describe", "exec", "port-forward", "set", "annotate", "patch"}
COMMANDS = shown_commands()


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
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_that_is_shown_exists(command: ShownCommand) -> None:
    program, *arguments = command.words
    name = Path(program).name
    checks = {
        "ownkey": check_ownkey,
        "make": check_make,
        "kubectl": check_kubectl,
        "vault": check_vault,
        "docker": check_docker,
        "python": check_python,
    }
    if name in checks:
        checks[name](arguments)
    elif name.startswith("pg_") or name == "psql":
        assert (binaries() / name).exists()
    elif name == "node":
        assert (ROOT / "client/examples/node" / Path(arguments[0]).name).exists()
    elif program.startswith("build/"):
        assert program == "build/examples/go/example"
    else:
        assert name in OTHERS, f"{command.page} shows {name}, which no test knows"


def check_ownkey(arguments: list[str]) -> None:
    """The command line is taken apart by the command's own parsers; nothing is carried out."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands") and not rest[0].startswith("--"):
        name, *rest = rest
        assert name in command.commands, f"there is no {name}"
        command = command.commands[name]
    parser = command.make_parser(command.context_class(command))
    parser.parse_args(rest)


def check_make(arguments: list[str]) -> None:
    """Its target is there."""
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text()))
    named = [argument for argument in arguments if "=" not in argument]
    assert set(named) <= targets


def check_kubectl(arguments: list[str]) -> None:
    """Verb, overlay and the things that it names are there."""
    for option in ("--namespace", "-n"):
        if option in arguments:
            at = arguments.index(option)
            arguments = arguments[:at] + arguments[at + 2 :]
    assert arguments[0] in KUBECTL
    if "--kustomize" in arguments:
        assert (ROOT / arguments[arguments.index("--kustomize") + 1]).is_dir()
    made = objects()
    for argument in arguments:
        kind, slash, name = argument.partition("/")
        if slash and kind in {"deployment", "job", "statefulset"}:
            assert (kind, name) in made, argument


def objects() -> set[tuple[str, str]]:
    """Kind and name of every object in deploy/kubernetes."""
    found = set()
    for path in (ROOT / "deploy" / "kubernetes").rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and "metadata" in document:
                found.add((document["kind"].lower(), document["metadata"].get("name", "")))
    return found


def check_vault(arguments: list[str]) -> None:
    """The subcommand is one of the real Vault's."""
    words = []
    for argument in arguments:
        if argument.startswith("-") or "/" in argument or "=" in argument:
            break
        words.append(argument)
    binary = VAULT.find()
    assert binary is not None, "run `make vault`"
    told = subprocess.run(
        [binary, *words[:1], "-h"], capture_output=True, text=True, timeout=20, check=False
    )
    assert f"vault {words[0]}" in told.stdout


def check_docker(arguments: list[str]) -> None:
    """Its file has the target."""
    file = arguments[arguments.index("--file") + 1]
    target = arguments[arguments.index("--target") + 1]
    assert f" AS {target}\n" in (ROOT / file).read_text()


def check_python(arguments: list[str]) -> None:
    """The module has the verb, or the file is there."""
    if arguments[0] != "-m":
        assert (ROOT / arguments[0]).exists()
        return
    source = (ROOT / arguments[1].replace(".", "/") / "__main__.py").read_text()
    assert all(f'"{verb}"' in source for verb in arguments[2:])
