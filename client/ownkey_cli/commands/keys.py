# SPDX-License-Identifier: Apache-2.0
"""`ownkey keys`: store, look at, test, change and destroy an account's provider keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypeVar

import grpc
import typer
from google.protobuf.field_mask_pb2 import FieldMask
from ownkey.keyvault.v1 import key_pb2, live_test_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault

from client.ownkey_cli.choices import parsed
from client.ownkey_cli.command import NotGoodError, command
from client.ownkey_cli.secret_input import InputError, read_secret, refuse_arguments
from client.ownkey_cli.session import Session, new_request_id
from client.ownkey_cli.texts import parse_usd
from client.ownkey_cli.views.keys import key_view, keys_table, tested_view

OVERLAP_SECONDS_MAX = 7 * 24 * 3600

app = typer.Typer(no_args_is_help=True, help="An account's provider keys.")

_Key = Annotated[str, typer.Argument(metavar="KEY", help="Its id in the account, or its name.")]
_SecretFile = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="File with the secret, - for standard input. Left out, you are asked."
    ),
]
_StoreUnverified = Annotated[
    bool, typer.Option("--store-unverified", help="Store it also if the provider cannot be asked.")
]
_Label = Annotated[str | None, typer.Option(metavar="TEXT", help="For people.")]
_DefaultModel = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Serves requests that name none, as vendor/model."),
]
_AllowedModel = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="A model it may serve, as vendor/model; repeat it for more. All if none.",
    ),
]
_AlwaysUse = Annotated[
    bool | None, typer.Option(help="Whether requests it matches never fall back to credits.")
]
_Order = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Its place among the account's keys.")
]
_Asked = TypeVar(
    "_Asked", keyvault.ActivateKeyRequest, keyvault.EnableKeyRequest, keyvault.DisableKeyRequest
)
_Switched = TypeVar(
    "_Switched",
    keyvault.ActivateKeyResponse,
    keyvault.EnableKeyResponse,
    keyvault.DisableKeyResponse,
)
NO_LIMIT = "none"


def _limit(text: str) -> int | str:
    return NO_LIMIT if text == NO_LIMIT else parse_usd(text)


_MonthlyLimit = Annotated[
    int | None,
    typer.Option(
        metavar="USD",
        parser=parsed(_limit),
        help="What it may spend at the provider in a UTC month; `none` for no limit.",
    ),
]
# What stands behind the options is caught, so that a secret there is refused without an echo.
_CATCH_ARGUMENTS = {"allow_extra_args": True}


@command(app, "add", context_settings=_CATCH_ARGUMENTS)
def add(
    session: Session,
    *,
    context: typer.Context,
    provider: Annotated[
        str, typer.Option(metavar="PROVIDER", help="Its provider; `ownkey providers` lists them.")
    ],
    key_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="Its id; a random one if left out.")
    ] = "",
    secret_file: _SecretFile = None,
    store_unverified: _StoreUnverified = False,
    label: _Label = None,
    default_model: _DefaultModel = None,
    allowed_model: _AllowedModel = None,
    always_use: _AlwaysUse = None,
    order: _Order = None,
    monthly_limit: _MonthlyLimit = None,
) -> None:
    """Test a key live and store it, encrypted."""
    refuse_arguments(context.args)
    key, _ = _fields(
        label=label,
        default_model=default_model,
        allowed_models=allowed_model,
        always_use=always_use,
        order=order,
        monthly_limit_nano_usd=monthly_limit,
    )
    key.provider = provider
    answer = session.call(
        session.keyvault.CreateKey,
        keyvault.CreateKeyRequest(
            parent=session.account,
            key_id=key_id,
            key=key,
            secret=read_secret(secret_file, option="--secret-file"),
            store_unverified=store_unverified,
            request_id=new_request_id(),
        ),
    )
    session.out.answer(answer, lambda: tested_view(answer.key, answer.test, "stored"))


@command(app, "list")
def list_keys(
    session: Session,
    *,
    provider: Annotated[
        str, typer.Option(metavar="PROVIDER", help="Only keys of this provider.")
    ] = "",
) -> None:
    """List the keys in the order in which they are used."""
    answer = session.pages(
        session.keyvault.ListKeys,
        keyvault.ListKeysRequest(parent=session.account, provider=provider),
        "keys",
    )
    session.out.answer(answer, lambda: keys_table(answer.keys))


@command(app, "show")
def show(session: Session, key: _Key) -> None:
    """Show all about a key but its secret."""
    answer = session.call(session.keyvault.GetKey, keyvault.GetKeyRequest(name=session.key(key)))
    session.out.answer(answer, lambda: key_view(answer.key))


@command(app, "test")
def test(session: Session, key: _Key) -> None:
    """Test a key live at its provider; ends with 1 unless it is valid."""
    answer = session.call(session.keyvault.TestKey, keyvault.TestKeyRequest(name=session.key(key)))
    session.out.answer(answer, lambda: tested_view(answer.key, answer.test, "tested"))
    if answer.test.result != live_test_pb2.TEST_RESULT_VALID:
        raise NotGoodError


@command(app, "replace", context_settings=_CATCH_ARGUMENTS)
def replace(
    session: Session,
    *,
    context: typer.Context,
    key: _Key,
    secret_file: _SecretFile = None,
    store_unverified: _StoreUnverified = False,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=OVERLAP_SECONDS_MAX,
            help="How long the old secret stays for what was begun with it.",
        ),
    ] = None,
) -> None:
    """Give a key a new secret after a live test; without an overlap the old one goes at once."""
    refuse_arguments(context.args)
    answer = session.call(
        session.keyvault.ReplaceKey,
        keyvault.ReplaceKeyRequest(
            name=session.key(key),
            secret=read_secret(secret_file, option="--secret-file"),
            store_unverified=store_unverified,
            overlap_seconds=overlap,
            request_id=new_request_id(),
        ),
    )
    session.out.answer(answer, lambda: tested_view(answer.key, answer.test, "replaced"))


@command(app, "update")
def update(
    session: Session,
    *,
    key: _Key,
    label: _Label = None,
    default_model: _DefaultModel = None,
    allowed_model: _AllowedModel = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Let it serve all.")] = False,
    always_use: _AlwaysUse = None,
    order: _Order = None,
    monthly_limit: _MonthlyLimit = None,
) -> None:
    """Change a key's label, models, place or use; what is left out stays."""
    if any_model and allowed_model:
        raise InputError("--any-model and --allowed-model contradict each other; give one of them.")
    changed, paths = _fields(
        label=label,
        default_model=default_model,
        allowed_models=[] if any_model else allowed_model,
        always_use=always_use,
        order=order,
        monthly_limit_nano_usd=monthly_limit,
    )
    if not paths:
        raise InputError("Nothing to change was given; `ownkey keys update --help` lists options.")
    changed.name = session.key(key)
    answer = session.call(
        session.keyvault.UpdateKey,
        keyvault.UpdateKeyRequest(
            key=changed, update_mask=FieldMask(paths=paths), request_id=new_request_id()
        ),
    )
    session.out.answer(answer, lambda: key_view(answer.key))


@command(app, "activate")
def activate(session: Session, key: _Key) -> None:
    """Make a key its provider's active one; the others are backups."""
    _switch(session, session.keyvault.ActivateKey, keyvault.ActivateKeyRequest, key)


@command(app, "enable")
def enable(session: Session, key: _Key) -> None:
    """Switch a key on."""
    _switch(session, session.keyvault.EnableKey, keyvault.EnableKeyRequest, key)


@command(app, "disable")
def disable(session: Session, key: _Key) -> None:
    """Switch a key off without losing anything."""
    _switch(session, session.keyvault.DisableKey, keyvault.DisableKeyRequest, key)


@command(app, "delete")
def delete(
    session: Session,
    *,
    key: _Key,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Destroy a key and its secrets; the audit trail stays."""
    request = keyvault.DeleteKeyRequest(name=session.key(key), request_id=new_request_id())
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("There is no terminal to ask at; --yes deletes without a question.")
        found = session.call(session.keyvault.GetKey, keyvault.GetKeyRequest(name=request.name))
        # What is confirmed is what was shown: a key that changed meanwhile is not deleted.
        request.etag = found.key.etag
        session.out.notes.print(keys_table([found.key]))
        typer.confirm("Destroy this key and its secrets for good?", abort=True, err=True)
    answer = session.call(session.keyvault.DeleteKey, request)
    if session.out.as_json:
        session.out.document({"deleted": request.name})
    else:
        assert not answer.ByteSize()
        session.out.note(("Deleted ", "bold"), request.name)


def _switch(
    session: Session,
    method: grpc.UnaryUnaryMultiCallable[_Asked, _Switched],
    asked: type[_Asked],
    key: str,
) -> None:
    answer = session.call(method, asked(name=session.key(key), request_id=new_request_id()))
    session.out.answer(answer, lambda: keys_table([answer.key]))


def _fields(
    **given: str | int | list[str] | None,
) -> tuple[key_pb2.Key, list[str]]:
    """A key with what was given, by its fields' names, and those names."""
    key, paths = key_pb2.Key(), []
    for field, value in given.items():
        if value is None:
            continue
        paths.append(field)
        if isinstance(value, list):
            key.allowed_models.extend(value)
        elif (field, value) != ("monthly_limit_nano_usd", NO_LIMIT):
            setattr(key, field, value)
    return key, paths
