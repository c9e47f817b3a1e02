# SPDX-License-Identifier: Apache-2.0
"""
The address of a service's database: read from its file, and held to TLS off this machine.

A DSN is a URI, `postgresql://role:password@host/database?parameters`, with the parameters of
https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS. It holds a password, so
no sentence here shows more of it than a host and its `sslmode`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from services.shared.config import ConfigError, is_loopback, read_secret_file

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMES = ("postgresql", "postgres")
VERIFY_FULL = "verify-full"
_SOCKETS = ("/", "@")
"""What a folder of sockets, or a socket of Linux' abstract namespace, begins with."""


def read_dsn(path: Path) -> str:
    """
    Read the DSN of a database.

    Raises:
        ConfigError: If the file cannot be used, or the database would be spoken to in plain text,
            or unchecked, over a network.
    """
    dsn = read_secret_file(path).reveal()
    problem = _problem(dsn)
    if problem:
        raise ConfigError([f"the DSN in {path} {problem}"])
    return dsn


def _problem(dsn: str) -> str:
    """Return what is wrong with a DSN, as the end of a sentence; empty if nothing is."""
    parts = urlsplit(dsn)
    if parts.scheme not in SCHEMES:
        return "must have the form postgresql://role:password@host/database"
    parameters = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    hosts = list(_hosts(parts.netloc, parameters.get("host", "")))
    if not hosts:
        return "names no host; name it, or the folder of the server's socket by ?host=/folder"
    away = [host for host in hosts if not host.startswith(_SOCKETS) and not is_loopback(f"{host}:")]
    if not away:
        return ""
    mode = parameters.get("sslmode", "")
    if mode != VERIFY_FULL:
        return (
            f"names {away[0]}, which is not on this machine, with "
            f"{f'sslmode={mode}' if mode else 'no sslmode'}: passwords and all that is stored "
            "would cross the network in plain text, or to a server that nobody has checked; add "
            f"sslmode={VERIFY_FULL} and sslrootcert=<file> to it"
        )
    authority = parameters.get("sslrootcert", "")
    if not Path(authority).is_file():
        return (
            f"must name a PEM file with the authority of PostgreSQL's certificate as sslrootcert; "
            f"there is no file {authority or 'named'}"
        )
    return ""


def _hosts(netloc: str, parameter: str) -> Iterator[str]:
    """Give the hosts of the authority part and of the parameter `host`, without their ports."""
    for text in netloc.rpartition("@")[2].split(","):
        host = text if text.endswith("]") else text.rpartition(":")[0] or text.rstrip(":")
        if host:
            yield unquote(host)
    yield from filter(None, parameter.split(","))
