# SPDX-License-Identifier: Apache-2.0
"""`ownkey accounts`: an account's plan, its first mode, and when it may fall back to credits."""

from __future__ import annotations

from enum import auto
from typing import Annotated

import typer
from google.protobuf import field_mask_pb2
from ownkey.ledger.v1 import account_pb2

from client.ownkey_cli.choices import Choice, number_of, parsed
from client.ownkey_cli.command import NotGoodError, command
from client.ownkey_cli.commands.ledger import Mode
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import Session, full_name, new_request_id
from client.ownkey_cli.texts import parse_credits
from client.ownkey_cli.views.credits import account_view, mode_view

app = typer.Typer(no_args_is_help=True, help="Accounts and their plans.")

NO_CAP = "none"


class Fallback(Choice):
    """For which failures of an own key requests fall back to credits."""

    NEVER = auto()
    RATE_LIMIT = auto()
    KEY_FAILURE = auto()
    ANY = auto()


def _cap(text: str) -> int | str:
    return NO_CAP if text == NO_CAP else parse_credits(text)


Cap = Annotated[
    int | None,
    typer.Option(
        "--fallback-cap",
        metavar="CREDITS",
        parser=parsed(_cap),
        help="What fallbacks may take in one UTC day; `none` for no cap.",
    ),
]
FallbackOption = Annotated[
    Fallback | None, typer.Option(help="For which failures of a key credits step in.")
]


@command(app, "create", of_account=False)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The new account's id.")],
    *,
    plan: Annotated[str, typer.Option(metavar="PLAN", help="As `ownkey plans` lists them.")],
    mode: Annotated[
        Mode | None, typer.Option(help="Who pays; the plan's default if left out.")
    ] = None,
    fallback: FallbackOption = None,
    cap: Cap = None,
) -> None:
    """Make an account."""
    answer = session.call(
        session.ledger.CreateAccount,
        account_pb2.CreateAccountRequest(
            request_id=new_request_id(),
            account_id=name.removeprefix("accounts/"),
            plan=full_name("plans", plan),
            billing_mode=number_of(mode, account_pb2.BillingMode),
            fallback_consent=number_of(fallback, account_pb2.FallbackConsent),
            fallback_daily_cap_nano_credits=cap if isinstance(cap, int) else None,
        ),
    )
    session.out.answer(answer, lambda: account_view(answer.account))


@command(app, "show")
def show(session: Session) -> None:
    """Show an account: its plan, who pays, when it falls back."""
    request = account_pb2.GetAccountRequest(name=session.account)
    answer = session.call(session.ledger.GetAccount, request)
    session.out.answer(answer, lambda: account_view(answer.account))


@command(app, "update")
def update(
    session: Session,
    *,
    plan: Annotated[str, typer.Option(metavar="PLAN", help="The plan to change to.")] = "",
    mode: Annotated[
        Mode | None,
        typer.Option(help="Who pays, with a plan that forbids the current mode; else mode set."),
    ] = None,
    fallback: FallbackOption = None,
    cap: Cap = None,
) -> None:
    """Change an account's plan, or when it falls back to credits."""
    changed = account_pb2.Account(name=session.account)
    paths = []
    if plan:
        changed.plan = full_name("plans", plan)
        paths.append("plan")
    if fallback is not None:
        changed.fallback_consent = fallback.of(account_pb2.FallbackConsent)
        paths.append("fallback_consent")
    if cap is not None:
        if isinstance(cap, int):
            changed.fallback_daily_cap_nano_credits = cap
        paths.append("fallback_daily_cap_nano_credits")
    if not paths:
        raise InputError("Say what to change: --plan, --fallback or --fallback-cap.")
    answer = session.call(
        session.ledger.UpdateAccount,
        account_pb2.UpdateAccountRequest(
            request_id=new_request_id(),
            account=changed,
            update_mask=field_mask_pb2.FieldMask(paths=paths),
            billing_mode=number_of(mode, account_pb2.BillingMode),
        ),
    )
    session.out.answer(answer, lambda: mode_view(answer))
    if answer.HasField("proof") and not answer.proof.proven:
        raise NotGoodError
