# SPDX-License-Identifier: Apache-2.0
"""
The state folder of a local suite: its layout, its version, its lock and the secrets made for it.

    version            the layout's number; a newer one is refused and nothing is touched
    kek                what wraps the keys: local or vault
    walked             the account that the walk was taken for, once it was
    lock               held by the one suite that uses the folder
    postgres/          the three databases
    keyring            the local key-encryption keys, or:
    vault/             a Vault server's store, certificates and unseal keys
    secrets/           0600: fingerprint keys, DSNs with passwords
    secrets/tokens/    0600: one token for each internal identity
    secrets/settings-link    0600: the link that opens the settings page next
    tls/               certificates of the parts and of callers, made anew at each start with TLS
    logs/              one log for each process
"""

from __future__ import annotations

import fcntl
import secrets
from pathlib import Path
from typing import IO, Literal, Self

from deploy.local.processes import LocalError

LAYOUT_VERSION = 1
IDENTITIES = ("keyvault", "operator", "router", "web")
SERVICES = ("keyvault", "ledger", "router")
_FINGERPRINT_KEY_BYTES = 32
_TOKEN_BYTES = 32
_PASSWORD_BYTES = 16

Kek = Literal["local", "vault"]


class StateFolder:
    """
    One suite's folder, locked while in use; a context manager.

    Args:
        path: The folder; made where it is missing.
        kek: What wraps the keys; a folder keeps what it was begun with.
    """

    def __init__(self, path: Path, *, kek: Kek) -> None:
        self.path = path.resolve()
        self.kek = kek
        self.logs = self.path / "logs"
        self.postgres = self.path / "postgres"
        self.vault = self.path / "vault"
        self.keyring = self.path / "keyring"
        self.tls = self.path / "tls"
        self.tokens = self.path / "secrets" / "tokens"
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """
        Takes the folder for this process and makes what is missing in it.

        Raises:
            LocalError: It is of a newer version, in use, another KEK's, or no state folder at all.
        """
        self._check_version()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self.close()
            raise LocalError(
                f"Another suite is running on {self.path}; stop it, or name another folder with "
                "STATE=<folder>."
            ) from exc
        try:
            self._check_kek()
        except LocalError:
            self.close()
            raise
        (self.path / "version").write_text(f"{LAYOUT_VERSION}\n")
        (self.path / "kek").write_text(f"{self.kek}\n")
        self.tokens.mkdir(mode=0o700, parents=True, exist_ok=True)
        for identity in IDENTITIES:
            self._make_secret(self.tokens / identity, secrets.token_urlsafe(_TOKEN_BYTES))
        for service in SERVICES:
            key = secrets.token_hex(_FINGERPRINT_KEY_BYTES)
            self._make_secret(self.fingerprint_key_file(service), key)

    def close(self) -> None:
        """Gives the folder free."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def fingerprint_key_file(self, service: str) -> Path:
        """The file with the service's key for keyed hashes."""
        return self.path / "secrets" / f"{service}.fingerprint-key"

    @property
    def settings_link_file(self) -> Path:
        """The file with the link that opens the settings page next."""
        return self.path / "secrets" / "settings-link"

    def dsn_file(self, service: str) -> Path:
        """The file with the DSN of the service's database."""
        return self.path / "secrets" / f"{service}.dsn"

    def database_password(self, service: str) -> str:
        """The password of the service's database role, made at the first call."""
        path = self.path / "secrets" / f"{service}.database-password"
        self._make_secret(path, secrets.token_hex(_PASSWORD_BYTES))
        return path.read_text().strip()

    def write_dsn(self, service: str, dsn: str) -> None:
        """Keeps the DSN of the service's database; it holds the password."""
        path = self.dsn_file(service)
        path.touch(mode=0o600)
        path.write_text(dsn + "\n")

    def token(self, identity: str) -> str:
        """The token by which an internal identity shows who it is."""
        return (self.tokens / identity).read_text().strip()

    @property
    def walked(self) -> str:
        """The account that the walk of `make run` was taken for; empty if it was not finished."""
        path = self.path / "walked"
        return path.read_text().strip() if path.exists() else ""

    def keep_walk(self, account: str) -> None:
        """Remembers that the walk was taken to its end."""
        (self.path / "walked").write_text(account + "\n")

    def _check_version(self) -> None:
        version_file = self.path / "version"
        if not version_file.exists():
            # A lock alone is what a start that was cut off at once leaves behind.
            if self.path.exists() and {entry.name for entry in self.path.iterdir()} - {"lock"}:
                raise LocalError(
                    f"{self.path} is not empty and was not made by Ownkey; name another folder "
                    "with STATE=<folder>."
                )
            return
        text = version_file.read_text().strip()
        if not text.isdecimal() or int(text) > LAYOUT_VERSION:
            raise LocalError(
                f"{self.path} was made by a newer Ownkey (layout {text}, this one knows "
                f"{LAYOUT_VERSION}) and was not touched; use that version, or name another "
                "folder with STATE=<folder>."
            )

    def _check_kek(self) -> None:
        kek_file = self.path / "kek"
        begun_with = kek_file.read_text().strip() if kek_file.exists() else self.kek
        if begun_with != self.kek:
            raise LocalError(
                f"The keys in {self.path} are wrapped by KEK={begun_with} and cannot be read with "
                f"KEK={self.kek}; start with KEK={begun_with}, or name another folder with "
                "STATE=<folder>."
            )

    @staticmethod
    def _make_secret(path: Path, text: str) -> None:
        if not path.exists():
            unfinished = path.with_name(f".{path.name}.new")
            unfinished.touch(mode=0o600)
            unfinished.write_text(text + "\n")
            unfinished.rename(path)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
