# SPDX-License-Identifier: Apache-2.0
"""Certificates of a local suite: for mutual TLS between its parts, and for its Vault."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

from client.ownkey_client.authority import Authority, loopback_names, make_trial
from services.shared.certificates import TlsFiles

_VAULT_LIFETIME = dt.timedelta(days=3650)
_SUITE_LIFETIME = dt.timedelta(days=30)
"""They are made anew at each start."""


def files_in(folder: Path) -> TlsFiles:
    """Name a certificate's three files in its folder."""
    return TlsFiles(certificate=folder / "tls.crt", key=folder / "tls.key", ca=folder / "ca.crt")


def write_suite_certificates(folder: Path, *, now: dt.datetime) -> None:
    """Make an authority and every identity's certificate, in the place of earlier ones."""
    shutil.rmtree(folder, ignore_errors=True)
    make_trial(folder, now=now, lifetime=_SUITE_LIFETIME)


def write_loopback_certificate(folder: Path, *, organisation: str, now: dt.datetime) -> TlsFiles:
    """
    Make a certificate for loopback and the authority that issued it, unless they are there.

    The authority's own key is never written: nothing else can be issued by it later.
    """
    files = files_in(folder)
    if not files.certificate.exists():
        authority = Authority.new(f"{organisation} local CA", now=now, lifetime=_VAULT_LIFETIME)
        authority.issue(
            folder,
            loopback_names(),
            common_name="localhost",
            now=now,
            lifetime=_VAULT_LIFETIME,
        )
    return files
