# SPDX-License-Identifier: Apache-2.0
"""
Makes what the demo overlay lacks, and only that: each step looks first.

1. Certificates, as Secrets `<identity>-tls`. They end with their authority, after ninety days; to
   have new ones, delete those Secrets: all are made again, and the services take them up.
2. Passwords, DSNs and keys of keyed hashes, as Secrets `postgres-secrets` and `<service>-secrets`.
3. The databases.
4. Vault: initialised, unsealed and set up.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from client.ownkey_client.authority import AUTHORITY_DAYS, IDENTITIES, make_trial
from deploy.demo import databases, vault
from deploy.demo.cluster import ClusterError

SERVICES = ("keyvault", "router", "ledger")
POSTGRES_SECRET = "postgres-secrets"  # noqa: S105 - a Secret's name
TLS_SERVERS = ("postgres", "vault")
"""Others' programs that show a certificate; who calls them mounts the ConfigMap `<name>-ca`."""
_PASSWORD_BYTES = 24
_KEY_BYTES = 32


class Cluster(vault.Secrets, Protocol):
    """Where everything is kept."""

    @property
    def namespace(self) -> str:
        """The namespace of the demo."""

    @property
    def ca(self) -> str:
        """PEM certificates that the API server's own is checked against."""

    def put_config_map(self, name: str, data: dict[str, str]) -> None:
        """Makes a ConfigMap, or gives the one there is this content."""


def tls_secret(identity: str) -> str:
    """Returns the name of the Secret with an identity's certificate."""
    return f"{identity}-tls"


def service_secret(service: str) -> str:
    """Returns the name of the Secret with a service's DSN and key."""
    return f"{service}-secrets"


def keep_certificates(cluster: Cluster, *, now: dt.datetime) -> bool:
    """Issues all certificates where one is missing; tells whether it did."""
    identities = (*IDENTITIES, *TLS_SERVERS)
    if all(cluster.secret(tls_secret(identity)) for identity in identities):
        return False
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_trial(
            folder,
            now=now,
            lifetime=dt.timedelta(days=AUTHORITY_DAYS),
            identities=identities,
        )
        for identity in identities:
            content = {path.name: path.read_bytes() for path in (folder / identity).iterdir()}
            cluster.put_secret(tls_secret(identity), content)
        for server in TLS_SERVERS:
            cluster.put_config_map(f"{server}-ca", {"ca.crt": (folder / "ca.crt").read_text()})
    return True


def keep_passwords(cluster: Cluster) -> list[str]:
    """Makes the Secrets of PostgreSQL and the services that miss; returns their names."""
    made = []
    stored = cluster.secret(POSTGRES_SECRET)
    if stored is None:
        stored = {
            name: secrets.token_hex(_PASSWORD_BYTES).encode() for name in ("password", *SERVICES)
        }
        cluster.put_secret(POSTGRES_SECRET, stored)
        made.append(POSTGRES_SECRET)
    for service in SERVICES:
        if cluster.secret(service_secret(service)) is None:
            content = {
                "database-dsn": databases.dsn(service, password=stored[service].decode()).encode(),
                "fingerprint-key": secrets.token_hex(_KEY_BYTES).encode(),
            }
            cluster.put_secret(service_secret(service), content)
            made.append(service_secret(service))
    return made


async def keep_databases(
    cluster: Cluster,
    administrator_dsn: Callable[[str, Path], str] = databases.administrator_dsn,
) -> list[str]:
    """
    Makes the databases that miss; returns their names.

    Args:
        cluster: Holds the passwords.
        administrator_dsn: Gives the administrator's DSN for a password and the file with the
            authority of PostgreSQL's certificate.

    Raises:
        ClusterError: The API server is away, or the certificates are gone.
        DatabasesNotReadyError: PostgreSQL is away or refuses.
    """
    stored = cluster.secret(POSTGRES_SECRET)
    if stored is None:
        raise databases.DatabasesNotReadyError(f"the Secret {POSTGRES_SECRET} is gone")
    passwords = {service: stored[service].decode() for service in SERVICES}
    with _ca_file(cluster, "postgres") as ca_file:
        dsn = administrator_dsn(stored["password"].decode(), ca_file)
        return await databases.keep(dsn, passwords)


def keep_vault(cluster: Cluster, *, address: str = vault.ADDRESS) -> str:
    """
    Opens Vault and sets it up; returns what was done, in a word.

    Raises:
        ClusterError: The API server is away, or the certificates are gone.
        VaultNotReadyError: It is away, or what opens it is lost.
    """
    with _ca_file(cluster, "vault") as ca_file:
        return vault.keep(
            cluster,
            namespace=cluster.namespace,
            cluster_ca=cluster.ca,
            address=address,
            ca_file=ca_file,
        )


@contextmanager
def _ca_file(cluster: Cluster, server: str) -> Iterator[Path]:
    """Gives a file with the authority of a server's certificate, while the block runs."""
    stored = cluster.secret(tls_secret(server))
    if stored is None:
        raise ClusterError(f"the Secret {tls_secret(server)} is gone; the next round makes it anew")
    with TemporaryDirectory() as name:
        file = Path(name) / "ca.crt"
        file.write_bytes(stored["ca.crt"])
        yield file
