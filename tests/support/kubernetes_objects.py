# SPDX-License-Identifier: Apache-2.0
"""
As much of the Kubernetes API as keeps Secrets and ConfigMaps, strict about both, on loopback.

See https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from client.ownkey_client.authority import Authority

NAMESPACE = "ownkey-demo"
KINDS = {"secrets": "Secret", "configmaps": "ConfigMap"}


class Objects(ThreadingHTTPServer):
    """
    The API server.

    Args:
        token: What callers must show.
    """

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.stored: dict[str, dict[str, Any]] = {}
        """Objects by path, `secrets/keyvault-tls` and so on."""
        self.writes: list[str] = []
        """Verb and path of each write, in order."""

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Objects

    def do_GET(self) -> None:
        """Give an object."""
        path = self._path()
        if path is None:
            return
        found = self.server.stored.get(path)
        self._answer(200 if found else 404, found or {"kind": "Status", "code": 404})

    def do_POST(self) -> None:
        """Make an object; one that is there already is a conflict."""
        plural = self._path()
        if plural is None:
            return
        body = self._body()
        path = f"{plural}/{body['metadata']['name']}"
        self._store(path, plural, body, status=409 if path in self.server.stored else 201)

    def do_PUT(self) -> None:
        """Give an object, which must be there, another content."""
        path = self._path()
        if path is None:
            return
        status = 200 if path in self.server.stored else 404
        self._store(path, path.partition("/")[0], self._body(), status=status)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base's name
        """Stay quiet."""

    def _path(self) -> str | None:
        """The path below the namespace, or None where the caller was refused."""
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, {"kind": "Status", "code": 401})
            return None
        before = f"/api/v1/namespaces/{NAMESPACE}/"
        if not self.path.startswith(before):
            self._answer(403, {"kind": "Status", "code": 403})
            return None
        return self.path.removeprefix(before)

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _store(self, path: str, plural: str, body: dict[str, Any], *, status: int) -> None:
        if body["kind"] != KINDS[plural] or body["apiVersion"] != "v1":
            status = 400
        elif plural == "secrets":
            for value in body["data"].values():
                base64.b64decode(value, validate=True)
        if status < 300:
            self.server.stored[path] = body
            self.server.writes.append(f"{self.command} {path}")
        self._answer(status, body)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def kubernetes_objects(mount: Path) -> Iterator[Objects]:
    """
    Serve it.

    Args:
        mount: Gets what the kubelet puts into a pod: token, namespace and CA.
    """
    (mount / "token").write_text("token-of-the-pod\n")
    (mount / "namespace").write_text(NAMESPACE)
    authority = Authority.new("cluster", now=dt.datetime.now(dt.UTC), lifetime=dt.timedelta(days=1))
    (mount / "ca.crt").write_bytes(authority.pem)
    with Objects("token-of-the-pod") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
