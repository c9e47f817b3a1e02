# SPDX-License-Identifier: Apache-2.0
"""
OpenAI's images, https://developers.openai.com/api/reference/resources/images .

1. From a prompt: `/v1/images/generations`, JSON. From images: `/v1/images/edits`, a form.
2. GPT Image models answer in base64 and by tokens; DALL-E models only if asked for
   `b64_json`, and tell no usage: they are paid by the image.
3. Sizes and qualities are the model's own words.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from services.router.domain.media import ImageCall, MediaAnswer, Medium
from services.router.domain.text import Usage
from services.router.providers.classify import ErrorTable, broken, classify
from services.router.providers.media_format import HTTP_OK, ImageFormat, MediaBody, checked_image
from services.router.providers.multipart import FormFile, form_data
from services.router.providers.openai_chat import error_facts

__all__ = ["OPENAI_IMAGES", "build_images", "parse_openai_images"]

_GENERATIONS = "/v1/images/generations"
_EDITS = "/v1/images/edits"
_BY_THE_IMAGE = "dall-e-"
"""The family that is paid by the image; OpenAI retired it in 2026, deployments live on."""
_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_EXTENSIONS = {**_FORMATS, "image/gif": "gif"}


class _Image(msgspec.Struct):
    b64_json: str | None = None
    url: str | None = None


class _InputDetails(msgspec.Struct):
    image_tokens: int = 0
    cached_tokens: int = 0


class _OutputDetails(msgspec.Struct):
    image_tokens: int | None = None
    text_tokens: int = 0


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def normalised(self, images: int) -> Usage:
        """
        Count output that is not told apart as images: nothing else came out.
        """
        given = self.input_tokens_details or _InputDetails()
        made = self.output_tokens_details or _OutputDetails()
        by_images = made.image_tokens
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=given.cached_tokens,
            image_input_tokens=given.image_tokens,
            image_output_tokens=self.output_tokens - made.text_tokens
            if by_images is None
            else by_images,
            images=images,
        )


class _Answer(msgspec.Struct):
    data: list[_Image] | None = None
    usage: _Usage | None = None
    output_format: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def _unsupported(call: ImageCall) -> list[str]:
    """
    Name what the API lacks: a seed, and for DALL-E models another format than PNG, and editing.
    """
    fields = ["seed"] if call.seed is not None else []
    if _is_by_the_image(call):
        if call.images:
            fields.append("images")
        if call.media_type not in ("", "image/png"):
            fields.append("media_type")
    elif call.media_type and call.media_type not in _FORMATS:
        fields.append("media_type")
    return fields


def build_images(call: ImageCall, *, name: str = "") -> MediaBody:
    """
    Build the request of a call.

    Args:
        call: What to make; its model tells the family.
        name: What the model is called where requests go; empty for its own name.
    """
    fields: dict[str, Any] = {"model": name or call.model, "prompt": call.prompt, "n": call.count}
    if call.size:
        fields["size"] = call.size
    if call.quality:
        fields["quality"] = call.quality
    if _is_by_the_image(call):
        fields["response_format"] = "b64_json"
    elif call.media_type:
        fields["output_format"] = _FORMATS[call.media_type]
    if not call.images:
        return MediaBody(_GENERATIONS, "application/json", msgspec.json.encode(fields))
    parts: list[tuple[str, str | FormFile]] = [(name, str(value)) for name, value in fields.items()]
    for index, image in enumerate(call.images):
        name = f"image-{index}.{_EXTENSIONS[image.media_type]}"
        parts.append(("image[]", FormFile(name, image.media_type, image.data)))
    content_type, data = form_data(parts)
    return MediaBody(_EDITS, content_type, data)


def parse_openai_images(
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
        ProviderError: The body carries an error.
        ProviderBrokenError: It holds no image, or bytes that are no image of the kind asked for.
    """
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(table, http_status=HTTP_OK, cut=False) from None
    if answer.error is not None:
        facts = error_facts(answer.error, status=HTTP_OK, headers=headers, inside_answer=True)
        raise classify(table, facts, http_status=HTTP_OK, now=now)
    items = answer.data or []
    if answer.usage is not None:
        usage = answer.usage.normalised(len(items))
    else:
        usage = Usage(input_tokens=0, output_tokens=0, images=len(items))
    declared = call.media_type or (f"image/{answer.output_format}" if answer.output_format else "")
    media = tuple(_medium(table, item, declared, usage) for item in items)
    if not media:
        raise broken(table, http_status=HTTP_OK, cut=False, usage=usage)
    told = answer.usage is not None or _is_by_the_image(call)
    return MediaAnswer(media=media, usage=usage if told else None)


def _medium(table: ErrorTable, item: _Image, declared: str, usage: Usage) -> Medium:
    if item.url:
        return Medium("", url=item.url)
    try:
        data = base64.b64decode(item.b64_json or "", validate=True)
    except binascii.Error:
        raise broken(table, http_status=HTTP_OK, cut=False, usage=usage) from None
    return checked_image(table, data, declared=declared, usage=usage)


def _is_by_the_image(call: ImageCall) -> bool:
    return call.model.rpartition("/")[2].startswith(_BY_THE_IMAGE)


OPENAI_IMAGES = ImageFormat(unsupported=_unsupported, build=build_images, parse=parse_openai_images)
