# SPDX-License-Identifier: Apache-2.0
"""
As much of a Kubernetes cluster as Vault's auth method sees: service-account tokens, and the API
that reviews them, on loopback.

See https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
"""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

NAMESPACE = "ownkey"
AUDIENCE = "vault"
API_AUDIENCE = "https://kubernetes.default.svc"
"""Who tokens are for that are shown to the API itself."""
REVIEWS_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"


@dataclass
class Cluster:
    """
    The cluster.

    Args:
        address: Where its API listens.
        reviewed: How many tokens it was asked about.
    """

    address: str = ""
    reviewed: int = 0
    _valid: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Name and uid of the service account, and the audience, by token."""

    def issue(self, service_account: str, audience: str = AUDIENCE) -> str:
        """Make a token of a service account for an audience, valid until it is revoked."""
        uid = str(uuid.uuid4())
        claims = {
            "iss": API_AUDIENCE,
            "sub": _username(service_account),
            "aud": [audience],
            "kubernetes.io": {
                "namespace": NAMESPACE,
                "serviceaccount": {"name": service_account, "uid": uid},
            },
        }
        head = {"alg": "RS256", "kid": "of-the-tests"}
        # Only the cluster can tell whether a token is real, so any signature does.
        parts = [json.dumps(head).encode(), json.dumps(claims).encode(), secrets.token_bytes(256)]
        token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
        self._valid[token] = (service_account, uid, audience)
        return token

    def revoke(self, token: str) -> None:
        """Refuse a token from now on."""
        del self._valid[token]

    async def review(self, request: web.Request) -> web.Response:
        """Answer whether a token is real, and whose; 401 to a bearer that is not for the API."""
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        *_, shown_to = self._valid.get(bearer, ("",))
        if shown_to != API_AUDIENCE:
            raise web.HTTPUnauthorized
        self.reviewed += 1
        asked: dict[str, Any] = await request.json()
        found = self._valid.get(asked["spec"]["token"])
        status: dict[str, Any] = {"authenticated": False, "error": "the token is not of this place"}
        if found is not None:
            service_account, uid, audience = found
            status = {
                "authenticated": True,
                "audiences": [audience],
                "user": {
                    "username": _username(service_account),
                    "uid": uid,
                    "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"],
                },
            }
        kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        return web.json_response({**kind, "spec": asked["spec"], "status": status}, status=201)


@asynccontextmanager
async def running_cluster() -> AsyncIterator[Cluster]:
    """A cluster's API on a free port of loopback."""
    cluster = Cluster()
    application = web.Application()
    application.router.add_post(REVIEWS_PATH, cluster.review)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    cluster.address = f"http://{host}:{port}"
    try:
        yield cluster
    finally:
        await runner.cleanup()


def _username(service_account: str) -> str:
    return f"system:serviceaccount:{NAMESPACE}:{service_account}"
