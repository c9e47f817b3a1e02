# SPDX-License-Identifier: Apache-2.0
"""`ownkey certs`: certificates for trials, made and looked at on this machine; nobody is called."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from client.ownkey_cli.command import local_command
from client.ownkey_cli.output import Output
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.views.certs import certificates_table
from client.ownkey_client.authority import AuthorityError, make_trial, renew_trial
from services.shared.certificates import names_of

DAYS_DEFAULT = 7
DAYS_MAX = 30

app = typer.Typer(no_args_is_help=True, help="Certificates for trials of mutual TLS.")

_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where they are kept.")]
_Days = Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="Days they are valid.")]


@local_command(app, "init")
def init(
    out: Output,
    *,
    folder: _Folder,
    days: _Days = DAYS_DEFAULT,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="DNS", help="A further DNS name of the services; repeatable."),
    ] = None,
) -> None:
    """Make a local authority and a certificate for each identity; nothing is overwritten."""
    try:
        make_trial(
            folder, now=dt.datetime.now(dt.UTC), lifetime=dt.timedelta(days=days), names=name or ()
        )
    except (AuthorityError, OSError, ValueError) as exc:
        raise _not_done(folder, exc) from None
    _tell(out, folder)


@local_command(app, "renew")
def renew(out: Output, *, folder: _Folder, days: _Days = DAYS_DEFAULT) -> None:
    """Issue every certificate of a folder anew; running services take it without a restart."""
    try:
        renew_trial(folder, now=dt.datetime.now(dt.UTC), lifetime=dt.timedelta(days=days))
    except (AuthorityError, OSError, ValueError) as exc:
        raise _not_done(folder, exc) from None
    _tell(out, folder)


@local_command(app, "show")
def show(
    out: Output,
    *,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A folder of certificates, or one PEM file.")
    ],
) -> None:
    """Show what certificates are for, who issued them and when they end."""
    _tell(out, path)


def _tell(out: Output, path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    found = [(file, certificate) for file in _files(path) for certificate in _read(file)]
    if not found:
        raise InputError(f"{path} holds no certificate (*.crt, *.pem); name another.")
    if out.as_json:
        out.document({"certificates": [_document(file, one) for file, one in found]})
    else:
        out.results.print(certificates_table(found, now=now))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # The authority stands once beside its key; its copies are left out.
    own = [path / "ca.crt"] if (path / "ca.crt").exists() else []
    others = sorted(file for kind in ("*.crt", "*.pem") for file in path.rglob(kind))
    return own + [file for file in others if file.name != "ca.crt"]


def _read(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as exc:
        raise InputError(f"{file} cannot be read ({exc.strerror}); name a readable file.") from None
    except ValueError:
        raise InputError(f"{file} holds no certificate in PEM form; name one that does.") from None


def _document(file: Path, certificate: x509.Certificate) -> dict[str, object]:
    return {
        "file": str(file),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": list(names_of(certificate)),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }


def _not_done(folder: Path, exc: Exception) -> InputError:
    if isinstance(exc, OSError):
        return InputError(f"{folder} cannot be written ({exc.strerror}); name another folder.")
    return InputError(str(exc))
