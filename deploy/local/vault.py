# SPDX-License-Identifier: Apache-2.0
"""
A real HashiCorp Vault server in a folder, set up as the keyvault service needs it: TLS, a store on
disk, initialised and unsealed, Transit with one derived key, AppRole and the least policy.

Its unseal keys lie beside it in a 0600 file, which is what makes it a server for one person's
machine and for tests: elsewhere people or another Vault hold them. See
https://developer.hashicorp.com/vault/docs/concepts/seal
"""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any, Literal, Self

import hvac
import hvac.exceptions
import requests

from deploy.local.certificates import files_in, write_loopback_certificate
from deploy.local.processes import Command, LocalError, Process, free_port

Storage = Literal["file", "raft"]
"""Where Vault keeps what it has: in files, which begins soonest, or as Vault's clusters do."""
TRANSIT_KEY = "ownkey"
TRANSIT_MOUNT = "transit"
ROLE = "keyvault"
_UNSEAL_SHARES = 3
_UNSEAL_THRESHOLD = 2
_TOKEN_TTL = "20m"  # noqa: S105 - a duration
_TOKEN_MAX_TTL = "1h"  # noqa: S105 - a duration
_CALL_TIMEOUT_SECONDS = 10
_POLICY_FILE = Path(__file__).parents[1] / "vault" / "keyvault-policy.hcl"


class LocalVault:
    """
    A Vault server of our own; a context manager.

    Args:
        folder: Gets the store, certificates, unseal keys and the service's login.
        log_folder: Gets `vault.log`.
        binary: The program, from `deploy.programs`.
        port: On loopback; a free one when 0, kept over restarts.
        storage: Where the store is; snapshots are taken of `raft` alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        log_folder: Path,
        binary: Path,
        port: int = 0,
        storage: Storage = "file",
    ) -> None:
        self.folder = folder.resolve()
        self._log_folder = log_folder
        self._binary = binary
        self._port = port or free_port()
        self._storage = storage
        self._process: Process | None = None
        self.address = f"https://127.0.0.1:{self._port}"
        self.ca_file = files_in(self.folder / "tls").ca
        self.role_id_file = self.folder / "role_id"
        self.secret_id_file = self.folder / "secret_id"
        self._init_file = self.folder / "init.json"

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """
        Starts the server, unseals it and brings its settings up to date.

        Raises:
            LocalError: It did not start, or its unseal keys are lost.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tls = write_loopback_certificate(
            self.folder / "tls",
            organisation="Ownkey Vault",
            now=dt.datetime.now(dt.UTC),
        )
        # See https://developer.hashicorp.com/vault/docs/configuration; JSON is HCL too.
        # For other servers of its cluster, of which there are none.
        cluster = f"127.0.0.1:{free_port()}"
        config = {
            "storage": self._storage_config(),
            "listener": {
                "tcp": {
                    "address": f"127.0.0.1:{self._port}",
                    "cluster_address": cluster,
                    "tls_cert_file": str(tls.certificate),
                    "tls_key_file": str(tls.key),
                    "tls_min_version": "tls13",
                }
            },
            "api_addr": self.address,
            "cluster_addr": f"https://{cluster}",
            "disable_mlock": True,
            "log_level": "warn",
        }
        config_file = self.folder / "config.json"
        config_file.write_text(json.dumps(config, indent=2) + "\n")
        self._process = Process(
            Command(
                name="vault",
                arguments=[str(self._binary), "server", f"-config={config_file}"],
            ),
            log_folder=self._log_folder,
        )
        self._process.start()
        self._process.wait_ready(self._answers)
        if not self._client().sys.is_initialized():
            self._initialise()
        self.unseal()
        self._configure()

    def _storage_config(self) -> dict[str, Any]:
        store = self.folder / "store"
        store.mkdir(exist_ok=True)
        if self._storage == "file":
            return {"file": {"path": str(store)}}
        # One server need not wait long for others before it leads.
        return {"raft": {"path": str(store), "node_id": "local", "performance_multiplier": 1}}

    def check(self) -> None:
        """
        Makes sure that the server runs.

        Raises:
            ProcessDiedError: It ended by itself.
        """
        if self._process is not None:
            self._process.check()

    def stop(self) -> None:
        """Stops the server; `start` brings it back with all its keys, at the same address."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def seal(self) -> None:
        """Seals the server: it goes on running and refuses every use of a key."""
        self.admin().sys.seal()

    def unseal(self) -> None:
        """
        Unseals the server with the keys beside it.

        Raises:
            LocalError: The keys are lost.
        """
        self._client().sys.submit_unseal_keys(self._init()["keys"][:_UNSEAL_THRESHOLD])
        assert self._process is not None
        self._process.wait_ready(self._is_active)

    def admin(self) -> Any:
        """A client that may do everything, for setting up and for tests."""
        return self._client(token=self._init()["root_token"])

    def _initialise(self) -> None:
        result = self._client().sys.initialize(
            secret_shares=_UNSEAL_SHARES, secret_threshold=_UNSEAL_THRESHOLD
        )
        _write_private(self._init_file, json.dumps(result) + "\n")

    def _configure(self) -> None:
        """Sets up what is missing; the policy is written each time, as it may have changed."""
        admin = self.admin()
        if f"{TRANSIT_MOUNT}/" not in admin.sys.list_mounted_secrets_engines()["data"]:
            admin.sys.enable_secrets_engine("transit", path=TRANSIT_MOUNT)
            admin.secrets.transit.create_key(
                TRANSIT_KEY, key_type="aes256-gcm96", derived=True, exportable=False
            )
            # Without this, encrypting under an unknown name would create a key of that name.
            admin.write_data(f"{TRANSIT_MOUNT}/config/keys", data={"disable_upsert": True})
        if "approle/" not in admin.sys.list_auth_methods()["data"]:
            admin.sys.enable_auth_method("approle")
        admin.sys.create_or_update_policy(ROLE, _POLICY_FILE.read_text())
        admin.auth.approle.create_or_update_approle(
            ROLE,
            token_policies=[ROLE],
            token_no_default_policy=True,
            token_ttl=_TOKEN_TTL,
            token_max_ttl=_TOKEN_MAX_TTL,
        )
        if not self.secret_id_file.exists():
            role_id = admin.auth.approle.read_role_id(ROLE)["data"]["role_id"]
            secret_id = admin.auth.approle.generate_secret_id(ROLE)["data"]["secret_id"]
            _write_private(self.role_id_file, role_id)
            _write_private(self.secret_id_file, secret_id)

    def _init(self) -> dict[str, Any]:
        try:
            stored: dict[str, Any] = json.loads(self._init_file.read_text())
        except FileNotFoundError as exc:
            raise LocalError(
                f"Vault's unseal keys, {self._init_file}, are gone; without them its store cannot "
                "be opened. Put the file back, or start anew with another state folder."
            ) from exc
        return stored

    def _client(self, token: str | None = None) -> Any:
        client = hvac.Client(
            url=self.address, verify=str(self.ca_file), timeout=_CALL_TIMEOUT_SECONDS, token=token
        )
        if token is None:
            client.token = None  # Whatever the person's own environment holds stays out of this.
        return client

    def _answers(self) -> bool:
        try:
            self._client().sys.read_seal_status()
        except (requests.RequestException, hvac.exceptions.VaultError):
            return False
        return True

    def _is_active(self) -> bool:
        status = self._client().sys.read_health_status(method="GET", standby_ok=False)
        return bool(getattr(status, "status_code", requests.codes.ok) == requests.codes.ok)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
