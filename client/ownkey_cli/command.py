# SPDX-License-Identifier: Apache-2.0
"""
Turns a function over a session into a command: common options in, failures out.

Every command takes the same options at its end, wherever in the tree it stands, and every failure
ends as a sentence on standard error and an exit code.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from client.ownkey_cli.exits import Exit, exit_of
from client.ownkey_cli.output import Output
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import Session
from client.ownkey_cli.views.failures import failure_document, failure_view
from client.ownkey_client.connection import AddressError, Addresses, Connection
from client.ownkey_client.failure import CallError
from services.shared.certificates import Material, TlsFiles, read_material
from services.shared.config import ConfigError

_PANEL = "Common options"
_Account = Annotated[
    str,
    typer.Option(
        "--account",
        envvar="OWNKEY_ACCOUNT",
        metavar="ACCOUNT",
        help="Account, by its id.",
        rich_help_panel=_PANEL,
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs.", rich_help_panel=_PANEL)]
_TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="OWNKEY_TOKEN_FILE",
        metavar="PATH",
        help="File with the token that shows who calls, for what only operators may do.",
        rich_help_panel=_PANEL,
    ),
]


def _tls_file(what: str, name: str) -> Any:
    option = typer.Option(
        f"--tls-{name}",
        envvar=f"OWNKEY_TLS_{name.upper()}_FILE",
        metavar="PATH",
        help=what,
        rich_help_panel=_PANEL,
    )
    return Annotated[Path | None, option]


def _address(service: str) -> Any:
    option = typer.Option(
        envvar=f"OWNKEY_{service.upper()}",
        metavar="HOST:PORT",
        help=f"Where the {service} listens.",
        rich_help_panel=_PANEL,
    )
    return Annotated[str, option]


_COMMON: dict[str, tuple[Any, Any]] = {
    "as_json": (_AsJson, False),
    "token_file": (_TokenFile, None),
    "tls_certificate": (_tls_file("Certificate that shows who calls, PEM.", "certificate"), None),
    "tls_key": (_tls_file("Its private key, PEM, mode 0600.", "key"), None),
    "tls_ca": (_tls_file("Authorities that services' certificates are of, PEM.", "ca"), None),
    "keyvault": (_address("keyvault"), "127.0.0.1:7101"),
    "router": (_address("router"), "127.0.0.1:7102"),
    "ledger": (_address("ledger"), "127.0.0.1:7103"),
}

Function = TypeVar("Function", bound=Callable[..., None])


class NotGoodError(Exception):
    """The command was carried out, and what it found, and has printed, is not good."""


def command(
    app: typer.Typer,
    name: str,
    *,
    of_account: bool = True,
    panel: str | None = None,
    context_settings: dict[str, Any] | None = None,
) -> Callable[[Function], Function]:
    """
    Make a function a command of `app`.

    Args:
        app: The group it belongs to.
        name: What people type.
        of_account: Whether it takes --account.
        panel: The part of the group's help it stands in.
        context_settings: As typer takes them.

    Returns:
        A decorator; the function's first parameter is its Session, the others are its own.
    """
    common = {"account": (_Account, ""), **_COMMON} if of_account else _COMMON

    def decorate(function: Function) -> Function:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in own] + [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            for key, (annotation, default) in common.items()
        ]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            shared = {key: values.pop(key) for key in common}
            _run(lambda session: function(session, **values), **shared)

        # Typer reads both to learn the options.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name, rich_help_panel=panel, context_settings=context_settings)(run)
        return function

    return decorate


def local_command(app: typer.Typer, name: str) -> Callable[[Function], Function]:
    """
    Make a function a command of `app` that calls no service.

    Args:
        app: The group it belongs to.
        name: What people type.

    Returns:
        A decorator; the function's first parameter is its Output, the others are its own.
    """

    def decorate(function: Function) -> Function:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        as_json = inspect.Parameter(
            "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_AsJson
        )

        @functools.wraps(function)
        def run(*, as_json: bool, **values: Any) -> None:
            out = Output(as_json=as_json)
            with _ended(out, {}):
                function(out, **values)

        # Typer reads both to learn the options.
        run.__signature__ = inspect.Signature([*own, as_json])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in (*own, as_json)}
        app.command(name)(run)
        return function

    return decorate


def _run(
    work: Callable[[Session], None],
    *,
    as_json: bool,
    token_file: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    keyvault: str,
    router: str,
    ledger: str,
    account: str = "",
) -> None:
    out = Output(as_json=as_json)
    with _ended(out, {"keyvault": keyvault, "router": router, "ledger": ledger}):
        material = _material(tls_certificate, tls_key, tls_ca)
        addresses = Addresses(
            keyvault=keyvault, router=router, ledger=ledger, encrypted=material is not None
        )
        with Connection(addresses, material) as connection:
            session = Session(
                out=out, connection=connection, token_file=token_file, account=account
            )
            try:
                work(session)
            finally:
                out.stdout.flush()


def _material(certificate: Path | None, key: Path | None, ca: Path | None) -> Material | None:
    """Read the certificate's files; None where none was named."""
    if certificate is None and key is None and ca is None:
        return None
    if certificate is None or key is None or ca is None:
        raise InputError("TLS needs all three: --tls-certificate, --tls-key and --tls-ca.")
    try:
        files = TlsFiles(certificate=certificate, key=key, ca=ca)
        return read_material(files, now=datetime.now(UTC))
    except ConfigError as exc:
        raise InputError(
            ". ".join(one[0].upper() + one[1:] for one in exc.problems) + "."
        ) from None


@contextmanager
def _ended(out: Output, addresses: dict[str, str]) -> Iterator[None]:
    """Whatever ends a command is told in a sentence and an exit code."""
    as_json = out.as_json
    try:
        yield
    except NotGoodError:
        raise typer.Exit(Exit.NOT_GOOD) from None
    except CallError as exc:
        _tell_failure(out, exc, addresses)
        raise typer.Exit(exit_of(exc.failure.code)) from None
    except (InputError, AddressError) as exc:
        if as_json:
            out.fault({"exit_code": Exit.USAGE, "message": str(exc)})
        else:
            out.note(("Not done. ", "bold red"), str(exc))
        raise typer.Exit(Exit.USAGE) from None
    except KeyboardInterrupt:
        out.note(("Interrupted.", "yellow"))
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        _drop_output()
        raise typer.Exit(Exit.PIPE_CLOSED) from None
    except OSError as exc:
        _drop_output()
        out.note(("The output cannot be written: ", "bold red"), exc.strerror or str(exc))
        raise typer.Exit(Exit.FAULT) from None


def _drop_output() -> None:
    """What is still buffered has nowhere to go; the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_failure(out: Output, error: CallError, addresses: dict[str, str]) -> None:
    failure = error.failure
    if out.as_json:
        out.fault(failure_document(failure, exit_of(failure.code)))
    else:
        out.stdout.flush()
        out.notes.print(failure_view(failure, addresses.get(failure.service, "")))
