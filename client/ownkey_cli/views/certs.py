# SPDX-License-Identifier: Apache-2.0
"""Certificates for people: what each is for, and how long still."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from rich.console import RenderableType
from rich.text import Text

from client.ownkey_cli.views.tables import Cell, table
from services.shared.certificates import names_of

SOON = dt.timedelta(days=2)


def certificates_table(
    found: Iterable[tuple[Path, x509.Certificate]], *, now: dt.datetime
) -> RenderableType:
    """A row for each certificate with the file it stands in."""
    rows = [
        (
            str(file),
            _common_name(one.subject),
            "\n".join(names_of(one)),
            _common_name(one.issuer),
            _ends(one, now),
        )
        for file, one in found
    ]
    return table(("!FILE", "FOR", "NAMES", "?ISSUED BY", "ENDS"), rows, empty="No certificates.")


def _ends(certificate: x509.Certificate, now: dt.datetime) -> Cell:
    end = certificate.not_valid_after_utc
    when = f"{end:%Y-%m-%d %H:%M} UTC"
    if now > end:
        return Text(f"{when}, ended", style="bold red")
    if now < certificate.not_valid_before_utc:
        return Text(f"{when}, not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}")
    return Text(when, style="yellow" if end - now < SOON else "")


def _common_name(name: x509.Name) -> str:
    return ", ".join(str(part.value) for part in name)
