# SPDX-License-Identifier: Apache-2.0
"""
The simulator's web application: ten providers under their prefixes, and the control API.
"""

from __future__ import annotations

import re

import msgspec
from aiohttp import web

from simulator.anthropic_api import AnthropicAPI
from simulator.api import Settings, json_response
from simulator.azure_api import AzureAPI, AzureResponsesAPI
from simulator.bedrock_api import BedrockAPI
from simulator.control import Control
from simulator.deepseek_api import DeepSeekAPI
from simulator.faults import parse_fault
from simulator.gemini_api import GeminiAPI
from simulator.openai_api import OpenAIAPI
from simulator.openai_responses_api import OpenAIResponsesAPI
from simulator.openrouter_api import OpenRouterAPI
from simulator.replicate_api import ReplicateAPI
from simulator.stability_api import StabilityAPI
from simulator.vertex_api import VertexAPI

__all__ = ["BODY_BYTES_MAX", "build_app"]

BODY_BYTES_MAX = 32 * 1024 * 1024
"""The largest request; that of the largest providers."""

_APIS = (
    OpenAIAPI,
    OpenAIResponsesAPI,
    OpenRouterAPI,
    AnthropicAPI,
    GeminiAPI,
    AzureAPI,
    AzureResponsesAPI,
    BedrockAPI,
    VertexAPI,
    DeepSeekAPI,
    ReplicateAPI,
    StabilityAPI,
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _SetFault(msgspec.Struct, forbid_unknown_fields=True):
    fault: str
    """As it stands in a key, e.g. `ratelimited-seconds3`; empty to clear."""
    count: int | None = None
    """How many requests it hits; all where left out."""


def build_app(settings: Settings) -> web.Application:
    """
    Give the application; it keeps no state but that of its control API.
    """
    control = Control()
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    for api in _APIS:
        app.add_routes(api(control, settings).routes())
    app.add_routes(_control_routes(control))
    return app


def _control_routes(control: Control) -> list[web.RouteDef]:
    async def set_fault(request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        if not _DIGEST.fullmatch(digest):
            return _bad("the address ends with the SHA-256 of a key, 64 hexadecimal digits")
        try:
            wanted = msgspec.json.decode(await request.read(), type=_SetFault)
            if not wanted.fault:
                control.clear_fault(digest)
            else:
                control.set_fault(digest, parse_fault(wanted.fault), wanted.count)
        except ValueError as error:
            return _bad(str(error))
        return web.Response(status=204)

    async def clear_fault(request: web.Request) -> web.Response:
        control.clear_fault(request.match_info["digest"])
        return web.Response(status=204)

    async def list_requests(request: web.Request) -> web.Response:
        del request
        return json_response({"requests": control.records()})

    async def tell_health(request: web.Request) -> web.Response:
        del request
        return web.Response(text="serving\n")

    async def forget_requests(request: web.Request) -> web.Response:
        del request
        control.forget()
        return web.Response(status=204)

    return [
        web.get("/healthz", tell_health),
        web.post("/control/keys/{digest}", set_fault),
        web.delete("/control/keys/{digest}", clear_fault),
        web.get("/control/requests", list_requests),
        web.delete("/control/requests", forget_requests),
    ]


def _bad(message: str) -> web.Response:
    return json_response({"error": message}, status=400)
