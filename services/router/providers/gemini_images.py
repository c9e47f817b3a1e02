# SPDX-License-Identifier: Apache-2.0
"""
Images by Gemini models, https://ai.google.dev/gemini-api/docs/image-generation .

1. `generateContent` with `responseModalities` IMAGE; the images stand as `inlineData` in the
   parts, the finished ones without `thought`.
2. A size is an aspect ratio, a quality is an image size (`1K`, `2K`, `4K`).
3. Output is told by `candidatesTokensDetails`: image tokens have a price of their own.
Vertex AI speaks the same.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from services.router.domain.media import ImageCall, MediaAnswer, Medium
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import Usage
from services.router.providers.base import ProviderError
from services.router.providers.classify import ErrorFacts, ErrorTable, broken, classify
from services.router.providers.media_format import HTTP_OK, ImageFormat, MediaBody, checked_image

__all__ = ["BLOCKED", "GEMINI_IMAGES", "build_image_body", "parse_gemini_images"]

BLOCKED = "prompt_blocked"
"""The word by which the error table knows a prompt that was refused."""
_REFUSED = frozenset(
    # https://ai.google.dev/api/generate-content#FinishReason
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)
_DONE = frozenset({"STOP", "MAX_TOKENS"})
_IMAGE = "IMAGE"


class _Blob(msgspec.Struct, rename="camel"):
    mime_type: str = ""
    data: str = ""


class _Part(msgspec.Struct, rename="camel"):
    inline_data: _Blob | None = None
    thought: bool = False


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Detail(msgspec.Struct, rename="camel"):
    modality: str = ""
    token_count: int = 0


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    cached_content_token_count: int = 0
    prompt_tokens_details: list[_Detail] | None = None
    candidates_tokens_details: list[_Detail] | None = None

    def normalised(self, images: int) -> Usage:
        """
        Add thoughts to the output; output that is not told apart counts as images where some came.
        """
        made = _of_images(self.candidates_tokens_details)
        if made is None:
            made = self.candidates_token_count if images else 0
        return Usage(
            input_tokens=self.prompt_token_count,
            output_tokens=self.candidates_token_count + self.thoughts_token_count,
            cached_input_tokens=self.cached_content_token_count,
            reasoning_tokens=self.thoughts_token_count,
            image_input_tokens=_of_images(self.prompt_tokens_details) or 0,
            image_output_tokens=made,
            images=images,
        )


class _PromptFeedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Answer(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _PromptFeedback | None = None
    model_version: str = ""


_decode = msgspec.json.Decoder(_Answer).decode


def _unsupported(call: ImageCall) -> list[str]:
    """
    Name what the API lacks: several images at once, and a choice of their format.
    """
    asked = (("count", call.count > 1), ("media_type", bool(call.media_type)))
    return [field for field, lacking in asked if lacking]


def build_image_body(call: ImageCall) -> bytes:
    """
    Give the JSON body of a call.
    """
    parts: list[dict[str, Any]] = [
        {
            "inlineData": {
                "mimeType": image.media_type,
                "data": base64.b64encode(image.data).decode("ascii"),
            }
        }
        for image in call.images
    ]
    parts.append({"text": call.prompt})
    config: dict[str, Any] = {"responseModalities": [_IMAGE]}
    if call.output_tokens_max:
        config["maxOutputTokens"] = call.output_tokens_max
    shape = {"aspectRatio": call.size, "imageSize": call.quality}
    shape = {name: value for name, value in shape.items() if value}
    if shape:
        config["imageConfig"] = shape
    if call.seed is not None:
        config["seed"] = call.seed
    return msgspec.json.encode(
        {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}
    )


def _build(call: ImageCall) -> MediaBody:
    path = f"/v1beta/models/{quote(call.model, safe='')}:generateContent"
    return MediaBody(path, "application/json", build_image_body(call))


def parse_gemini_images(
    table: ErrorTable,
    call: ImageCall,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
) -> MediaAnswer:
    """
    Read a whole answer of status 200.

    Raises:
        ProviderError: The prompt was blocked, or the image was.
        ProviderBrokenError: It holds no image, or bytes that are not what it says they are.
    """
    del call, headers
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(table, http_status=HTTP_OK, cut=False) from None
    candidate = answer.candidates[0] if answer.candidates else _Candidate()
    parts = (candidate.content or _Content()).parts or []
    blobs = [part.inline_data for part in parts if part.inline_data and not part.thought]
    counted = answer.usage_metadata
    usage = None if counted is None else counted.normalised(len(blobs))
    blocked = answer.prompt_feedback is not None and answer.prompt_feedback.block_reason
    if blocked or (candidate.finish_reason in _REFUSED and not blobs):
        facts = ErrorFacts(
            status=HTTP_OK, codes=frozenset({BLOCKED}), inside_answer=True, usage=usage
        )
        raise classify(table, facts, http_status=HTTP_OK, now=now)
    if not blobs:
        raise _without_image(table, candidate, usage)
    media = tuple(_medium(table, blob, usage) for blob in blobs)
    return MediaAnswer(media=media, usage=usage, model=answer.model_version)


def _without_image(table: ErrorTable, candidate: _Candidate, usage: Usage | None) -> ProviderError:
    """
    Make the error of an answer in words, which a model gives to a prompt it cannot draw.
    """
    if candidate.finish_reason in _DONE or candidate.finish_reason == "NO_IMAGE":
        return ProviderError(
            outcome=Outcome.INVALID_REQUEST,
            safe_message=f"{table.title} made no image of this prompt: ask for one plainly",
            billed=Billed.MAYBE_BILLED,
            http_status=HTTP_OK,
            retryable=False,
            usage=usage,
        )
    return broken(table, http_status=HTTP_OK, cut=False, usage=usage)


def _medium(table: ErrorTable, blob: _Blob, usage: Usage | None) -> Medium:
    try:
        data = base64.b64decode(blob.data, validate=True)
    except binascii.Error:
        raise broken(table, http_status=HTTP_OK, cut=False, usage=usage) from None
    return checked_image(table, data, declared=blob.mime_type, usage=usage)


def _of_images(details: list[_Detail] | None) -> int | None:
    if details is None:
        return None
    return sum(detail.token_count for detail in details if detail.modality == _IMAGE)


GEMINI_IMAGES = ImageFormat(unsupported=_unsupported, build=_build, parse=parse_gemini_images)
