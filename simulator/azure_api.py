# SPDX-License-Identifier: Apache-2.0
"""
The simulated Azure OpenAI and AI Foundry, under `/azure/{host}`.

Formats follow https://learn.microsoft.com/en-us/azure/foundry/openai/reference and recorded
answers. The host stands in the path as it would in the address. A key is bound to its resource:
that of `contoso.openai.azure.com` begins with `azure-contoso-`.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from simulator.api import (
    KEY_LENGTH_MIN,
    Generation,
    InvalidRequestError,
    Refusal,
    RefusalKind,
    json_response,
    sse,
)
from simulator.faults import HintForm
from simulator.openai_api import MODELS, OpenAIAPI
from simulator.openai_responses_api import OpenAIResponsesAPI
from simulator.tokens import Answer

__all__ = ["AzureAPI", "AzureResponsesAPI"]

_HOST = r"[a-z0-9-]+\.(?:openai\.azure|services\.ai\.azure|cognitiveservices\.azure)\.com"
_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(?:-preview)?")
_FILTERS = {
    name: {"filtered": False, "severity": "safe"}
    for name in ("hate", "self_harm", "sexual", "violence")
}
_PROMPT_FILTERS = [{"prompt_index": 0, "content_filter_results": _FILTERS}]


class AzureAPI(OpenAIAPI):
    """
    GET /openai/models, and chat completions under a deployment's address or in `v1`.
    """

    name = "azure"

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        base = f"/azure/{{host:{_HOST}}}"
        chat = "chat/completions"
        return [
            web.get(f"{base}/openai/models", self._deployable),
            web.get(f"{base}/openai/v1/models", self._deployable),
            web.post(f"{base}/openai/deployments/{{deployment}}/{chat}", self.generate),
            web.post(f"{base}/openai/v1/{chat}", self.generate),
            web.post(f"{base}/models/{chat}", self.generate),
            web.post(
                f"{base}/openai/deployments/{{deployment}}/images/generations", self.make_images
            ),
            web.post(f"{base}/openai/v1/images/generations", self.make_images),
            web.post(f"{base}/openai/deployments/{{deployment}}/images/edits", self.edit_images),
            web.post(f"{base}/openai/v1/images/edits", self.edit_images),
            web.post(f"{base}/openai/deployments/{{deployment}}/audio/speech", self.speak),
            web.post(f"{base}/openai/v1/audio/speech", self.speak),
        ]

    def key_of(self, request: web.Request) -> str:
        """
        Take the key out of `api-key`.
        """
        return request.headers.get("api-key", "")

    async def doubt(self, request: web.Request, key: str) -> str:
        """
        Hold the key against the resource in the address.
        """
        resource = request.match_info["host"].partition(".")[0]
        bound = key.startswith(f"azure-{resource}-") and len(key) >= KEY_LENGTH_MIN
        return "" if bound else "unknown"

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly; the address names the API's version, `v1` has none.
        """
        version = request.query.get("api-version", "")
        if "/v1/" not in request.path and not _API_VERSION.fullmatch(version):
            raise InvalidRequestError("Missing required query parameter: api-version")
        deployment = request.match_info.get("deployment")
        generation = super().read(request, body)
        if deployment not in (None, generation.prompt.model):
            raise InvalidRequestError("The simulator wants the deployment's name as the model.")
        return generation

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in Azure's words.
        """
        status, code, message = _REFUSALS[refusal.kind]
        headers = {"apim-request-id": "simulated"}
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            headers |= refusal.fault.headers(HintForm.SECONDS, now=self.now)
            message += refusal.fault.sentence(HintForm.SECONDS)
        message = message.format(detail=refusal.detail)
        error = {"code": code, "message": message}
        return json_response({"error": error}, status=status, headers=headers)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """
        return {**super().answer(answer), "prompt_filter_results": _PROMPT_FILTERS}

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:
        """
        Give a first chunk without choices, then OpenAI's.
        """
        first = {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": _PROMPT_FILTERS,
        }
        return [sse(first), *super().frames(answer, include_usage=include_usage)]

    async def _deployable(self, request: web.Request) -> web.StreamResponse:
        data = [{"id": model, "object": "model", "status": "succeeded"} for model in MODELS]
        return await self.free(request, {"object": "list", "data": data})


class AzureResponsesAPI(OpenAIResponsesAPI, AzureAPI):
    """
    POST /openai/v1/responses: Azure's keys and words, the format of OpenAI's Responses.
    """

    def routes(self) -> list[web.RouteDef]:
        """
        Give the API's address.
        """
        return [web.post(f"/azure/{{host:{_HOST}}}/openai/v1/responses", self.generate)]


_REFUSALS: dict[RefusalKind, tuple[int, str, str]] = {
    RefusalKind.MISSING_KEY: (
        401,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint.",
    ),
    RefusalKind.INVALID_KEY: (
        401,
        "401",
        (
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
            "provide a valid key for an active subscription and use a correct regional API "
            "endpoint for your resource."
        ),
    ),
    RefusalKind.NO_CREDIT: (
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    RefusalKind.RATE_LIMITED: (
        429,
        "RateLimitReached",
        "Your requests to this deployment have exceeded the call rate limit.",
    ),
    RefusalKind.FORBIDDEN: (
        403,
        "AccessDenied",
        "Access denied due to Virtual Network/Firewall rules.",
    ),
    RefusalKind.ERROR: (500, "InternalServerError", "Internal server error"),
    RefusalKind.OVERLOADED: (503, "ServiceUnavailable", "The service is temporarily unavailable."),
    RefusalKind.MODEL_NOT_FOUND: (
        404,
        "DeploymentNotFound",
        "The API deployment for this resource does not exist.",
    ),
    RefusalKind.INVALID_REQUEST: (400, "BadRequest", "{detail}"),
    RefusalKind.FILTERED: (400, "content_filter", "{detail}"),
}
