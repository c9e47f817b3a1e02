# SPDX-License-Identifier: Apache-2.0
"""
The simulated Stability AI, under `/stability`.

Formats follow https://platform.stability.ai/docs/api-reference . A form is wanted even without a
file; the answer is the image's bytes or JSON, as `Accept` says.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
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
)
from simulator.bearer_api import BearerAPI
from simulator.faults import Fault, FaultKind, HintForm
from simulator.media import image, image_bytes
from simulator.tokens import Answer

__all__ = ["CREDITS", "StabilityAPI"]

CREDITS = 1000.0
"""What a good key has left."""
_ENDPOINTS = ("core", "ultra", "sd3")
_SD3_MODELS = ("sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium")
_RATIOS = ("1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
_FORMATS = {"core": ("png", "jpeg", "webp"), "ultra": ("png", "jpeg", "webp")}
_SD3_FORMATS = ("png", "jpeg")
_PROMPT_CHARACTERS_MAX = 10_000
_SEED_MAX = 4_294_967_294
_SEED = re.compile(r"\d{1,10}")


class StabilityAPI(BearerAPI):
    """
    GET the balance, POST stable-image/generate/{core|ultra|sd3}.
    """

    name = "stability"
    models = (*_SD3_MODELS, *_FORMATS)
    key_prefixes = ("sk-",)
    foreign_prefixes = ("sk-or-", "sk-ant-", "sk-proj-")

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        endpoints = "|".join(_ENDPOINTS)
        path = f"/stability/v2beta/stable-image/generate/{{endpoint:{endpoints}}}"
        return [
            web.get("/stability/v1/user/balance", self._balance),
            web.post(path, self._generate),
        ]

    def free_body(self, body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        """
        Give a key without credit an empty balance.
        """
        empty = fault is not None and fault.kind is FaultKind.NO_CREDIT
        return {"credits": 0} if empty else body

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in Stability's words.
        """
        status, name, message = _REFUSALS[refusal.kind]
        headers: dict[str, str] = {}
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            headers = refusal.fault.headers(HintForm.NONE, now=self.now)
            message += refusal.fault.sentence(HintForm.NONE)
        text = message.format(detail=refusal.detail, model=refusal.model)
        error: dict[str, Any] = {"id": "0" * 32, "name": name}
        error |= {"errors": [text]} if refusal.generation else {"message": text}
        return json_response(error, status=status, headers=headers)

    async def _balance(self, request: web.Request) -> web.StreamResponse:
        return await self.free(request, {"credits": CREDITS})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        endpoint = request.match_info["endpoint"]
        data = dict(await request.post()) if request.content_type == "multipart/form-data" else {}
        model = str(data.get("model", "")) if endpoint == "sd3" else endpoint

        def read(data: Mapping[str, Any]) -> Production:
            return _read(request, model, data)

        return await self.produce(request, model, data, read)

    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:  # noqa: ARG002 - shared
        """
        Give no model: the provider writes no text.
        """
        return "", False

    def read(self, request: web.Request, body: bytes) -> Generation:  # noqa: ARG002 - shared
        """
        Refuse: the provider writes no text.
        """
        raise InvalidRequestError("no such endpoint")

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give nothing: the provider writes no text.
        """
        del answer
        return {}

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:
        """
        Give nothing: the provider writes no text.
        """
        del answer, include_usage
        return []

    def error_frame(self) -> bytes:
        """
        Give nothing: no answer of the provider is a stream.
        """
        return b""


def _read(request: web.Request, model: str, data: Mapping[str, Any]) -> Production:
    if request.content_type != "multipart/form-data":
        raise InvalidRequestError("content-type: must be multipart/form-data")
    known = {"prompt", "negative_prompt", "aspect_ratio", "seed", "output_format", "style_preset"}
    if request.match_info["endpoint"] == "sd3":
        known |= {"model", "mode", "cfg_scale"}
    for name in data:
        if name not in known:
            raise InvalidRequestError(f"{name}: is not a field of this endpoint")
    fields = {name: str(value) for name, value in data.items()}
    if not 1 <= len(fields.get("prompt", "")) <= _PROMPT_CHARACTERS_MAX:
        raise InvalidRequestError("prompt: must have 1 to 10000 characters")
    if fields.get("aspect_ratio", "1:1") not in _RATIOS:
        raise InvalidRequestError("aspect_ratio: is none that is known")
    seed = fields.get("seed", "0")
    if not _SEED.fullmatch(seed) or int(seed) > _SEED_MAX:
        raise InvalidRequestError("seed: must be from 0 to 4294967294")
    output_format = fields.get("output_format", "png")
    if output_format not in _FORMATS.get(model, _SD3_FORMATS):
        raise InvalidRequestError("output_format: is none of this endpoint's")
    media_type = f"image/{output_format}"
    made = image(media_type, size=image_bytes("medium"))
    return _production(request.headers.get("Accept", "*/*"), media_type, made, seed)


def _production(accept: str, media_type: str, made: bytes, seed: str) -> Production:
    if accept == "image/*":
        headers = {"seed": seed, "x-request-id": "simulated"}
        return Production(
            content_type=media_type,
            body=made,
            empty=b"",
            headers={**headers, "finish-reason": "SUCCESS"},
            blurred_headers={**headers, "finish-reason": "CONTENT_FILTERED"},
        )
    if accept not in ("application/json", "*/*"):
        raise InvalidRequestError("accept: must be image/* or application/json")
    answer = {
        "image": base64.b64encode(made).decode(),
        "finish_reason": "SUCCESS",
        "seed": int(seed),
    }
    return Production(
        content_type="application/json",
        body=msgspec.json.encode(answer),
        empty=msgspec.json.encode({**answer, "image": ""}),
        blurred=msgspec.json.encode({**answer, "finish_reason": "CONTENT_FILTERED"}),
    )


_REFUSALS: dict[RefusalKind, tuple[int, str, str]] = {
    RefusalKind.MISSING_KEY: (401, "unauthorized", "authorization: is required"),
    RefusalKind.INVALID_KEY: (
        401,
        "unauthorized",
        "authorization: invalid or missing header value",
    ),
    RefusalKind.NO_CREDIT: (
        402,
        "payment_required",
        (
            "You lack sufficient credits to make this request. Please purchase more credits and "
            "try again."
        ),
    ),
    RefusalKind.RATE_LIMITED: (
        429,
        "rate_limit_exceeded",
        (
            "You have exceeded the rate limit of 150 requests within a 10 second period, and have "
            "been timed out for 60 seconds."
        ),
    ),
    RefusalKind.FORBIDDEN: (403, "permission_denied", "You lack the necessary permissions."),
    RefusalKind.ERROR: (500, "internal_error", "An unexpected server error has occurred."),
    RefusalKind.OVERLOADED: (503, "service_unavailable", "Please try again shortly."),
    RefusalKind.MODEL_NOT_FOUND: (404, "not_found", "model {model} does not exist"),
    RefusalKind.INVALID_REQUEST: (400, "bad_request", "{detail}"),
}
