# SPDX-License-Identifier: Apache-2.0
"""The `ownkey` command as people and scripts use it, each command run as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.suite import Suite
from tests.e2e.support import NANO, clients_of, new_account, new_secret
from tests.e2e.terminal import (
    COMMAND_SECONDS_MAX,
    Person,
    holds_no_secret,
    read_rest,
    read_until,
)

pytestmark = pytest.mark.requirement("O4")

ASK = ("generate", "What is a data key?", "--model", "openai/gpt-4o-mini", "--max-tokens", "64")


@pytest.fixture
def person(suite: Suite, tmp_path: Path) -> Person:
    """A person with an account of their own, on credits, without keys."""

    async def account() -> str:
        async with clients_of(suite) as clients:
            return await new_account(clients)

    return Person(suite, asyncio.run(account()), tmp_path)


def add_key(person: Person, key: str = "main", *, fault: str = "", options: str = "") -> str:
    """Store a key; its secret."""
    secret = new_secret(fault=fault)
    line = f"keys add --provider openai --id {key} --secret-file - {options}"
    person.run(*line.split(), stdin=f"  {secret}\n")
    return secret


class TestKeys:
    def test_a_key_from_its_adding_to_its_deletion(self, person: Person) -> None:
        secret = new_secret()
        line = "keys add --provider openai --id main --label mine --secret-file - --json"
        added = person.run(*line.split(), stdin=f"  Bearer {secret} \n").document
        assert added["key"]["name"] == f"{person.account}/keys/main"
        assert added["key"]["hint"].endswith(secret[-4:])
        assert added["test"]["result"] == "TEST_RESULT_VALID"

        listed = person.run("keys", "list").out
        assert "main" in listed
        assert added["key"]["hint"] in listed
        assert "mine" in person.run("keys", "show", "main").out
        line = "keys update main --label ours --order 3 --always-use --json"
        key = person.run(*line.split()).document["key"]
        assert (key["label"], key["order"], key["always_use"]) == ("ours", 3, True)
        assert "valid" in person.run("keys", "test", "main").out

        path = person.folder / "next"
        path.write_text(new_secret())
        line = f"keys replace main --secret-file {path} --json"
        assert person.run(*line.split()).document["key"]["version"] == "2"

        assert "disabled" in person.run("keys", "disable", "main").out
        refused = person.run("keys", "activate", "main", code=4)
        assert "KEY_DISABLED" in refused.err
        assert "ownkey keys enable" in refused.err
        assert "active" in person.run("keys", "enable", "main").out
        add_key(person, "spare")
        assert "active" in person.run("keys", "activate", "spare").out

        person.run("keys", "delete", "main", code=2)
        deleted = person.run("keys", "delete", "main", "--yes", "--json").document
        assert deleted == {"deleted": f"{person.account}/keys/main"}
        gone = person.run("keys", "show", "main", code=3)
        assert "KEY_NOT_FOUND" in gone.err
        audit = person.run("audit", "list", "--json").document["audit_events"]
        assert {"AUDIT_ACTION_CREATE", "AUDIT_ACTION_REPLACE", "AUDIT_ACTION_DELETE"} <= {
            event["action"] for event in audit
        }
        assert "delete" in person.run("audit", "list", "--limit", "5").out

    def test_settings_are_shown_and_set(self, person: Person) -> None:
        add_key(person)
        line = "settings set --active-provider openai --use-backups --json"
        settings = person.run(*line.split()).document["settings"]
        assert (settings["active_provider"], settings["use_backups"]) == ("openai", True)
        assert "yes, in order" in person.run("settings", "show").out
        refused = person.run("settings", "set", "--active-provider", "gemini", code=4)
        assert "PROVIDER_WITHOUT_KEY" in refused.err

    def test_a_key_the_provider_does_not_know_is_refused_and_not_stored(
        self, person: Person
    ) -> None:
        line = "keys add --provider openai --secret-file -"
        refused = person.run(*line.split(), stdin=new_secret(fault="revoked"), code=2)
        assert refused.out == ""
        assert refused.err.startswith("KEY_INVALID (keyvault) ")
        assert person.run("keys", "list", "--json").document["keys"] == []

    def test_a_test_that_finds_a_key_rejected_ends_with_1(self, person: Person) -> None:
        add_key(person, fault="nocredit-gen")
        tested = person.run("keys", "test", "main", "--json", code=1)
        assert tested.document["test"]["result"] == "TEST_RESULT_NO_CREDIT"


class TestGenerate:
    def test_who_pays_comes_first_the_text_alone_on_stdout_and_the_cost_last(
        self, person: Person
    ) -> None:
        done = person.run(*ASK)
        assert done.out == "Simulated answer of gpt-4o-mini to a prompt of 5 tokens.\n"
        first, last = done.err.splitlines()
        assert first == "credits pay  openai/gpt-4o-mini at openai"
        assert "at the provider" in last
        assert "charged 0." in last

    def test_an_own_key_pays_where_it_is_asked_to(self, person: Person) -> None:
        add_key(person)
        person.run("mode", "set", "own-key-first")
        done = person.run(*ASK, "--source", "own-key", "--no-stream", "--system", "Be brief.")
        assert done.out.startswith("Simulated answer")
        assert done.err.startswith("own key sk-proj-…")
        assert "charged 0 credits" in done.err

    def test_the_prompt_may_come_from_standard_input(self, person: Person) -> None:
        done = person.run("generate", "--model", "openai/gpt-4o-mini", stdin="one two three")
        assert "prompt of 3 tokens" in done.out
        wrong = person.run("generate", stdin=b"\xff\xfe", code=2)
        assert "UTF-8" in wrong.err

    def test_with_json_it_streams_events_as_lines(self, person: Person) -> None:
        events = person.run(*ASK, "--json").lines
        assert "start" in events[0]
        assert events[-1]["finish"]["receipt"]["payer"] == "FUNDING_CREDITS"
        text = "".join(event.get("text_delta", "") for event in events)
        assert text.startswith("Simulated answer")
        whole = person.run(*ASK, "--json", "--no-stream").document
        assert whole["text"] == text

    def test_a_repeat_under_the_same_id_is_not_charged_again(self, person: Person) -> None:
        again = (*ASK, "--request-id", "3e4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11")
        person.run(*again)
        balance = person.run("credits", "balance", "--json").document
        assert "repeats an earlier request" in person.run(*again).err
        after = person.run("credits", "balance", "--json").document
        assert after["balance"]["entry_sequence"] == balance["balance"]["entry_sequence"]
        reused = person.run(*again, "--temperature", "1", code=4)
        assert "REQUEST_ID_REUSED" in reused.err

    def test_a_failure_tells_what_was_tried_and_when_to_try_again(self, person: Person) -> None:
        add_key(person)
        person.run("mode", "set", "own-key-only")
        # Longer than a request may take, so it is not waited for.
        model = "openai/gpt-4o-mini-fault-ratelimited-seconds3600"
        failed = person.run("generate", "hi", "--model", model, code=6)
        assert failed.out == ""
        assert failed.err.startswith("RATE_LIMITED (router) ")
        assert "rate-limited" in failed.err
        assert "retry  in " in failed.err

    def test_with_json_a_failure_is_a_document_on_standard_error(self, person: Person) -> None:
        add_key(person, fault="nocredit-gen")
        person.run("mode", "set", "own-key-only")
        failed = person.run(*ASK, "--json", code=4)
        assert failed.out == ""
        assert failed.failure["reason"] in {"KEY_NO_CREDIT", "NO_USABLE_OWN_KEY"}
        assert failed.failure["exit_code"] == 4

    def test_a_stream_that_breaks_off_is_a_failure(self, person: Person) -> None:
        model = ("generate", "hello", "--model", "openai/gpt-4o-mini-fault-cut")
        add_key(person)
        person.run("mode", "set", "own-key-only")
        failed = person.run(*model, code=6)
        assert "STREAM_BROKEN" in failed.err
        assert not failed.out or failed.out.endswith("\n")

    def test_ctrl_c_ends_it_in_a_word(self, person: Person) -> None:
        add_key(person, fault="stall")
        person.run("mode", "set", "own-key-only")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with heeding_ctrl_c(), person.start(*ASK, **pipes) as running:
            assert running.stdout is not None
            # The first piece has come, and the stream stalls.
            assert running.stdout.read(1)
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=COMMAND_SECONDS_MAX)
        assert running.returncode == 130
        assert told.decode().endswith("Interrupted.\n")
        assert b"Traceback" not in told


@contextlib.contextmanager
def heeding_ctrl_c() -> Iterator[None]:
    """What is started meanwhile heeds Ctrl-C, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class TestCredits:
    def test_they_are_granted_adjusted_and_shown(self, person: Person) -> None:
        line = "credits grant 12.5 --kind promotional --expires 2099-01-01 --note gift --json"
        granted = person.run(*line.split()).document
        assert granted["grant"]["amount_nano_credits"] == str(12_500_000_000)
        assert (
            "1,010 credits" in person.run("credits", "adjust", "--by", "-2.5", "--reason", "x").out
        )
        shown = person.run("credits", "balance").out
        assert "1,010 credits" in shown
        assert "gift" in shown
        over = person.run("credits", "adjust", "--by=-5000", "--reason", "x", code=4)
        assert "INSUFFICIENT_CREDITS" in over.err

    def test_a_pause_gives_a_receipt_and_its_end_the_proof(self, person: Person) -> None:
        assert "credits" in person.run("mode", "show").out
        paused = person.run("mode", "set", "own-key-only", "--json").document
        assert paused["receipt"]["posted_nano_credits"] == str(1_000 * NANO)
        assert "paused since" in person.run("mode", "show").out
        resumed = person.run("mode", "set", "credits").out
        assert "The proof:" in resumed
        assert "proven   yes" in resumed

    def test_a_mode_the_plan_forbids_is_refused(self, suite: Suite, tmp_path: Path) -> None:
        async def account() -> str:
            async with clients_of(suite) as clients:
                return await new_account(clients, plan="plans/starter")

        person = Person(suite, asyncio.run(account()), tmp_path)
        refused = person.run("mode", "set", "own-key-first", code=4)
        assert "MODE_NOT_ALLOWED" in refused.err
        assert "ownkey plans" in refused.err

    @pytest.mark.requirement("L10")
    def test_usage_is_summed_with_a_bar_for_each_side(self, person: Person) -> None:
        add_key(person)
        person.run("mode", "set", "own-key-first")
        person.run(*ASK)
        person.run(*ASK, "--source", "credits")
        shown = person.run("usage").out
        assert "█" * 8 + "░" * 8 in shown
        by_key = person.run("usage", "--by", "key").out
        assert "main" in by_key
        assert len(person.run("usage", "--json").document["rows"]) == 2
        assert "Nothing was settled" in person.run("usage", "--to", "2020-01-01").out

    @pytest.mark.requirement("L10")
    def test_entries_and_the_statement_add_up(self, person: Person) -> None:
        person.run(*ASK)
        assert "charge" in person.run("entries").out
        entries = person.run("entries", "--limit", "1", "--json").document["entries"]
        assert entries[0]["kind"] == "ENTRY_KIND_CHARGE"

        rows = list(csv.DictReader(io.StringIO(person.run("statement", "export").out)))
        changes = [int(row["change_nano_credits"]) for row in rows if row["line"] == "entry"]
        assert [rows[0]["line"], rows[-1]["line"]] == ["opening", "closing"]
        opening = int(rows[0]["posted_nano_credits"])
        assert opening + sum(changes) == int(rows[-1]["posted_nano_credits"])

        lines = person.run("statement", "export", "--json").lines
        assert len(lines) == len(rows)
        told = person.run("statement", "export", "--output", "all.csv", "--json").document
        written = (person.folder / "all.csv").read_bytes()
        assert told == {"file": "all.csv", "bytes": len(written)}
        assert person.run("statement", "export").out.encode() == written
        assert "--force" in person.run("statement", "export", "--output", "all.csv", code=2).err
        person.run("statement", "export", "--output", "all.csv", "--force", "--format", "jsonl")
        assert json.loads((person.folder / "all.csv").read_text().splitlines()[0])
        assert [path.name for path in person.folder.iterdir()] == ["all.csv"]

    def test_a_statement_that_fails_leaves_no_file(self, person: Person) -> None:
        line = "statement export --account nobody --output all.csv"
        failed = person.run(*line.split(), code=3)
        assert "ACCOUNT_NOT_FOUND" in failed.err
        assert list(person.folder.iterdir()) == []


class TestCatalogue:
    def test_models_providers_and_plans_are_listed(self, person: Person) -> None:
        assert "openai/gpt-4o-mini" in person.run("models", "--provider", "openai").out
        assert "https://" in person.run("providers").out
        assert "openai/gpt-4o-mini" in person.run("providers", "--curated").out
        assert "standard" in person.run("plans").out
        unknown = person.run("models", "--provider", "nobody", code=2)
        assert "INVALID_ARGUMENT" in unknown.err

    @pytest.mark.requirement("R6")
    def test_the_flashcard_comparison_is_one_table(self, person: Person) -> None:
        models = ("openai/gpt-4o-mini", "anthropic/claude-3-haiku", "anthropic/claude-haiku-4-5")
        chosen = [word for model in models for word in ("--model", model)]
        workload = ["--generations", "100", "--input-tokens", "1000", "--output-tokens", "40"]
        shown = person.run("estimate", *workload, *chosen).out
        lines = [line for line in shown.splitlines() if " openrouter " in line]
        rows = [line.split() for line in lines if not line.startswith("credits")]
        costs = {row[row.index("openrouter") - 1]: row[row.index("openrouter") + 1] for row in rows}
        assert costs == dict(zip(models, ("$0.0174", "$0.0300", "$0.1200"), strict=True))
        assert "credits" in shown

    @pytest.mark.requirement("R6", "O4")
    def test_an_estimate_is_the_same_to_a_program_and_for_media(self, person: Person) -> None:
        one = ["estimate", "--model", "openai/gpt-4o-mini", "--output-tokens", "40", "--json"]
        rows = person.run(*one).document["estimates"]
        own = {row["provider"]: row for row in rows if row["funding"] == "FUNDING_OWN_KEY"}
        assert own["openrouter"]["cost_nano_usd"] == "17400000"
        assert own["openai"]["price"]["price_id"].startswith("openai/gpt-4o-mini@genai-prices-")
        video = ["--generations", "1", "--video-seconds", "8", "--video-resolution", "1080p"]
        shown = person.run("estimate", *video, "--model", "google/veo-3.1-fast").out
        assert "$0.9600" in shown

    @pytest.mark.requirement("R6", "O4")
    @pytest.mark.parametrize(
        ("line", "code", "reason"),
        [
            ("estimate --model openai/no-such-model", 3, "MODEL_NOT_FOUND"),
            ("estimate --images 1 --characters 1", 2, "workload.character_count"),
            ("estimate --images 11", 2, "workload.image_count"),
        ],
    )
    def test_a_wrong_workload_is_told_by_its_field(
        self, person: Person, line: str, code: int, reason: str
    ) -> None:
        assert reason in person.run(*line.split(), code=code).err

    @pytest.mark.requirement("R5", "O4")
    def test_models_are_listed_with_limits_and_prices(self, person: Person) -> None:
        listed = {m["model_id"]: m for m in person.run("models", "--json").document["models"]}
        pro = listed["openai/gpt-5-pro"]
        assert (pro["context_token_count"], pro["max_output_token_count"]) == ("400000", "272000")
        assert [offer["provider"] for offer in pro["offers"]] == ["openai"]
        price = pro["offers"][0]["price"]
        assert price["output_nano_usd_per_million_tokens"] == "120000000000"
        only = person.run("models", "--provider", "deepseek", "--json").document["models"]
        assert {m["model_id"].partition("/")[0] for m in only} == {"deepseek"}

    @pytest.mark.requirement("R13")
    def test_explain_tells_who_would_pay_and_why_others_would_not(self, person: Person) -> None:
        add_key(person)
        shown = person.run("explain", "--model", "openai/gpt-4o-mini").out
        assert shown.startswith("Paid by credits")
        refused = person.run("explain", "--source", "own-key").out
        assert "It would be refused" in refused
        assert person.run("explain", "--json").document["candidates"]


@pytest.mark.requirement("K12", "L12")
class TestCare:
    def test_the_key_encryption_key_is_rotated_and_everything_rewrapped(
        self, person: Person
    ) -> None:
        add_key(person)
        before = person.run("kek", "status", "--json", operator=True).document["status"]
        rotated = person.run("kek", "rotate", "--json", operator=True).document["status"]
        assert int(rotated["current_version"]) == int(before["current_version"]) + 1
        assert "ownkey rewrap" in person.run("kek", "status", operator=True).out
        told = person.run("rewrap", "--json", operator=True).lines
        assert int(told[-1]["progress"]["done_count"]) > 0
        assert person.run("rewrap", "--rate", "500", operator=True).out == "Rewrapped 0, left 0\n"
        person.run("keys", "test", "main")

    def test_the_ledger_is_verified(self, person: Person) -> None:
        assert person.run("verify", operator=True).out.endswith("All holds.\n")
        told = person.run("verify", "--only", person.account, "--json", operator=True).lines
        assert told[-1]["done"] is True
        assert told[-1]["verified_account_count"] == "1"

    @pytest.mark.parametrize(("line", "title"), [("verify", "Verifying"), ("rewrap", "Rewrapping")])
    def test_at_a_terminal_a_bar_shows_how_far_a_long_run_is(
        self, person: Person, line: str, title: str
    ) -> None:
        shown = person.at_terminal(line, operator=True).out
        assert re.search(rf"{title} .*━.* (\d+)/\1 ", shown), shown

    @pytest.mark.requirement("K16", "R10")
    def test_a_shared_key_is_limited_and_the_limit_lifted(self, person: Person) -> None:
        line = "keys add --account platform --provider stability --id limited --secret-file -"
        person.run(*line.split(), stdin=new_secret("stability"), operator=True)
        try:
            line = "shared-limits set limited --per-minute 1200 --json"
            [told] = person.run(*line.split(), operator=True).document["shared_limits"]
            assert told["key"] == "accounts/platform/keys/limited"
            assert (told["requests_per_minute"], told["leased_request_count"]) == ("1200", "0")
            assert "1,200" in person.run("shared-limits", "show", operator=True).out
            lifted = person.run("shared-limits", "set", "limited", "--none", operator=True).out
            assert "none" in lifted
            gone = person.run("shared-limits", "set", "gone", "--none", code=3, operator=True)
            assert "KEY_NOT_FOUND" in gone.err
        finally:
            line = "keys delete limited --account platform --yes"
            person.run(*line.split(), operator=True)

    @pytest.mark.parametrize(
        "line", ["kek status", "kek rotate", "rewrap", "verify", "shared-limits show"]
    )
    def test_others_than_operators_are_told_how_to_show_who_they_are(
        self, person: Person, line: str
    ) -> None:
        denied = person.run(*line.split(), code=5)
        assert "ACCESS_DENIED" in denied.err
        assert "--token-file" in denied.err

    def test_a_token_that_is_not_known_is_refused_and_not_repeated(self, person: Person) -> None:
        path = person.folder / "token"
        path.write_text("canary-token")
        refused = person.run("verify", "--token-file", str(path), code=5)
        assert "UNAUTHENTICATED" in refused.err
        assert "canary" not in refused.err


@pytest.mark.requirement("K8")
class TestSecrets:
    def test_a_secret_is_in_no_process_that_others_can_list(self, person: Person) -> None:
        secret = new_secret()
        line = "keys add --provider openai --secret-file -"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with person.start(*line.split(), **pipes) as running:
            assert running.stdin is not None
            running.stdin.write(secret.encode())
            running.stdin.flush()
            # It waits for the end of its input.
            process = Path(f"/proc/{running.pid}")
            begun = time.monotonic()
            # Between fork and exec a process has no arguments yet.
            while b"ownkey_cli" not in (process / "cmdline").read_bytes():
                assert time.monotonic() < begun + COMMAND_SECONDS_MAX
                time.sleep(0.01)
            for name in ("cmdline", "environ"):
                assert secret.encode() not in (process / name).read_bytes()
            out, _ = running.communicate(timeout=COMMAND_SECONDS_MAX)
        assert running.returncode == 0
        assert secret.encode() not in out

    def test_at_the_prompt_it_is_not_shown(self, person: Person) -> None:
        secret = new_secret()
        ours, theirs = pty.openpty()
        line = "keys add --provider openai --id main --json"
        terminal = {"stdin": theirs, "stderr": theirs, "start_new_session": True}
        with person.start(*line.split(), stdout=subprocess.PIPE, **terminal) as running:
            os.close(theirs)
            shown = read_until(ours, b"(not shown)")
            os.write(ours, f"{secret}\n".encode())
            out, _ = running.communicate(timeout=COMMAND_SECONDS_MAX)
            shown += read_rest(ours)
            os.close(ours)
        assert running.returncode == 0, shown.decode()
        assert json.loads(out)["key"]["name"].endswith("/keys/main")
        assert holds_no_secret((shown + out).decode())

    def test_deleting_asks_first_and_takes_no_for_an_answer(self, person: Person) -> None:
        add_key(person)
        for answer, code, left in (("n", 1, 1), ("y", 0, 0)):
            ours, theirs = pty.openpty()
            terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
            with person.start("keys", "delete", "main", **terminal) as running:
                os.close(theirs)
                read_until(ours, b"[y/N]")
                os.write(ours, f"{answer}\n".encode())
                assert running.wait(timeout=COMMAND_SECONDS_MAX) == code
                os.close(ours)
            assert len(person.run("keys", "list", "--json").document["keys"]) == left


class TestScripts:
    @pytest.mark.parametrize("line", ["models", "models --json", "statement export"])
    def test_a_reader_that_leaves_is_no_fault(self, person: Person, line: str) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with person.start(*line.split(), **pipes) as running:
            assert running.stdout is not None
            running.stdout.close()
            assert running.stderr is not None
            assert running.stderr.read() == b""
            assert running.wait(timeout=COMMAND_SECONDS_MAX) == 141

    def test_nobody_there_is_told_with_the_address(self, person: Person) -> None:
        away = person.run("credits", "balance", "--ledger", "127.0.0.1:1", code=6)
        assert "Nobody answers for the ledger at 127.0.0.1:1." in away.err

    def test_the_shell_completes_commands(self, person: Person) -> None:
        asked = {
            "_OWNKEY_COMPLETE": "complete_bash",
            "COMP_WORDS": "ownkey ke",
            "COMP_CWORD": "1",
        }
        completed = subprocess.run(
            person.command(),
            env={**person.environ, **asked},
            capture_output=True,
            check=True,
        )
        assert set(completed.stdout.decode().split()) == {"keys", "kek"}

    def test_the_installed_command_runs_from_any_folder(self, person: Person) -> None:
        """Also where a folder `client` lies, which must not be taken for ours."""
        (person.folder / "client").mkdir()
        (person.folder / "link").symlink_to(Path(sys.executable).with_name("ownkey"))
        listed = subprocess.run(
            ["./link", "plans", "--json"],
            cwd=person.folder,
            env={name: text for name, text in person.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            check=True,
        )
        assert json.loads(listed.stdout)["plans"]
