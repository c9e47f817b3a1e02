# SPDX-License-Identifier: Apache-2.0
"""
The demo's Vault: initialised once, unsealed whenever it is sealed, set up as keyvault needs it.

The unseal key lies in a Secret beside it. That is what makes it a demo: elsewhere people or a
cloud's key service hold it, see https://developer.hashicorp.com/vault/docs/concepts/seal
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import hvac
import hvac.exceptions
import requests

ADDRESS = "https://vault:8200"
SECRET = "vault-unseal"  # noqa: S105 - a Secret's name
TRANSIT_MOUNT = "transit"
TRANSIT_KEY = "ownkey"
ROLE = "ownkey-keyvault"
AUDIENCE = "vault"
OPEN = "open"
_POLICY = "keyvault"
_POLICY_FILE = Path(__file__).parents[1] / "vault" / "keyvault-policy.hcl"
_TOKEN_TTL = "20m"  # noqa: S105 - a duration
_CALL_TIMEOUT_SECONDS = 10


class Secrets(Protocol):
    """Where what opens Vault is kept."""

    def secret(self, name: str) -> dict[str, bytes] | None:
        """Returns what a Secret holds, or None where there is none."""

    def put_secret(self, name: str, data: dict[str, bytes]) -> None:
        """Makes a Secret, or gives the one there is this content."""


class VaultNotReadyError(Exception):
    """Vault is away or cannot be opened yet; the message tells why."""


def keep(secrets: Secrets, *, namespace: str, cluster_ca: str, address: str, ca_file: Path) -> str:
    """
    Opens Vault and brings its settings up to date.

    Args:
        secrets: Where what opens it is kept.
        namespace: Of the service account that may log in as keyvault.
        cluster_ca: PEM certificates that the API server's is checked against, by Vault.
        address: Vault's.
        ca_file: Certificates that Vault's is checked against.

    Returns:
        What was done, in a word: `initialised`, `unsealed`, or `OPEN` where nothing had to be.

    Raises:
        VaultNotReadyError: It is away, or what opens it is lost.
    """
    client = hvac.Client(url=address, verify=str(ca_file), timeout=_CALL_TIMEOUT_SECONDS)
    client.token = None  # Whatever the environment holds stays out of this.
    try:
        return _keep(client, secrets, namespace, cluster_ca)
    except requests.RequestException as exc:
        raise VaultNotReadyError(f"Vault at {address}: {type(exc).__name__}") from None
    except hvac.exceptions.VaultError as exc:
        # What was asked for, without Vault's own text, which may quote it.
        asked = f"{exc.method} {exc.url}"
        raise VaultNotReadyError(f"Vault refused {asked}: {type(exc).__name__}") from None


def _keep(client: Any, secrets: Secrets, namespace: str, cluster_ca: str) -> str:
    done = OPEN
    if not client.sys.is_initialized():
        made = client.sys.initialize(secret_shares=1, secret_threshold=1)
        secrets.put_secret(SECRET, {"init.json": json.dumps(made).encode()})
        done = "initialised"
    stored = secrets.secret(SECRET)
    if stored is None:
        raise VaultNotReadyError(
            f"the Secret {SECRET}, which opens Vault, is gone: put it back, or begin anew by "
            "deleting the namespace"
        )
    opened = json.loads(stored["init.json"])
    if client.sys.is_sealed():
        client.sys.submit_unseal_keys(opened["keys"])
        done = "unsealed" if done == OPEN else done
    client.token = opened["root_token"]
    _configure(client, namespace, cluster_ca)
    return done


def _configure(admin: Any, namespace: str, cluster_ca: str) -> None:
    if f"{TRANSIT_MOUNT}/" not in admin.sys.list_mounted_secrets_engines()["data"]:
        admin.sys.enable_secrets_engine("transit", path=TRANSIT_MOUNT)
    # Both are no more than a look where they were done before.
    admin.secrets.transit.create_key(
        TRANSIT_KEY, key_type="aes256-gcm96", derived=True, exportable=False
    )
    admin.write_data(f"{TRANSIT_MOUNT}/config/keys", data={"disable_upsert": True})
    if "kubernetes/" not in admin.sys.list_auth_methods()["data"]:
        admin.sys.enable_auth_method("kubernetes")
    # Vault's own pod: it reviews tokens with its own, which the kubelet renews.
    admin.write_data(
        "auth/kubernetes/config",
        data={
            "kubernetes_host": "https://kubernetes.default.svc",
            "kubernetes_ca_cert": cluster_ca,
        },
    )
    admin.sys.create_or_update_policy(_POLICY, _POLICY_FILE.read_text())
    admin.write_data(
        f"auth/kubernetes/role/{ROLE}",
        data={
            "bound_service_account_names": ["keyvault"],
            "bound_service_account_namespaces": [namespace],
            "audience": AUDIENCE,
            "token_policies": [_POLICY],
            "token_no_default_policy": True,
            "token_ttl": _TOKEN_TTL,
        },
    )
