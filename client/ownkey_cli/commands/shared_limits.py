# SPDX-License-Identifier: Apache-2.0
"""`ownkey shared-limits`: how much of the product's own keys all routers together may use."""

from __future__ import annotations

from typing import Annotated

import typer
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault
from ownkey.keyvault.v1 import sharing_pb2

from client.ownkey_cli.command import command
from client.ownkey_cli.output import as_dict
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import Session, full_name
from client.ownkey_cli.views.shared_limits import limits_table
from client.ownkey_client.paging import PAGE_SIZE_MAX

PLATFORM = "accounts/platform"

app = typer.Typer(no_args_is_help=True, help="Limits of the shared keys. Operators only.")


@command(app, "show", of_account=False)
def show(session: Session) -> None:
    """List the shared keys with their limits and what is in use."""
    _show(session)


@command(app, "set", of_account=False)
def set_limit(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The shared key's id.")],
    *,
    per_minute: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=1, help="Requests that may begin in any minute."),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Lift the limit.")] = False,
) -> None:
    """Limit a shared key at all routers together; it counts within five seconds."""
    if (per_minute is not None) is none:
        raise InputError("Say either --per-minute NUMBER or --none.")
    name = full_name(f"{PLATFORM}/keys", key)
    session.call(
        session.keyvault.SetSharedLimit,
        sharing_pb2.SetSharedLimitRequest(key=name, requests_per_minute=per_minute),
    )
    _show(session, name)


def _show(session: Session, name: str = "") -> None:
    listed = session.pages(
        session.keyvault.ListKeys,
        keyvault.ListKeysRequest(parent=PLATFORM, page_size=PAGE_SIZE_MAX),
        "keys",
    )
    limits = [
        (
            key,
            session.call(
                session.keyvault.GetSharedLimit, sharing_pb2.GetSharedLimitRequest(key=key.name)
            ),
        )
        for key in listed.keys
        if not name or key.name == name
    ]
    if session.out.as_json:
        document = [{"key": key.name, **as_dict(limit)} for key, limit in limits]
        session.out.document({"shared_limits": document})
    else:
        session.out.results.print(limits_table(limits))
