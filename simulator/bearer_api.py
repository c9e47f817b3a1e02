# SPDX-License-Identifier: Apache-2.0
"""
What the simulated providers share whose key is a bearer token, and whose JSON body names its model.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from simulator.api import InvalidRequestError, ProviderAPI

__all__ = ["BearerAPI", "bearer_key", "peek_json", "require_json"]


class BearerAPI(ProviderAPI):
    """
    A provider with `Authorization: Bearer` and models of its own.
    """

    models: tuple[str, ...]
    """Those that are served."""

    def key_of(self, request: web.Request) -> str:
        """
        Take the key out of `Authorization: Bearer`.
        """
        return bearer_key(request)

    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:  # noqa: ARG002 - shared
        """
        Give model and stream flag for the recording.
        """
        return peek_json(body)

    def knows(self, model: str) -> bool:
        """
        Tell whether a model is served.
        """
        return model in self.models


def bearer_key(request: web.Request) -> str:
    """
    Take the key out of `Authorization: Bearer`.
    """
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def require_json(request: web.Request) -> None:
    """
    Refuse a body that does not say it is JSON.

    Raises:
        InvalidRequestError: `Content-Type` is another.
    """
    if request.content_type != "application/json":
        raise InvalidRequestError("Unsupported Content-Type: expected 'application/json'")


def peek_json(body: bytes) -> tuple[str, bool]:
    """
    Give model and stream flag of a body, as far as it has any.
    """
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return "", False
    if not isinstance(value, dict):
        return "", False
    return str(value.get("model") or ""), value.get("stream") is True
