# SPDX-License-Identifier: Apache-2.0
"""
OpenAI's images and speech, as its simulation and Azure's answer them.

Formats follow https://developers.openai.com/api/reference/resources/images and
https://developers.openai.com/api/reference/resources/audio .
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from simulator.api import InvalidRequestError, Production, sse
from simulator.media import image, image_bytes, sound
from simulator.tokens import IMAGE_TOKENS, count_tokens

__all__ = ["IMAGE_MODELS", "SPEECH_MODELS", "read_edit", "read_image", "read_speech"]

IMAGE_MODELS = ("gpt-image-1-mini", "gpt-image-1.5")
SPEECH_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
_BY_EVENTS = "gpt-4o-mini-tts"
_SPEECH_CHARACTERS_MAX = 4_096
_PIECES = 5
"""Pieces in which sound leaves."""
_TOKENS = {
    # https://developers.openai.com/docs/guides/image-generation#cost-and-latency
    ("1024x1024", "low"): 272,
    ("1024x1024", "medium"): 1056,
    ("1024x1024", "high"): 4160,
    ("1536x1024", "low"): 400,
    ("1536x1024", "medium"): 1568,
    ("1536x1024", "high"): 6208,
    ("1024x1536", "low"): 408,
    ("1024x1536", "medium"): 1584,
    ("1024x1536", "high"): 6240,
}
_SOUND_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_CREATED = 1_767_225_600
_FILTERED = (
    "Your request was rejected by the safety system. If you believe this is an error, contact us."
)


class _ImageBody(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    prompt: str
    n: int = 1
    size: Literal["1024x1024", "1536x1024", "1024x1536"] = "1024x1024"
    quality: Literal["low", "medium", "high"] = "medium"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    background: Literal["transparent", "opaque", "auto"] = "auto"
    moderation: Literal["low", "auto"] = "auto"
    output_compression: int = 100
    user: str = ""


class _SpeechBody(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    input: str
    voice: Literal[
        "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer"
    ]
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = 1.0
    instructions: str = ""
    stream_format: Literal["sse", "audio"] = "audio"


def read_image(data: Mapping[str, Any]) -> Production:
    """
    Read a request for images strictly, and make them.

    Raises:
        InvalidRequestError: OpenAI would refuse it.
    """
    return _images(_read(data, _ImageBody), images_in=0)


def read_edit(data: Mapping[str, Any]) -> Production:
    """
    Read a form that asks for images made from images; the files stand under `image[]`.

    Raises:
        InvalidRequestError: OpenAI would refuse it.
    """
    fields = dict(data)
    files = fields.pop("image[]", [])
    if not files:
        raise InvalidRequestError("Missing required parameter: 'image'.")
    for name in ("n", "output_compression"):
        if name in fields:
            fields[name] = int(fields[name])
    return _images(_read(fields, _ImageBody), images_in=len(files))


def read_speech(data: Mapping[str, Any]) -> Production:
    """
    Read a request for speech strictly, and speak.

    Raises:
        InvalidRequestError: OpenAI would refuse it.
    """
    body = _read(data, _SpeechBody)
    if not body.input or len(body.input) > _SPEECH_CHARACTERS_MAX:
        raise InvalidRequestError("[{'type': 'string_too_long', 'msg': 'at most 4096 characters'}]")
    media_type = _SOUND_TYPES[body.response_format]
    made = sound(media_type, body.input)
    step = -(-len(made) // _PIECES)
    pieces = [made[start : start + step] for start in range(0, len(made), step)]
    if body.stream_format == "audio":
        return Production(content_type=media_type, frames=pieces, filtered=_FILTERED)
    if not body.model.startswith(_BY_EVENTS):
        raise InvalidRequestError("'stream_format': 'sse' is not supported with this model.")
    tokens = count_tokens(body.input)
    usage = {"input_tokens": tokens, "output_tokens": 3 * tokens, "total_tokens": 4 * tokens}
    events: list[dict[str, Any]] = [
        {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
        for piece in pieces
    ]
    events.append({"type": "speech.audio.done", "usage": usage})
    return Production(
        content_type="text/event-stream", frames=[sse(each) for each in events], filtered=_FILTERED
    )


def _images(body: _ImageBody, *, images_in: int) -> Production:
    if not body.prompt:
        raise InvalidRequestError("Invalid 'prompt': empty string.")
    if not 1 <= body.n <= 10:  # noqa: PLR2004 - documented
        raise InvalidRequestError("Invalid 'n': integer out of range. Expected 1 to 10.")
    media_type = f"image/{body.output_format}"
    size = image_bytes(body.quality)
    data = [
        {"b64_json": base64.b64encode(image(media_type, size=size, index=index)).decode()}
        for index in range(body.n)
    ]
    text, images = count_tokens(body.prompt), IMAGE_TOKENS * images_in
    output = body.n * _TOKENS[body.size, body.quality]
    answer = {
        "created": _CREATED,
        "background": "opaque",
        "output_format": body.output_format,
        "quality": body.quality,
        "size": body.size,
        "data": data,
        "usage": {
            "input_tokens": text + images,
            "input_tokens_details": {"text_tokens": text, "image_tokens": images},
            "output_tokens": output,
            "total_tokens": text + images + output,
        },
    }
    return Production(
        content_type="application/json",
        body=msgspec.json.encode(answer),
        empty=msgspec.json.encode({**answer, "data": []}),
        filtered=_FILTERED,
    )


def _read(data: Mapping[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from error
