# SPDX-License-Identifier: Apache-2.0
"""`ownkey credits`, `mode`, `usage`, `entries`, `plans` and `verify`: what the ledger answers."""

from __future__ import annotations

from enum import auto
from typing import Annotated, Any

import typer
from ownkey.ledger.v1 import account_pb2, entry_pb2, grant_pb2, plan_pb2, usage_pb2
from ownkey.ledger.v1 import verification_pb2 as verification

from client.ownkey_cli.choices import Choice, parsed
from client.ownkey_cli.command import NotGoodError, command
from client.ownkey_cli.progress import progress
from client.ownkey_cli.session import Session, full_name, new_request_id
from client.ownkey_cli.texts import parse_credits, parse_day, parse_time
from client.ownkey_cli.views.credits import (
    account_view,
    balance_view,
    entries_table,
    mode_view,
    plans_table,
)
from client.ownkey_cli.views.kek import violations_table
from client.ownkey_cli.views.usage import UsageBy, usage_view
from client.ownkey_client.paging import PAGE_SIZE_MAX

credits_ = typer.Typer(no_args_is_help=True, help="An account's credits.")
mode = typer.Typer(no_args_is_help=True, help="Who pays for an account's requests.")

From = Annotated[
    Any,
    typer.Option("--from", metavar="TIME", parser=parsed(parse_time), help="At or after, UTC."),
]
To = Annotated[
    Any, typer.Option("--to", metavar="TIME", parser=parsed(parse_time), help="Before, UTC.")
]


class Kind(Choice):
    """Where granted credits come from."""

    MONTHLY = auto()
    PURCHASED = auto()
    PROMOTIONAL = auto()


class Mode(Choice):
    """Who pays."""

    CREDITS = auto()
    OWN_KEY_FIRST = auto()
    OWN_KEY_ONLY = auto()


@command(credits_, "balance")
def balance(session: Session) -> None:
    """Show what an account owns."""
    request = grant_pb2.GetBalanceRequest(account=session.account)
    answer = session.call(session.ledger.GetBalance, request)
    session.out.answer(answer, lambda: balance_view(answer.balance))


@command(credits_, "grant")
def grant(
    session: Session,
    *,
    amount: Annotated[
        int, typer.Argument(metavar="CREDITS", parser=parsed(parse_credits), help="How many.")
    ],
    kind: Annotated[Kind, typer.Option(help="Where they come from.")] = Kind.PURCHASED,
    expires: Annotated[
        Any,
        typer.Option(metavar="TIME", parser=parsed(parse_time), help="When; never if left out."),
    ] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="For people.")] = "",
) -> None:
    """Add credits."""
    answer = session.call(
        session.ledger.GrantCredits,
        grant_pb2.GrantCreditsRequest(
            request_id=new_request_id(),
            account=session.account,
            kind=kind.of(grant_pb2.GrantKind),
            amount_nano_credits=amount,
            expire_time=expires,
            note=note,
        ),
    )
    session.out.answer(answer, lambda: balance_view(answer.balance))


@command(credits_, "adjust")
def adjust(
    session: Session,
    *,
    by: Annotated[
        int,
        typer.Option(
            metavar="CREDITS", parser=parsed(parse_credits), help="How many; -5 takes five away."
        ),
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the statement.")],
) -> None:
    """Correct the balance by hand."""
    answer = session.call(
        session.ledger.AdjustCredits,
        grant_pb2.AdjustCreditsRequest(
            request_id=new_request_id(),
            account=session.account,
            amount_nano_credits=by,
            reason=reason,
        ),
    )
    session.out.answer(answer, lambda: balance_view(answer.balance))


@command(mode, "show")
def show_mode(session: Session) -> None:
    """Show who pays, and when requests may fall back to credits."""
    request = account_pb2.GetAccountRequest(name=session.account)
    answer = session.call(session.ledger.GetAccount, request)
    session.out.answer(answer, lambda: account_view(answer.account))


@command(mode, "set")
def set_mode(
    session: Session, mode_name: Annotated[Mode, typer.Argument(metavar="MODE", help="Who pays.")]
) -> None:
    """Change who pays; own-key-only pauses credits with a receipt, leaving it proves it."""
    answer = session.call(
        session.ledger.SetBillingMode,
        account_pb2.SetBillingModeRequest(
            request_id=new_request_id(),
            account=session.account,
            billing_mode=mode_name.of(account_pb2.BillingMode),
        ),
    )
    session.out.answer(answer, lambda: mode_view(answer))
    if answer.HasField("proof") and not answer.proof.proven:
        raise NotGoodError


def usage(
    session: Session,
    *,
    by: Annotated[UsageBy, typer.Option(help="What to sum by.")] = UsageBy.DAY,
    start: Annotated[
        Any,
        typer.Option("--from", metavar="DAY", parser=parsed(parse_day), help="First UTC day."),
    ] = None,
    end: Annotated[
        Any,
        typer.Option(
            "--to", metavar="DAY", parser=parsed(parse_day), help="The day after the last."
        ),
    ] = None,
) -> None:
    """Sum what was settled, with a bar for who paid."""
    answer = session.pages(
        session.ledger.GetUsage,
        usage_pb2.GetUsageRequest(account=session.account, start_day=start, end_day=end),
        "rows",
    )
    session.out.answer(answer, lambda: usage_view(answer.rows, by))


def entries(
    session: Session,
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=PAGE_SIZE_MAX, help="Entries at most, the newest.")
    ] = 50,
    start: From = None,
    end: To = None,
) -> None:
    """List movements of credits, newest first; `ownkey statement export` has all."""
    answer = session.call(
        session.ledger.ListEntries,
        entry_pb2.ListEntriesRequest(
            parent=session.account, page_size=limit, start_time=start, end_time=end
        ),
    )
    session.out.answer(answer, lambda: entries_table(answer.entries))


def plans(session: Session) -> None:
    """List plans: what an account may do and what it pays."""
    answer = session.call(session.ledger.ListPlans, plan_pb2.ListPlansRequest())
    session.out.answer(answer, lambda: plans_table(answer.plans))


def verify(
    session: Session,
    *,
    only: Annotated[
        str, typer.Option(metavar="ACCOUNT", help="Verify this one; all if none.")
    ] = "",
) -> None:
    """Prove the ledger's invariants; ends with 1 if one does not hold. Operators only."""
    request = verification.VerifyLedgerRequest(account=full_name("accounts", only) if only else "")
    found: list[verification.Violation] = []
    last = verification.VerifyLedgerResponse()
    with progress(session.out, "Verifying") as shown:
        for last in session.stream(session.ledger.VerifyLedger, request):
            if session.out.as_json:
                session.out.line(last)
            found += last.violations
            shown(last.verified_account_count, last.account_count)
    if not session.out.as_json:
        if found:
            session.out.results.print(violations_table(found))
        session.out.results.print(
            f"Accounts verified: {last.verified_account_count:,} of {last.account_count:,}. "
            + (f"Faults: {last.violation_count:,}." if last.violation_count else "All holds.")
        )
    if last.violation_count or not last.done:
        raise NotGoodError
