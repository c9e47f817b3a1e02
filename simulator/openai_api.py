# SPDX-License-Identifier: Apache-2.0
"""
The simulated OpenAI, under `/openai/v1`.

Error bodies follow https://developers.openai.com/docs/guides/error-codes and recorded answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from simulator.api import (
    Generation,
    InvalidRequestError,
    Production,
    Refusal,
    RefusalKind,
    json_response,
    sse,
)
from simulator.bearer_api import BearerAPI, require_json
from simulator.chat_format import ChatBody, chunks, completion, prompt_of, usage_of
from simulator.faults import HintForm
from simulator.openai_media import (
    IMAGE_MODELS,
    SPEECH_MODELS,
    read_edit,
    read_image,
    read_speech,
)
from simulator.tokens import Answer, pieces

__all__ = ["MODELS", "RESPONSES_MODELS", "OpenAIAPI"]

MODELS = (
    "gpt-4o-mini",
    "gpt-4o",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-5.1",
    "gpt-5.2",
    "o3",
    "o3-mini",
    "o4-mini",
)
RESPONSES_MODELS = ("o1-pro", "o3-pro", "gpt-5-pro", "gpt-5-codex")
"""Served by Responses alone."""
_REASONING = re.compile(r"o\d|gpt-5")
_CREATED = 1_767_225_600
_STOP_SEQUENCES_MAX = 4
_ORGANIZATION = "organization"


class OpenAIAPI(BearerAPI):
    """
    GET /v1/models and POST /v1/chat/completions.
    """

    name = "openai"
    models: tuple[str, ...] = (*MODELS, *IMAGE_MODELS, *SPEECH_MODELS)
    key_prefixes = ("sk-",)
    foreign_prefixes = ("sk-or-", "sk-ant-")

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        return [
            web.get("/openai/v1/models", self._models),
            web.post("/openai/v1/chat/completions", self.generate),
            web.post("/openai/v1/images/generations", self.make_images),
            web.post("/openai/v1/images/edits", self.edit_images),
            web.post("/openai/v1/audio/speech", self.speak),
        ]

    async def make_images(self, request: web.Request) -> web.StreamResponse:
        """
        Answer a request for images.
        """
        return await self._make(request, read_image)

    async def edit_images(self, request: web.Request) -> web.StreamResponse:
        """
        Answer a request for images made from images.
        """
        form = await request.post()
        data: dict[str, Any] = {name: value for name, value in form.items() if name != "image[]"}
        data["image[]"] = form.getall("image[]", [])
        return await self.produce(request, str(data.get("model", "")), data, read_edit)

    async def speak(self, request: web.Request) -> web.StreamResponse:
        """
        Answer a request for speech.
        """
        return await self._make(request, read_speech)

    async def _make(
        self, request: web.Request, read: Callable[[Mapping[str, Any]], Production]
    ) -> web.StreamResponse:
        body = await request.read()

        def strictly(data: Mapping[str, Any]) -> Production:
            require_json(request)
            return read(data)

        try:
            data = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            data = {}
        return await self.produce(request, str(data.get("model", "")), data, strictly)

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.
        """
        require_json(request)
        try:
            read = msgspec.json.decode(body, type=ChatBody)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(str(error)) from error
        reasoning = bool(_REASONING.match(read.model))
        if not read.messages:
            raise InvalidRequestError("Invalid 'messages': empty array. Expected minimum length 1.")
        if isinstance(read.stop, list) and len(read.stop) > _STOP_SEQUENCES_MAX:
            raise InvalidRequestError("Invalid 'stop': array too long. Expected maximum length 4.")
        if read.stream_options is not None and not read.stream:
            raise InvalidRequestError(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            )
        if reasoning:
            self._check_reasoning(read)
        elif read.reasoning_effort is not None:
            raise InvalidRequestError("Unrecognized request argument supplied: reasoning_effort")
        return Generation(
            prompt=prompt_of(read, thinks=reasoning and read.reasoning_effort != "none"),
            stream=read.stream,
            include_usage=read.stream_options is not None and read.stream_options.include_usage,
        )

    def _check_reasoning(self, body: ChatBody) -> None:
        """
        Refuse what reasoning models refuse.
        """
        if body.max_tokens is not None:
            raise InvalidRequestError(
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
        if body.stop is not None:
            raise InvalidRequestError(
                "Unsupported parameter: 'stop' is not supported with this model."
            )
        thinking = body.reasoning_effort != "none"
        for name, value in (("temperature", body.temperature), ("top_p", body.top_p)):
            if thinking and value not in (None, 1):
                raise InvalidRequestError(
                    f"Unsupported value: '{name}' does not support {value} with this model. "
                    "Only the default (1) value is supported."
                )

    async def doubt(self, request: web.Request, key: str) -> str:
        """
        Say what is wrong with a request's credential: a key belongs to no organization here.
        """
        named = request.headers.get("OpenAI-Organization")
        return await super().doubt(request, key) or ("" if named is None else _ORGANIZATION)

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in OpenAI's words.
        """
        status, kind, code, message = _REFUSALS[refusal.kind]
        if refusal.detail == _ORGANIZATION:
            code, message = "invalid_organization", "No such organization."
        headers: dict[str, str] = {}
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            headers = refusal.fault.headers(HintForm.TEXT, now=self.now)
            message += refusal.fault.sentence(HintForm.TEXT)
        scope = "model.request" if refusal.generation else "api.model.read"
        message = message.format(model=refusal.model, detail=refusal.detail, scope=scope)
        error = {"message": message, "type": kind, "param": None, "code": code}
        return json_response({"error": error}, status=status, headers=headers)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """
        return completion(answer, _head(answer), usage_of(answer))

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:
        """
        Give the chunks, the usage chunk if it was asked for, and `[DONE]`.
        """
        bodies = chunks(answer, _head(answer), pieces(answer.text))
        if include_usage:
            bodies = [{**body, "usage": None} for body in bodies]
            last = {**_head(answer), "object": "chat.completion.chunk", "choices": []}
            bodies.append({**last, "usage": usage_of(answer)})
        return [*(sse(body) for body in bodies), b"data: [DONE]\n\n"]

    def error_frame(self) -> bytes:
        """
        Give a server error as it comes inside a stream.
        """
        message = "The server had an error while processing your request. Sorry about that!"
        error = {"message": message, "type": "server_error", "param": None, "code": None}
        return sse({"error": error})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        data = [
            {"id": model, "object": "model", "created": _CREATED, "owned_by": "system"}
            for model in (*MODELS, *RESPONSES_MODELS)
        ]
        return await self.free(request, {"object": "list", "data": data})


_REFUSALS: dict[RefusalKind, tuple[int, str, str | None, str]] = {
    RefusalKind.MISSING_KEY: (
        401,
        "invalid_request_error",
        None,
        (
            "You didn't provide an API key. You need to provide your API key in an Authorization "
            "header using Bearer auth."
        ),
    ),
    RefusalKind.INVALID_KEY: (
        401,
        "invalid_request_error",
        "invalid_api_key",
        (
            "Incorrect API key provided: sk-****. You can find your API key at "
            "https://platform.openai.com/account/api-keys."
        ),
    ),
    RefusalKind.NO_CREDIT: (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    RefusalKind.RATE_LIMITED: (
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for requests per min (RPM): Limit 3, Used 3, Requested 1.",
    ),
    RefusalKind.FORBIDDEN: (
        403,
        "invalid_request_error",
        None,
        (
            "You have insufficient permissions for this operation. Missing scopes: {scope}. Check "
            "that you have the correct role in your organization and project."
        ),
    ),
    RefusalKind.ERROR: (
        500,
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
    RefusalKind.OVERLOADED: (
        503,
        "service_unavailable_error",
        "server_is_overloaded",
        "The engine is currently overloaded, please try again later.",
    ),
    RefusalKind.MODEL_NOT_FOUND: (
        404,
        "invalid_request_error",
        "model_not_found",
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    RefusalKind.INVALID_REQUEST: (400, "invalid_request_error", None, "{detail}"),
    RefusalKind.FILTERED: (400, "image_generation_user_error", "moderation_blocked", "{detail}"),
}


def _head(answer: Answer) -> dict[str, Any]:
    return {
        "id": "chatcmpl-simulated",
        "created": _CREATED,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }
