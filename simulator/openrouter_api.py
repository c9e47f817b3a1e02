# SPDX-License-Identifier: Apache-2.0
"""
The simulated OpenRouter, under `/openrouter/api/v1`.

Error bodies follow https://openrouter.ai/docs/api/errors . Stricter than the real one in one
point: it refuses unknown fields, where OpenRouter drops them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from simulator.api import (
    Generation,
    InvalidRequestError,
    Refusal,
    RefusalKind,
    json_response,
    sse,
)
from simulator.bearer_api import BearerAPI, require_json
from simulator.chat_format import RouterBody, chunks, completion, prompt_of, usage_of
from simulator.faults import HintForm
from simulator.gemini_api import MODELS as GEMINI_MODELS
from simulator.openai_api import MODELS as OPENAI_MODELS
from simulator.tokens import Answer, pieces

__all__ = ["COST_NANO_USD_PER_TOKEN", "OpenRouterAPI"]

MODELS = (
    *(f"openai/{model}" for model in OPENAI_MODELS),
    *(f"google/{model}" for model in GEMINI_MODELS),
    "anthropic/claude-3-haiku",
    "anthropic/claude-haiku-4.5",
    "anthropic/claude-sonnet-4.5",
    "anthropic/claude-sonnet-4.6",
    "anthropic/claude-opus-4.6",
    "deepseek/deepseek-chat",
    "meta-llama/llama-3.1-8b-instruct",
)
COST_NANO_USD_PER_TOKEN = 1_000
"""What every token costs here, input and output alike, in the `cost` of the usage."""

_PROCESSING = b": OPENROUTER PROCESSING\n\n"
_CREATED = 1_767_225_600


class OpenRouterAPI(BearerAPI):
    """
    GET /api/v1/key, GET /api/v1/models and POST /api/v1/chat/completions.
    """

    name = "openrouter"
    models = MODELS
    key_prefixes = ("sk-or-v1-",)

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        return [
            web.get("/openrouter/api/v1/key", self._key),
            web.get("/openrouter/api/v1/models", self._models),
            web.post("/openrouter/api/v1/chat/completions", self.generate),
        ]

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.
        """
        require_json(request)
        try:
            read = msgspec.json.decode(body, type=RouterBody)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(str(error)) from error
        if not read.messages:
            raise InvalidRequestError('Input required: specify "prompt" or "messages"')
        thinks = read.reasoning is not None and read.reasoning.enabled
        return Generation(prompt=prompt_of(read, thinks=thinks), stream=read.stream)

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in OpenRouter's words.
        """
        status, message, metadata = _REFUSALS[refusal.kind]
        headers: dict[str, str] = {}
        metadata = dict(metadata)
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            fault = refusal.fault
            headers = fault.headers(HintForm.SECONDS, now=self.now)
            message += fault.sentence(HintForm.SECONDS)
            if fault.form(HintForm.SECONDS) is HintForm.BODY:
                reset_ms = int((self.now.timestamp() + fault.wait) * 1000)
                metadata["headers"] = {
                    "X-RateLimit-Limit": "20",
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": str(reset_ms),
                }
        error: dict[str, Any] = {
            "message": message.format(model=refusal.model, detail=refusal.detail),
            "code": status,
        }
        if metadata:
            error["metadata"] = metadata
        return json_response(
            {"error": error, "user_id": "user_simulated"}, status=status, headers=headers
        )

    def broken_answer(self) -> web.Response:
        """
        Say that the work failed: status 200, the error in the body, and blanks before it.
        """
        body = msgspec.json.encode({"error": _UPSTREAM_ERROR})
        return web.Response(body=b"\n         \n" + body, content_type="application/json")

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """
        body = completion(answer, _head(answer), _usage(answer))
        choice = body["choices"][0]
        choice["native_finish_reason"] = choice["finish_reason"]
        choice["message"]["reasoning"] = None
        return body

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:  # noqa: ARG002 - always
        """
        Give comments, the chunks, a usage chunk that repeats an empty choice, and `[DONE]`.
        """
        bodies = chunks(answer, _head(answer), pieces(answer.text))
        for body in bodies:
            choice = body["choices"][0]
            choice["native_finish_reason"] = choice["finish_reason"]
        last = {**bodies[-1], "usage": _usage(answer)}
        last["choices"] = [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": ""},
                "finish_reason": None,
                "native_finish_reason": None,
            }
        ]
        return [_PROCESSING, *(sse(body) for body in [*bodies, last]), b"data: [DONE]\n\n"]

    def error_frame(self) -> bytes:
        """
        Give an upstream's failure as it comes inside a stream.
        """
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        return sse(
            {
                "id": "gen-simulated",
                "object": "chat.completion.chunk",
                "created": _CREATED,
                "error": _UPSTREAM_ERROR,
                "choices": [choice],
            }
        )

    async def _key(self, request: web.Request) -> web.StreamResponse:
        data = {
            "label": "sk-or-v1-sim...ted",
            "limit": None,
            "limit_remaining": None,
            "limit_reset": None,
            "usage": 0,
            "is_free_tier": False,
            "is_management_key": False,
        }
        return await self.free(request, {"data": data})

    async def _models(self, request: web.Request) -> web.Response:
        del request
        return json_response({"data": [{"id": model, "name": model} for model in MODELS]})


_UPSTREAM_ERROR = {
    "code": 502,
    "message": "Provider returned error",
    "metadata": {"provider_name": "Simulated", "raw": "upstream connect error"},
}

_REFUSALS: dict[RefusalKind, tuple[int, str, dict[str, Any]]] = {
    RefusalKind.MISSING_KEY: (401, "Missing Authentication header", {}),
    RefusalKind.INVALID_KEY: (401, "User not found.", {}),
    RefusalKind.NO_CREDIT: (
        402,
        "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
        {"limit_source": "openrouter_credits"},
    ),
    RefusalKind.RATE_LIMITED: (429, "Rate limit exceeded: requests per minute.", {}),
    RefusalKind.FORBIDDEN: (403, "This key is not permitted to make this request.", {}),
    RefusalKind.ERROR: (500, "Internal Server Error", {}),
    RefusalKind.OVERLOADED: (503, "No instances available. The model is at capacity.", {}),
    RefusalKind.MODEL_NOT_FOUND: (400, "{model} is not a valid model ID", {}),
    RefusalKind.INVALID_REQUEST: (400, "{detail}", {}),
}


def _head(answer: Answer) -> dict[str, Any]:
    return {
        "id": "gen-simulated",
        "created": _CREATED,
        "model": answer.model,
        "provider": "Simulated",
    }


def _usage(answer: Answer) -> dict[str, Any]:
    usage = usage_of(answer)
    usage["cost"] = usage["total_tokens"] * COST_NANO_USD_PER_TOKEN / 1_000_000_000
    usage["is_byok"] = False
    usage["prompt_tokens_details"]["cache_write_tokens"] = 0
    return usage
