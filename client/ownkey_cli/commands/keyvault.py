# SPDX-License-Identifier: Apache-2.0
"""`ownkey settings`, `audit`, `kek` and `rewrap`: the rest of what the keyvault answers."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from ownkey.keyvault.v1 import kek_pb2, key_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault

from client.ownkey_cli.command import NotGoodError, command
from client.ownkey_cli.progress import progress
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import Session, new_request_id
from client.ownkey_cli.views.kek import kek_view, rewrap_line
from client.ownkey_cli.views.keys import audit_table, settings_view
from client.ownkey_client.paging import PAGE_SIZE_MAX

settings = typer.Typer(no_args_is_help=True, help="Which of an account's keys are used.")
audit = typer.Typer(no_args_is_help=True, help="What was done to an account's keys.")
kek = typer.Typer(no_args_is_help=True, help="The key-encryption key. Operators only.")


@command(settings, "show")
def show_settings(session: Session) -> None:
    """Show an account's settings."""
    request = keyvault.GetSettingsRequest(name=f"{session.account}/settings")
    answer = session.call(session.keyvault.GetSettings, request)
    session.out.answer(answer, lambda: settings_view(answer.settings))


@command(settings, "set")
def set_settings(
    session: Session,
    *,
    active_provider: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER",
            help="Serves requests that name no model; empty for the first key's.",
        ),
    ] = None,
    use_backups: Annotated[
        bool | None, typer.Option(help="Whether keys that are not active serve in order.")
    ] = None,
) -> None:
    """Change an account's settings; what is left out stays."""
    changed, paths = key_pb2.Settings(name=f"{session.account}/settings"), []
    if active_provider is not None:
        changed.active_provider = active_provider
        paths.append("active_provider")
    if use_backups is not None:
        changed.use_backups = use_backups
        paths.append("use_backups")
    if not paths:
        raise InputError("Nothing to change was given: --active-provider, --[no-]use-backups.")
    answer = session.call(
        session.keyvault.UpdateSettings,
        keyvault.UpdateSettingsRequest(
            settings=changed, update_mask=FieldMask(paths=paths), request_id=new_request_id()
        ),
    )
    session.out.answer(answer, lambda: settings_view(answer.settings))


@command(audit, "list")
def list_audit(
    session: Session,
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=PAGE_SIZE_MAX, help="Entries at most, the newest.")
    ] = 50,
) -> None:
    """List what was done to an account's keys, newest first."""
    answer = session.call(
        session.keyvault.ListAuditEvents,
        keyvault.ListAuditEventsRequest(parent=session.account, page_size=limit),
    )
    session.out.answer(answer, lambda: audit_table(answer.audit_events))


@command(kek, "status", of_account=False)
def kek_status(session: Session) -> None:
    """Show where the key-encryption key stands; ends with 1 if it cannot be used now."""
    answer = session.call(session.keyvault.GetKekStatus, keyvault.GetKekStatusRequest())
    session.out.answer(answer, lambda: kek_view(answer.status))
    if not answer.status.available:
        raise NotGoodError


@command(kek, "rotate", of_account=False)
def kek_rotate(session: Session) -> None:
    """Make a new version, which wraps new keys; `ownkey rewrap` brings the stored ones to it."""
    answer = session.call(
        session.keyvault.RotateKek, keyvault.RotateKekRequest(request_id=new_request_id())
    )
    session.out.answer(answer, lambda: kek_view(answer.status))


def rewrap(
    session: Session,
    *,
    rate: Annotated[
        int, typer.Option(min=1, max=100_000, help="Records a second at most.")
    ] = 1_000,
    resume: Annotated[
        str, typer.Option(metavar="TOKEN", help="Go on where an interrupted run ended.")
    ] = "",
) -> None:
    """Wrap every stored key by the current version of the key-encryption key. Operators only."""
    request = keyvault.RewrapKeysRequest(resume_token=resume, records_per_second_max=rate)
    last = kek_pb2.RewrapProgress(resume_token=resume)
    try:
        with progress(session.out, "Rewrapping") as shown:
            for message in session.stream(session.keyvault.RewrapKeys, request):
                last = message.progress
                if session.out.as_json:
                    session.out.line(message)
                dealt = last.done_count + last.failed_count
                shown(dealt, dealt + last.remaining_count)
    except BaseException:
        if last.resume_token and not session.out.as_json:
            session.out.note("Go on with: ownkey rewrap --resume ", last.resume_token)
        raise
    if not session.out.as_json:
        session.out.results.print(rewrap_line(last))
    if last.failed_count:
        raise NotGoodError
