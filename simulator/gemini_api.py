# SPDX-License-Identifier: Apache-2.0
"""
The simulated Gemini API, under `/gemini/v1beta`.

Formats follow https://ai.google.dev/api/generate-content , errors
https://ai.google.dev/gemini-api/docs/troubleshooting and recorded answers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from aiohttp import web

from simulator.api import (
    Generation,
    InvalidRequestError,
    Production,
    ProviderAPI,
    Refusal,
    RefusalKind,
    json_response,
    sse,
)
from simulator.bearer_api import require_json
from simulator.faults import HintForm, fault_in_model
from simulator.media import image, image_bytes
from simulator.tokens import Answer, Finish, Prompt, pieces
from simulator.veo import gemini_video_routes

__all__ = ["IMAGE_MODELS", "GeminiAPI", "draws", "read_drawing"]

MODELS = (
    "gemini-3.1-flash-lite",
    "gemini-3-flash",
    "gemini-3-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-2.5-pro",
    "gemini-2.0-flash",
)
IMAGE_MODELS = ("gemini-2.5-flash-image", "gemini-3.1-flash-image")
_STREAM = "streamGenerateContent"
_WHOLE = "generateContent"
_STOP_SEQUENCES_MAX = 5


class _Blob(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    mime_type: str
    data: str


class _FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    args: dict[str, Any] = {}
    id: str = ""


class _FunctionResponse(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    response: dict[str, Any]
    id: str = ""


class _Part(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    text: str | None = None
    inline_data: _Blob | None = None
    function_call: _FunctionCall | None = None
    function_response: _FunctionResponse | None = None
    thought: bool = False
    thought_signature: str = ""


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[_Part]
    role: Literal["user", "model"] = "user"


class _Thinking(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    include_thoughts: bool = False
    thinking_budget: int | None = None
    thinking_level: Literal["minimal", "low", "medium", "high"] | None = None


class _ImageConfig(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    aspect_ratio: Literal[
        "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"
    ] = "1:1"
    image_size: Literal["1K", "2K", "4K"] = "1K"


class _Config(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop_sequences: list[str] = []
    response_mime_type: str = "text/plain"
    response_json_schema: dict[str, Any] | None = None
    response_schema: dict[str, Any] | None = None
    thinking_config: _Thinking | None = None
    response_modalities: list[Literal["TEXT", "IMAGE"]] = []
    image_config: _ImageConfig | None = None


class _Declaration(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class _Tool(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    function_declarations: list[_Declaration] = []


class _Calling(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    mode: Literal["AUTO", "ANY", "NONE", "VALIDATED"] = "AUTO"
    allowed_function_names: list[str] = []


class _ToolConfig(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    function_calling_config: _Calling | None = None


class _Safety(msgspec.Struct, forbid_unknown_fields=True):
    category: str
    threshold: str


class _Body(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    contents: list[_Content]
    system_instruction: _Content | None = None
    generation_config: _Config = msgspec.field(default_factory=_Config)
    tools: list[_Tool] = []
    tool_config: _ToolConfig | None = None
    safety_settings: list[_Safety] = []


class GeminiAPI(ProviderAPI):
    """
    GET models, POST models/{model}:generateContent and :streamGenerateContent.
    """

    name = "gemini"
    key_prefixes = ("AIza", "AQ.")

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        return [
            web.get("/gemini/v1beta/models", self._models),
            web.post(f"/gemini/v1beta/models/{{model}}:{{method:{_WHOLE}|{_STREAM}}}", self._serve),
            *gemini_video_routes(self, seconds=self._settings.job_seconds),
        ]

    def key_of(self, request: web.Request) -> str:
        """
        Take the key out of `x-goog-api-key`.
        """
        return request.headers.get("x-goog-api-key", "")

    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:  # noqa: ARG002 - shared
        """
        Give model and stream flag, which stand in the address.
        """
        return request.match_info["model"], request.match_info["method"] == _STREAM

    def knows(self, model: str) -> bool:
        """
        Tell whether a model is served.
        """
        return model in (*MODELS, *IMAGE_MODELS)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not draws(request):
            return await self.generate(request)
        body = await request.read()

        def read(data: Mapping[str, Any]) -> Production:
            del data
            require_json(request)
            return read_drawing(request, body)

        return await self.produce(request, request.match_info["model"], {}, read)

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.
        """
        require_json(request)
        model, stream = self.peek(request, body)
        if stream and request.query.get("alt") != "sse":
            raise InvalidRequestError("The simulator streams with alt=sse only.")
        try:
            read = msgspec.json.decode(body, type=_Body)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(f"Invalid JSON payload received. {error}") from error
        config = read.generation_config
        if not read.contents:
            raise InvalidRequestError(
                "* GenerateContentRequest.contents: contents is not specified"
            )
        if len(config.stop_sequences) > _STOP_SEQUENCES_MAX:
            raise InvalidRequestError("The number of stop sequences is limited to 5.")
        _check_thinking(model, config.thinking_config)
        return Generation(prompt=_prompt(model, read), stream=stream)

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in Google's words.
        """
        status, state, message, reason = _REFUSALS[refusal.kind]
        details: list[dict[str, Any]] = []
        headers: dict[str, str] = {}
        if reason:
            details.append(
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": reason,
                    "domain": "googleapis.com",
                }
            )
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            fault = refusal.fault
            headers = fault.headers(HintForm.BODY, now=self.now)
            message += fault.sentence(HintForm.BODY)
            details.append(
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [
                        {
                            "quotaId": "GenerateRequestsPerMinutePerProjectPerModel",
                            "quotaValue": "10",
                        }
                    ],
                }
            )
            if fault.form(HintForm.BODY) is HintForm.BODY:
                details.append(
                    {
                        "@type": "type.googleapis.com/google.rpc.RetryInfo",
                        "retryDelay": f"{fault.wait}s",
                    }
                )
        message = message.format(model=refusal.model, detail=refusal.detail)
        error: dict[str, Any] = {"code": status, "message": message, "status": state}
        if details:
            error["details"] = details
        return json_response({"error": error}, status=status, headers=headers)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body; a filtered one has no candidate.
        """
        if answer.finish is Finish.FILTERED:
            return {"promptFeedback": {"blockReason": "SAFETY"}, **_tail(answer)}
        return {"candidates": [_candidate(_parts(answer), answer)], **_tail(answer)}

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:  # noqa: ARG002 - always
        """
        Give the pieces, CRLF between them, usage repeated in each, and no end marker.
        """
        if answer.finish is Finish.FILTERED:
            return [sse(self.answer(answer), end="\r\n\r\n")]
        whole = (
            [_parts(answer)]
            if answer.tool_name
            else [[{"text": piece}] for piece in pieces(answer.text)]
        )
        bodies = [
            {"candidates": [_candidate(parts, None)], **_tail(answer, so_far=index + 1)}
            for index, parts in enumerate(whole)
        ]
        last = {"candidates": [_candidate([{"text": ""}], answer)], **_tail(answer)}
        return [sse(body, end="\r\n\r\n") for body in [*bodies, last]]

    def error_frame(self) -> bytes:
        """
        Give an overload as it comes inside a stream.
        """
        _, state, message, _ = _REFUSALS[RefusalKind.OVERLOADED]
        error = {"code": 503, "message": message, "status": state}
        return sse({"error": error}, end="\r\n\r\n")

    async def _models(self, request: web.Request) -> web.StreamResponse:
        models = [
            {
                "name": f"models/{model}",
                "displayName": model,
                "supportedGenerationMethods": ["generateContent", "countTokens"],
            }
            for model in MODELS
        ]
        return await self.free(request, {"models": models})


def draws(request: web.Request) -> bool:
    """
    Tell whether a request is to a model that makes images.
    """
    return fault_in_model(request.match_info["model"])[0] in IMAGE_MODELS


def read_drawing(request: web.Request, body: bytes) -> Production:
    """
    Read a request for an image strictly, and draw it.

    Raises:
        InvalidRequestError: Google would refuse it.
    """
    model = fault_in_model(request.match_info["model"])[0]
    try:
        read = msgspec.json.decode(body, type=_Body)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"Invalid JSON payload received. {error}") from error
    config = read.generation_config
    if request.match_info["method"] != _WHOLE or "IMAGE" not in config.response_modalities:
        raise InvalidRequestError("The simulator draws by generateContent with IMAGE only.")
    shape = config.image_config or _ImageConfig()
    if shape.image_size != "1K" and model.startswith("gemini-2.5"):
        raise InvalidRequestError("imageSize is not supported for this model.")
    prompt = _prompt(model, read)
    tokens = _IMAGE_TOKENS[model, shape.image_size]
    data = base64.b64encode(image("image/png", size=image_bytes("medium"))).decode()
    parts = [{"inlineData": {"mimeType": "image/png", "data": data}}]
    tail = {
        "usageMetadata": {
            "promptTokenCount": prompt.input_tokens,
            "candidatesTokenCount": tokens,
            "totalTokenCount": prompt.input_tokens + tokens,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": tokens}],
        },
        "modelVersion": model,
        "responseId": "simulated0001",
    }
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}
    empty = {"content": {"role": "model"}, "finishReason": "STOP", "index": 0}
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, **tail}
    return Production(
        content_type="application/json",
        body=msgspec.json.encode({"candidates": [candidate], **tail}),
        empty=msgspec.json.encode({"candidates": [empty], **tail}),
        blurred=msgspec.json.encode(blocked),
    )


_IMAGE_TOKENS = {
    # https://ai.google.dev/gemini-api/docs/image-generation
    ("gemini-2.5-flash-image", "1K"): 1290,
    ("gemini-3.1-flash-image", "1K"): 1120,
    ("gemini-3.1-flash-image", "2K"): 1680,
    ("gemini-3.1-flash-image", "4K"): 2520,
}
_REFUSALS: dict[RefusalKind, tuple[int, str, str, str]] = {
    RefusalKind.MISSING_KEY: (
        403,
        "PERMISSION_DENIED",
        (
            "Method doesn't allow unregistered callers (callers without established identity). "
            "Please use API Key or other form of API consumer identity to call this API."
        ),
        "",
    ),
    RefusalKind.INVALID_KEY: (
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        "API_KEY_INVALID",
    ),
    RefusalKind.NO_CREDIT: (
        429,
        "RESOURCE_EXHAUSTED",
        "Your prepayment credits are depleted. Please go to AI Studio to manage your billing.",
        "",
    ),
    RefusalKind.RATE_LIMITED: (
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
        "",
    ),
    RefusalKind.FORBIDDEN: (
        403,
        "PERMISSION_DENIED",
        "Requests from this client are blocked: the Generative Language API is not enabled.",
        "SERVICE_DISABLED",
    ),
    RefusalKind.ERROR: (500, "INTERNAL", "An internal error has occurred.", ""),
    RefusalKind.OVERLOADED: (
        503,
        "UNAVAILABLE",
        "The model is overloaded. Please try again later.",
        "",
    ),
    RefusalKind.MODEL_NOT_FOUND: (
        404,
        "NOT_FOUND",
        (
            "models/{model} is not found for API version v1beta, or is not supported for "
            "generateContent."
        ),
        "",
    ),
    RefusalKind.INVALID_REQUEST: (400, "INVALID_ARGUMENT", "{detail}", ""),
}
_FINISH_REASONS = {
    Finish.STOP: "STOP",
    Finish.LENGTH: "MAX_TOKENS",
    Finish.TOOL_CALL: "STOP",
}


def _check_thinking(model: str, thinking: _Thinking | None) -> None:
    if thinking is None:
        return
    if thinking.thinking_budget is not None and thinking.thinking_level is not None:
        raise InvalidRequestError("You can only set one of thinking budget and thinking level.")
    if thinking.thinking_level is not None and not model.startswith("gemini-3"):
        raise InvalidRequestError("Thinking level is not supported for this model.")
    if model.startswith("gemini-2.0"):
        raise InvalidRequestError("Thinking is not enabled for this model.")


def _prompt(model: str, body: _Body) -> Prompt:
    texts: list[str] = []
    images = 0
    contents = [body.system_instruction] if body.system_instruction is not None else []
    for content in [*contents, *body.contents]:
        for part in content.parts:
            if part.text is not None:
                texts.append(part.text)
            elif part.function_response is not None:
                texts += map(str, part.function_response.response.values())
            elif part.inline_data is not None:
                images += 1
    answered = any(part.function_response is not None for part in body.contents[-1].parts)
    offers = [offer for tool in body.tools for offer in tool.function_declarations]
    config = body.generation_config
    thinking = config.thinking_config
    tool = None
    if offers and not answered:
        schema = offers[0].parameters_json_schema or offers[0].parameters or {}
        tool = (offers[0].name, schema)
    return Prompt(
        model=model,
        texts=tuple(texts),
        image_count=images,
        output_tokens_max=config.max_output_tokens,
        stop=tuple(config.stop_sequences),
        tool=tool,
        schema=config.response_json_schema or config.response_schema,
        thinks=thinking is not None and thinking.thinking_budget != 0,
    )


def _parts(answer: Answer) -> list[dict[str, Any]]:
    if answer.tool_name:
        call = {"name": answer.tool_name, "args": answer.tool_arguments}
        return [{"functionCall": call, "thoughtSignature": "c2ltdWxhdGVk"}]
    return [{"text": answer.text}]


def _candidate(parts: list[dict[str, Any]], answer: Answer | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if answer is not None:
        candidate["finishReason"] = _FINISH_REASONS[answer.finish]
    return candidate


def _tail(answer: Answer, *, so_far: int | None = None) -> dict[str, Any]:
    """
    Give usage and names; thoughts are counted beside the candidates, not in them.
    """
    output = answer.output_tokens - answer.reasoning_tokens
    candidates = output if so_far is None else min(so_far, output)
    usage = {
        "promptTokenCount": answer.input_tokens,
        "candidatesTokenCount": candidates,
        "totalTokenCount": answer.input_tokens + candidates + answer.reasoning_tokens,
    }
    if answer.reasoning_tokens:
        usage["thoughtsTokenCount"] = answer.reasoning_tokens
    return {
        "usageMetadata": usage,
        "modelVersion": answer.model,
        "responseId": "simulated0001",
    }
