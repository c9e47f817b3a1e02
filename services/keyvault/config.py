# SPDX-License-Identifier: Apache-2.0
"""Keyvault's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.shared.config import (
    ConfigError,
    choice,
    existing_file,
    listen_address,
    load,
    seconds,
    setting,
    whole,
)
from services.shared.serving_config import ServingConfig

PREFIX = "OWNKEY_KEYVAULT_"
KEK_LOCAL = "local"
KEK_VAULT = "vault"
PROMOTIONS_ASK = "ask"
PROMOTIONS_TRUST = "trust"
LOGIN_APPROLE = "approle"
LOGIN_KUBERNETES = "kubernetes"

_FOR_LOGIN = {
    LOGIN_APPROLE: {
        "vault_role_id_file": "OWNKEY_KEYVAULT_VAULT_ROLE_ID_FILE",
        "vault_secret_id_file": "OWNKEY_KEYVAULT_VAULT_SECRET_ID_FILE",
    },
    LOGIN_KUBERNETES: {
        "vault_kubernetes_role": "OWNKEY_KEYVAULT_VAULT_KUBERNETES_ROLE",
        "vault_kubernetes_token_file": "OWNKEY_KEYVAULT_VAULT_KUBERNETES_TOKEN_FILE",
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyvaultConfig(ServingConfig):
    """How keyvault runs. Secrets are never values here: a setting names the file with one."""

    listen: str = setting(
        "OWNKEY_KEYVAULT_LISTEN",
        "address to serve on, host:port",
        default="127.0.0.1:7101",
        parse=listen_address,
    )
    policy_file: Path = setting(
        "OWNKEY_KEYVAULT_POLICY_FILE",
        "who may call what, YAML; read at start, a change needs a restart; the packaged one where "
        "unset",
        default=Path(__file__).parent / "policy.yaml",
        parse=existing_file,
    )
    database_dsn_file: Path = setting(
        "OWNKEY_KEYVAULT_DATABASE_DSN_FILE",
        "file with the DSN of keyvault's PostgreSQL database, mode 0600; off this machine it "
        "must say sslmode=verify-full and sslrootcert",
        parse=existing_file,
    )
    database_pool_size: int = setting(
        "OWNKEY_KEYVAULT_DATABASE_POOL_SIZE",
        "connections held at most, 2 to 100; more than the server's cores help little",
        default=10,
        parse=whole(2, 100),
    )
    promotions: str = setting(
        "OWNKEY_KEYVAULT_PROMOTIONS",
        "what a promoted standby is: ask (nothing is served until an operator accepts it, as after "
        "a restore), or trust, where every commit waits for the standby that is promoted",
        default=PROMOTIONS_ASK,
        parse=choice(PROMOTIONS_ASK, PROMOTIONS_TRUST),
    )
    fingerprint_key_file: Path = setting(
        "OWNKEY_KEYVAULT_FINGERPRINT_KEY_FILE",
        "file with the key of the keyed hashes, shared by all replicas; another key makes repeated "
        "requests look like new bodies",
        parse=existing_file,
    )
    router_address: str = setting(
        "OWNKEY_KEYVAULT_ROUTER_ADDRESS",
        "gRPC target of the router, which makes live tests",
        default="127.0.0.1:7102",
    )
    kek: str = setting(
        "OWNKEY_KEYVAULT_KEK",
        "what wraps data keys: local (a keyring file, one host) or vault",
        default=KEK_LOCAL,
        parse=choice(KEK_LOCAL, KEK_VAULT),
    )
    keyring_file: Path | None = setting(
        "OWNKEY_KEYVAULT_KEYRING_FILE",
        "the keyring of KEK=local, made where it is missing; back it up, nothing opens without it",
        default=None,
        parse=Path,
    )
    vault_address: str = setting(
        "OWNKEY_KEYVAULT_VAULT_ADDRESS", "Vault's address, https://host:port", default=""
    )
    vault_ca_file: Path | None = setting(
        "OWNKEY_KEYVAULT_VAULT_CA_FILE",
        "certificates that Vault's is checked against; the system's where unset",
        default=None,
        parse=existing_file,
    )
    vault_namespace: str = setting(
        "OWNKEY_KEYVAULT_VAULT_NAMESPACE", "Vault namespace, where there are any", default=""
    )
    vault_transit_mount: str = setting(
        "OWNKEY_KEYVAULT_VAULT_TRANSIT_MOUNT", "where Transit is mounted", default="transit"
    )
    vault_transit_key: str = setting(
        "OWNKEY_KEYVAULT_VAULT_TRANSIT_KEY",
        "name of the Transit key, derived and not exportable",
        default="ownkey",
    )
    vault_login: str = setting(
        "OWNKEY_KEYVAULT_VAULT_LOGIN",
        "how keyvault logs in to Vault: approle, or kubernetes by its service account",
        default=LOGIN_APPROLE,
        parse=choice(LOGIN_APPROLE, LOGIN_KUBERNETES),
    )
    vault_approle_mount: str = setting(
        "OWNKEY_KEYVAULT_VAULT_APPROLE_MOUNT", "where AppRole is mounted", default="approle"
    )
    vault_role_id_file: Path | None = setting(
        "OWNKEY_KEYVAULT_VAULT_ROLE_ID_FILE",
        "file with the AppRole role id, mode 0600",
        default=None,
        parse=existing_file,
    )
    vault_secret_id_file: Path | None = setting(
        "OWNKEY_KEYVAULT_VAULT_SECRET_ID_FILE",
        "file with the AppRole secret id, mode 0600; read anew at each login",
        default=None,
        parse=existing_file,
    )
    vault_kubernetes_mount: str = setting(
        "OWNKEY_KEYVAULT_VAULT_KUBERNETES_MOUNT",
        "where Kubernetes auth is mounted",
        default="kubernetes",
    )
    vault_kubernetes_role: str = setting(
        "OWNKEY_KEYVAULT_VAULT_KUBERNETES_ROLE",
        "Vault's role for keyvault's service account",
        default="",
    )
    vault_kubernetes_token_file: Path | None = setting(
        "OWNKEY_KEYVAULT_VAULT_KUBERNETES_TOKEN_FILE",
        "file with the projected service-account token, of the audience that the role demands; "
        "read anew at each login",
        default=None,
        parse=existing_file,
    )
    vault_call_seconds: float = setting(
        "OWNKEY_KEYVAULT_VAULT_CALL_SECONDS",
        "time a use of Vault may take, retries included, 0.1 to 30",
        default=2.0,
        parse=seconds(0.1, 30),
    )
    vault_connections: int = setting(
        "OWNKEY_KEYVAULT_VAULT_CONNECTIONS",
        "calls to Vault at once, 1 to 64",
        default=8,
        parse=whole(1, 64),
    )
    cache_seconds: float = setting(
        "OWNKEY_KEYVAULT_CACHE_SECONDS",
        "how long an unwrapped data key is kept, 0 to 3600; reads go on that long without the "
        "key-encryption key",
        default=300.0,
        parse=seconds(0, 3600),
    )
    cache_grace_seconds: float = setting(
        "OWNKEY_KEYVAULT_CACHE_GRACE_SECONDS",
        "how long before its end a data key in use is unwrapped anew behind the answers, 0 to 600; "
        "less than CACHE_SECONDS",
        default=30.0,
        parse=seconds(0, 600),
    )
    cache_keys: int = setting(
        "OWNKEY_KEYVAULT_CACHE_KEYS",
        "unwrapped data keys kept at most, 1 to 1000000",
        default=100_000,
        parse=whole(1, 1_000_000),
    )
    sealing_key_days: int = setting(
        "OWNKEY_KEYVAULT_SEALING_KEY_DAYS",
        "how long browsers seal with one sealing key before the next is made, 1 to 365",
        default=30,
        parse=whole(1, 365),
    )
    sealed_key_days: int = setting(
        "OWNKEY_KEYVAULT_SEALED_KEY_DAYS",
        "how much longer a sealing key opens what was sealed with it, 1 to 3650; a client-held "
        "key unused for so long must be entered again",
        default=365,
        parse=whole(1, 3650),
    )
    drain_seconds: float = setting(
        "OWNKEY_KEYVAULT_DRAIN_SECONDS",
        "how long running calls may go on after a stop was asked for, 0 to 3600",
        default=10.0,
        parse=seconds(0, 3600),
    )
    log_format: str = setting(
        "OWNKEY_KEYVAULT_LOG_FORMAT",
        "json, or console for people",
        default="json",
        parse=choice("json", "console"),
    )

    def check(self) -> None:
        """
        Check what single settings cannot show.

        Raises:
            ConfigError: With every problem found.
        """
        problems = []
        if self.kek == KEK_LOCAL and self.keyring_file is None:
            problems.append("OWNKEY_KEYVAULT_KEYRING_FILE is required when KEK is local")
        if self.kek == KEK_VAULT:
            problems += [
                f"{env} is required when KEK is vault"
                for name, env in {
                    "vault_address": "OWNKEY_KEYVAULT_VAULT_ADDRESS",
                    **_FOR_LOGIN[self.vault_login],
                }.items()
                if not getattr(self, name)
            ]
            if self.vault_address and not self.vault_address.startswith("https://"):
                problems.append(
                    "OWNKEY_KEYVAULT_VAULT_ADDRESS must begin with https://; data keys would cross "
                    "the network in clear"
                )
        # A cache that is off has no grace; one that is on must not refresh without end.
        if self.cache_seconds and self.cache_grace_seconds >= self.cache_seconds:
            problems.append(
                f"OWNKEY_KEYVAULT_CACHE_GRACE_SECONDS ({self.cache_grace_seconds:g}) must be less "
                f"than OWNKEY_KEYVAULT_CACHE_SECONDS ({self.cache_seconds:g})"
            )
        if problems:
            raise ConfigError(problems)


def read_config(environ: Mapping[str, str]) -> KeyvaultConfig:
    """
    Read the configuration.

    Raises:
        ConfigError: With every problem found.
    """
    config = load(KeyvaultConfig, environ, prefix=PREFIX)
    config.check()
    config.check_connections(
        PREFIX, listens={"LISTEN": config.listen}, peers={"ROUTER_ADDRESS": config.router_address}
    )
    return config
