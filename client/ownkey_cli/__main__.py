# SPDX-License-Identifier: Apache-2.0
"""`ownkey`: the command for people, and with --json for their scripts."""

from __future__ import annotations

import io
import os
import sys

import typer
from typer.core import TyperGroup

from client.ownkey_cli.command import command
from client.ownkey_cli.commands import (
    accounts,
    certs,
    jobs,
    keys,
    keyvault,
    ledger,
    media,
    revocations,
    router,
    shared_limits,
    statement,
)
from client.ownkey_cli.exits import Exit

ORDER = (
    *("keys", "settings", "audit"),
    *("generate", "image", "speech", "jobs", "explain", "estimate", "models", "providers"),
    *("accounts", "credits", "mode", "usage", "entries", "statement", "plans"),
    *("kek", "rewrap", "verify", "shared-limits", "revocations", "certs"),
)


class _Ordered(TyperGroup):
    """Lists groups and commands in the order in which people need them."""

    def list_commands(self, _: typer.Context) -> list[str]:  # type: ignore[override]  # typer hands its own
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    name="ownkey",
    cls=_Ordered,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keys, credits and generations of Ownkey. Every command takes --json.",
)
_KEYS, _REQUESTS, _CREDITS, _CARE = "Keys", "Requests", "Credits", "Care, for operators"

app.add_typer(keys.app, name="keys", rich_help_panel=_KEYS)
app.add_typer(keyvault.settings, name="settings", rich_help_panel=_KEYS)
app.add_typer(keyvault.audit, name="audit", rich_help_panel=_KEYS)

command(app, "generate", panel=_REQUESTS)(router.generate)
command(app, "image", panel=_REQUESTS)(media.image)
command(app, "speech", panel=_REQUESTS)(media.speech)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_REQUESTS)
command(app, "explain", panel=_REQUESTS)(router.explain)
command(app, "estimate", panel=_REQUESTS)(router.estimate)
command(app, "models", of_account=False, panel=_REQUESTS)(router.models)
command(app, "providers", of_account=False, panel=_REQUESTS)(router.providers)

app.add_typer(accounts.app, name="accounts", rich_help_panel=_CREDITS)
app.add_typer(ledger.credits_, name="credits", rich_help_panel=_CREDITS)
app.add_typer(ledger.mode, name="mode", rich_help_panel=_CREDITS)
command(app, "usage", panel=_CREDITS)(ledger.usage)
command(app, "entries", panel=_CREDITS)(ledger.entries)
app.add_typer(statement.app, name="statement", rich_help_panel=_CREDITS)
command(app, "plans", of_account=False, panel=_CREDITS)(ledger.plans)

app.add_typer(keyvault.kek, name="kek", rich_help_panel=_CARE)
command(app, "rewrap", of_account=False, panel=_CARE)(keyvault.rewrap)
command(app, "verify", of_account=False, panel=_CARE)(ledger.verify)
app.add_typer(shared_limits.app, name="shared-limits", rich_help_panel=_CARE)
app.add_typer(revocations.app, name="revocations", rich_help_panel=_CARE)
app.add_typer(certs.app, name="certs", rich_help_panel=_CARE)


def main() -> None:
    """Run the command; a fault of its own ends in a sentence too."""
    # gRPC's own log would mix with what people read.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A terminal that knows less than Unicode gets question marks, not a failure.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="ownkey")
    except Exception as exc:
        if "OWNKEY_TRACEBACK" in os.environ:
            raise
        # An exception's text may repeat what was typed, a secret included.
        print(  # noqa: T201 - the consoles may be what failed
            f"A fault of this command: {type(exc).__name__}. Run it again with OWNKEY_TRACEBACK=1 "
            "to see where, and report that.",
            file=sys.stderr,
        )
        sys.exit(Exit.FAULT)


if __name__ == "__main__":
    main()
