# SPDX-License-Identifier: Apache-2.0
"""
The Kubernetes API, as far as the keeper needs it: Secrets and ConfigMaps of its own namespace.

See https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

MOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's own token, namespace and the API server's CA."""
ADDRESS = "https://kubernetes.default.svc"
_TIMEOUT_SECONDS = 10


class ClusterError(Exception):
    """The API server refused something or is away; the message tells what and why."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """
    The API server, asked in the name of this pod.

    Args:
        address: Of the API server.
        mount: The folder with `token`, `namespace` and `ca.crt`; read at each call, the kubelet
            renews the token.
    """

    address: str = ADDRESS
    mount: Path = MOUNT

    @property
    def namespace(self) -> str:
        """The namespace of this pod."""
        return (self.mount / "namespace").read_text().strip()

    @property
    def ca(self) -> str:
        """PEM certificates that the API server's own is checked against."""
        return (self.mount / "ca.crt").read_text()

    def secret(self, name: str) -> dict[str, bytes] | None:
        """
        Returns what a Secret holds, or None where there is none.

        Raises:
            ClusterError: The API server did not tell.
        """
        found = self._call("GET", f"secrets/{name}", missing_is_none=True)
        if found is None:
            return None
        return {key: base64.b64decode(text) for key, text in found.get("data", {}).items()}

    def put_secret(self, name: str, data: dict[str, bytes]) -> None:
        """
        Makes a Secret, or gives the one there is this content.

        Raises:
            ClusterError: The API server did not take it.
        """
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self._put("Secret", "secrets", name, encoded)

    def put_config_map(self, name: str, data: dict[str, str]) -> None:
        """
        Makes a ConfigMap, or gives the one there is this content.

        Raises:
            ClusterError: The API server did not take it.
        """
        self._put("ConfigMap", "configmaps", name, data)

    def _put(self, kind: str, plural: str, name: str, data: dict[str, str]) -> None:
        body = {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "ownkey"}},
            "data": data,
        }
        if self._call("GET", f"{plural}/{name}", missing_is_none=True) is None:
            self._call("POST", plural, body)
        else:
            self._call("PUT", f"{plural}/{name}", body)

    def _call(
        self, verb: str, path: str, body: Any = None, *, missing_is_none: bool = False
    ) -> dict[str, Any] | None:
        try:
            reply = requests.request(
                verb,
                f"{self.address}/api/v1/namespaces/{self.namespace}/{path}",
                json=body,
                headers={"Authorization": f"Bearer {(self.mount / 'token').read_text().strip()}"},
                verify=str(self.mount / "ca.crt"),
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            # Only the kind of the fault: its text would hold the whole request.
            raise ClusterError(
                f"the API server cannot be reached at {self.address} ({type(exc).__name__})"
            ) from None
        if missing_is_none and reply.status_code == requests.codes.not_found:
            return None
        if not reply.ok:
            raise ClusterError(
                f"the API server refused {verb} {path} with status {reply.status_code}; the "
                "keeper's Role must allow get, create and update of Secrets and ConfigMaps"
            )
        found: dict[str, Any] = reply.json()
        return found
