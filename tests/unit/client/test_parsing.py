# SPDX-License-Identifier: Apache-2.0
"""The command line as it is read: options, wrong input, help. Nothing is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.ownkey_cli.__main__ import ORDER, app
from client.ownkey_cli.exits import Exit
from tests.support.command_line import commands, run
from tests.support.source import ROOT

pytestmark = pytest.mark.requirement("O4")

NOBODY = ("--keyvault", "127.0.0.1:1", "--router", "127.0.0.1:1", "--ledger", "127.0.0.1:1")
SECRET = "sk-proj-canary-0123456789abcdef"
TOKEN_COUNTS = {"--input-tokens", "--output-tokens", "--max-tokens"}
"""Tokens of text, not of identities."""


def options_of(command: str) -> set[str]:
    return {name for one in commands()[command].params for name in one.opts}


class TestHelp:
    def test_every_command_stands_in_the_help(self) -> None:
        shown = run("--help").output
        positions = [shown.index(f"│ {name} ") for name in ORDER]
        assert positions == sorted(positions)

    @pytest.mark.parametrize(
        "command", ["keys add", "generate", "usage", "statement export", "verify", "kek status"]
    )
    def test_every_command_takes_the_common_options(self, command: str) -> None:
        shown = run(*command.split(), "--help").output
        for option in ("--json", "--token-file", "--keyvault", "--router", "--ledger"):
            assert option in shown

    @pytest.mark.parametrize("command", commands())
    def test_every_command_says_what_it_does_and_takes_json(self, command: str) -> None:
        assert commands()[command].help
        assert "--json" in options_of(command)

    @pytest.mark.requirement("K8")
    @pytest.mark.parametrize("command", commands())
    def test_no_option_takes_a_secret_or_a_token_itself(self, command: str) -> None:
        words = ("secret", "token", "password", "api-key")
        found = {one for one in options_of(command) if any(word in one for word in words)}
        assert found <= {"--secret-file", "--token-file"} | TOKEN_COUNTS


class TestWrongInput:
    @pytest.mark.parametrize(
        "line",
        [
            "keys lst",
            "keys list --provder openai",
            "keys add",
            "keys update main",
            "keys update main --any-model --allowed-model openai/gpt-4o",
            "keys add --provider openai",
            "keys delete main",
            "settings set",
            "mode set sometimes",
            "credits grant lots",
            "credits grant 1.0000000001",
            "credits grant 5 --expires tomorrow",
            "credits adjust --by 5",
            "usage --from 2026-13-01",
            "usage --by moon",
            "entries --limit 0",
            "entries --limit 1001",
            "entries --from noon",
            "statement export --format xml",
            "statement export --json --format csv",
            "generate hi --source mine",
            "generate hi --temperature 3",
            "generate hi --max-tokens 0",
            "rewrap --rate 0",
            "keys list --keyvault nowhere",
            "keys list --keyvault 10.0.0.1:7101",
            "keys list --token-file no/such/file",
        ],
    )
    def test_it_is_told_with_exit_code_2(self, line: str) -> None:
        result = run(*line.split(), OWNKEY_ACCOUNT="demo")
        assert result.exit_code == Exit.USAGE, result.output
        assert result.stdout == ""
        assert result.stderr
        assert "Traceback" not in result.output

    def test_without_an_account_the_option_is_named(self) -> None:
        result = run("keys", "list", *NOBODY)
        assert result.exit_code == Exit.USAGE
        assert "--account or OWNKEY_ACCOUNT" in result.stderr

    @pytest.mark.requirement("K8")
    @pytest.mark.parametrize(
        "line",
        [
            f"keys add --provider openai {SECRET}",
            f"keys replace main {SECRET}",
            f"keys add --provider openai --secret {SECRET}",
            f"keys add --provider openai --secret={SECRET}",
            f"keys add --provider openai --secret-file {SECRET}",
        ],
    )
    def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(self, line: str) -> None:
        result = run(*line.split(), *NOBODY, OWNKEY_ACCOUNT="demo")
        assert result.exit_code == Exit.USAGE
        assert "canary" not in result.output

    def test_a_token_of_several_lines_is_refused_and_not_repeated(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("canary\ncanary\n")
        result = run("kek", "status", "--token-file", str(path), *NOBODY)
        assert result.exit_code == Exit.USAGE
        assert "canary" not in result.output


class TestNobodyThere:
    def test_it_is_told_with_the_address_and_what_to_do(self) -> None:
        result = run("keys", "list", "--account", "demo", *NOBODY)
        assert result.exit_code == Exit.UNAVAILABLE
        assert "Nobody answers for the keyvault at 127.0.0.1:1." in result.stderr
        assert "make run" in result.stderr


class TestReadme:
    def test_it_names_every_command_and_every_exit_code(self) -> None:
        section = (ROOT / "README.md").read_text().split("## The command")[1].split("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| ")]
        table = "\n".join(rows)
        for group in app.registered_groups:
            assert group.typer_instance is not None
            for command in group.typer_instance.registered_commands:
                named = [row for row in rows if f"`{group.name} " in row]
                assert any(f"{command.name}`" in row for row in named), (group.name, command.name)
        for command in app.registered_commands:
            assert f"`{command.name}" in table
        numbers = re.findall(r"^\| (\d+(?:, \d+)*) \|", section, re.MULTILINE)
        told = [int(number) for row in numbers for number in row.split(", ")]
        assert told == sorted(Exit)
