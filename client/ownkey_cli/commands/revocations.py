# SPDX-License-Identifier: Apache-2.0
"""`ownkey revocations`: what keeps a restored database from reviving a revoked key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from ownkey.keyvault.v1 import restoring_pb2

from client.ownkey_cli.command import NotGoodError, command
from client.ownkey_cli.output import as_dict
from client.ownkey_cli.revocations_file import append_pages, read_pages
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import Session
from client.ownkey_cli.views.revocations import status_view

app = typer.Typer(
    no_args_is_help=True,
    help="What was revoked, kept apart from the backups. Operators only.",
)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Where they are kept.")]


@command(app, "status", of_account=False)
def status(session: Session) -> None:
    """Show whether the keyvault's database serves; ends with 1 if not."""
    answer = session.call(
        session.keyvault.GetRestoreStatus, restoring_pb2.GetRestoreStatusRequest()
    )
    session.out.answer(answer, lambda: status_view(answer.status))
    if not answer.status.serving:
        raise NotGoodError


@command(app, "export", of_account=False)
def export(session: Session, *, file: _File) -> None:
    """Add to a file what was revoked since its last line; run it often."""
    last = restoring_pb2.RevocationsPage()
    for page in read_pages(file):
        last = page
    request = restoring_pb2.ExportRevocationsRequest(
        after_sequence=last.through_sequence,
        database=last.database if last.through_sequence else "",
    )
    answers = session.stream(session.keyvault.ExportRevocations, request)
    count = append_pages(file, (answer.page for answer in answers))
    if session.out.as_json:
        session.out.document({"file": str(file), "revocations": count})
    else:
        session.out.note(f"Added {count:,} revocations to {file}")


@command(app, "replay", of_account=False)
def replay(session: Session, *, file: _File) -> None:
    """Revoke again, in a restored database, what a file says; then let it serve."""
    revoked, through = 0, None
    for page in read_pages(file):
        answer = session.call(
            session.keyvault.ReplayRevocations, restoring_pb2.ReplayRevocationsRequest(page=page)
        )
        revoked += answer.revoked_count
        through = answer.status.through_sequence
    if through is None:
        raise InputError(f"{file} holds no page of revocations; name an exported file.")
    accepted = session.call(
        session.keyvault.AcceptRestore,
        restoring_pb2.AcceptRestoreRequest(replayed_through_sequence=through),
    )
    if session.out.as_json:
        session.out.document({"revoked_count": revoked, "status": as_dict(accepted.status)})
    else:
        session.out.note(f"Keys that the backup held live and are revoked now: {revoked:,}")
        session.out.results.print(status_view(accepted.status))


@command(app, "accept", of_account=False)
def accept(
    session: Session,
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="Your name, for the audit trail.")],
) -> None:
    """Let a restored database serve without a replay: what was revoked since serves again."""
    answer = session.call(
        session.keyvault.AcceptRestore, restoring_pb2.AcceptRestoreRequest(accepted_by=name)
    )
    session.out.answer(answer, lambda: status_view(answer.status))
