# SPDX-License-Identifier: Apache-2.0
"""
`python -m deploy.local`: the suite on this machine, behind `make run` and `make tour`.

`run` starts it, walks once through the main job and serves until interrupted. `tour` takes the same
walk in a temporary folder and stops; its exit code tells how it went.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import grpc.aio
import typer
from rich.console import Console

from deploy.local.processes import LocalError
from deploy.local.state import Kek
from deploy.local.suite import Ports, Suite
from deploy.local.walk import WalkError, look_again, walk
from services.shared.identity import OPERATOR

_CHECK_SECONDS = 1.0
_ENDINGS = (signal.SIGINT, signal.SIGTERM)
_DEFAULT_STATE = Path(".ownkey")


class KekChoice(StrEnum):
    """What wraps the keys."""

    LOCAL = "local"
    VAULT = "vault"


app = typer.Typer(add_completion=False, no_args_is_help=True, help="The suite on this machine.")
_KekOption = Annotated[KekChoice, typer.Option(help="A local keyring, or a real Vault.")]
_TlsOption = Annotated[bool, typer.Option("--tls", help="Mutual TLS between all parts.")]
_StateOption = Annotated[Path, typer.Option(help="Keeps everything that outlives a run.")]


@app.command()
def run(
    *,
    state: _StateOption = _DEFAULT_STATE,
    kek: _KekOption = KekChoice.LOCAL,
    tls: _TlsOption = False,
) -> None:
    """Start the suite, walk through it once and serve until interrupted."""
    console = Console()
    with _told(console):
        with _running(_suite(state, kek, Ports(), console, tls=tls), console) as suite:
            account = suite.state.walked
            if account:
                asyncio.run(look_again(suite, console, account))
            else:
                account = asyncio.run(walk(suite, console))
                suite.state.keep_walk(account)
            suite.start_settings_page(account)
            print_doors(console, suite, account)
            _serve_until_interrupted(suite)
            console.print("Stopping.")
        console.print(f"Stopped. Everything is kept in {state} for the next `make run`.")


@app.command()
def tour(*, kek: _KekOption = KekChoice.LOCAL, tls: _TlsOption = False) -> None:
    """Take the walk on a suite of its own, then stop it; exit 0 if all went as it should."""
    console = Console()
    # A failed tour leaves its folder behind: its logs say why.
    folder = Path(tempfile.mkdtemp(prefix="ownkey-tour-"))
    suite = _suite(folder / "state", kek, Ports.any_free(), console, tls=tls)
    with _told(console), _running(suite, console):
        asyncio.run(walk(suite, console))
        suite.check()
    shutil.rmtree(folder)


def _suite(state: Path, kek: KekChoice, ports: Ports, console: Console, *, tls: bool) -> Suite:
    def say(what: str) -> None:
        console.print(f"  [dim]starting[/dim] {what}")

    wraps: Kek = "vault" if kek is KekChoice.VAULT else "local"
    return Suite(state, kek=wraps, tls=tls, metrics=True, ports=ports, say=say)


@contextmanager
def _running(suite: Suite, console: Console) -> Iterator[Suite]:
    """A running suite; SIGTERM ends it as an interrupt does, and a second one finds it ending."""
    console.print("[bold]Ownkey[/bold] on this machine")
    for ending in _ENDINGS:
        signal.signal(ending, signal.default_int_handler)
    try:
        suite.start()
        yield suite
    finally:
        for ending in _ENDINGS:
            signal.signal(ending, signal.SIG_IGN)
        suite.stop()


def _serve_until_interrupted(suite: Suite) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            suite.check()
            time.sleep(_CHECK_SECONDS)


@contextmanager
def _told(console: Console) -> Iterator[None]:
    """Failures that a person can mend are told in a sentence, not as a traceback."""
    try:
        yield
    except (LocalError, WalkError) as exc:
        console.print("[red]Failed:[/red] ", end="")
        console.print(str(exc), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from exc
    except grpc.aio.AioRpcError as exc:
        console.print(f"[red]A call failed with {exc.code().name}:[/red] ", end="")
        console.print(exc.details(), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from exc
    except KeyboardInterrupt as exc:
        console.print("Interrupted; everything was stopped.")
        raise typer.Exit(130) from exc


def print_doors(console: Console, suite: Suite, account: str) -> None:
    """What to try now: each line works as it stands while the suite runs."""
    at = suite.addresses
    text = {"messages": [{"role": "ROLE_USER", "parts": [{"text": "Hello"}]}]}
    request = {"account": account, "request_id": str(uuid.uuid4()), "input": text}
    keyvault, router, ledger = (
        f"ownkey.{name.lower()}.v1.{name}Service" for name in ("Keyvault", "Router", "Ledger")
    )
    doors = (
        (None, at.router, "list"),
        ({"provider": "openai"}, at.router, f"{router}/ListModels"),
        ({"parent": account}, at.keyvault, f"{keyvault}/ListKeys"),
        ({"account": account}, at.ledger, f"{ledger}/GetBalance"),
        (request, at.router, f"{router}/StreamText"),
    )
    console.print("\n[bold]Serving.[/bold] Try, in another terminal:\n")
    operator = suite.tls_files(OPERATOR)
    shown, trusted = "-plaintext", ""
    if operator is not None:
        shown = f"-cacert {operator.ca} -cert {operator.certificate} -key {operator.key}"
        trusted = f"--cacert {operator.ca} --cert {operator.certificate} --key {operator.key} "
        for name in ("certificate", "key", "ca"):
            line = f"  export OWNKEY_TLS_{name.upper()}_FILE={getattr(operator, name)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for message, address, method in doors:
        data = f"-d '{json.dumps(message)}' " if message else ""
        line = f"  grpcurl {shown} {data}{address} {method}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    chat = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]})
    scheme = "https" if trusted else "http"
    door = f"{scheme}://{at.http}/v1/chat/completions -H 'X-Ownkey-Account: {account}'"
    console.print(
        f"  curl {trusted}{door} -d '{chat}'", markup=False, highlight=False, soft_wrap=True
    )
    _print_doors_for_people(console, suite, account)
    console.print(f"\nLogs are in {suite.state.logs}. Interrupt (Ctrl-C) to stop.")


def _print_doors_for_people(console: Console, suite: Suite, account: str) -> None:
    """The command, and the settings page with the link that opens it."""
    token = suite.state.tokens / OPERATOR
    lines = (
        "",
        f"  export OWNKEY_ACCOUNT={account.partition('/')[2]} OWNKEY_TOKEN_FILE={token}",
        "  .venv/bin/ownkey keys list",
        '  .venv/bin/ownkey generate "What is a data key?"',
        "  .venv/bin/ownkey usage --by model",
        "",
        "The settings page; the link opens one browser, once:",
        "",
        f"  {suite.settings_link}",
        "",
        f"The next link then stands in {suite.state.settings_link_file}.",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(app())
