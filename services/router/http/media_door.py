# SPDX-License-Identifier: Apache-2.0
"""
Images and speech through the door, in the shapes of OpenAI's SDK.

https://developers.openai.com/api/reference/resources/images and
https://developers.openai.com/api/reference/resources/audio . Images come as base64 in one answer.
Sound comes as it is made; past the first bytes a failure closes the connection, for the format has
no other word for it. The SDK then tries again, and is told of the request that it repeats.
"""

from __future__ import annotations

import base64
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from ownkey.router.v1 import media_pb2

from services.router.domain.media import MediaChunk
from services.router.errors import AnswerNotKeptError
from services.router.http.fields import Fields
from services.router.http.model_names import model_name
from services.router.http.repeats import not_heard
from services.router.http.telling import receipt_headers, started_headers
from services.router.rpc import mapping_media
from services.router.usecases.engine import Ended, Started
from services.shared.errors import InternalError, InvalidArgumentError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from services.router.domain.attempts import Receipt
    from services.router.domain.catalogue import Catalogue
    from services.router.domain.request import Request
    from services.router.usecases.engine import Event
    from services.router.usecases.generate import GenerateText
    from services.shared.clock import Clock

ANSWER_SECONDS_MAX = 600.0
_SOUND_TYPES = {
    "": "",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_AUTO = "auto"

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaDoor:
    """
    The routes of media.
    """

    generate: GenerateText
    catalogue: Catalogue
    clock: Clock
    allow: Callable[[web.Request, str], None]
    """Checks who calls, and whether they may call an RPC."""
    head: Callable[[web.Request], Awaitable[dict[str, Any]]]
    """Reads account, request id and source out of the headers."""
    naming: Callable[[web.Request], dict[str, str]]
    """Names the request in an answer's headers."""

    def add_to(self, app: web.Application) -> None:
        """
        Add the routes to an application.
        """
        app.router.add_post("/v1/images/generations", self._images)
        app.router.add_post("/v1/audio/speech", self._speech)

    async def _images(self, request: web.Request) -> web.StreamResponse:
        self.allow(request, "GenerateImage")
        fields = Fields(await _json(request))
        message = self._image_message(fields, await self.head(request))
        call = mapping_media.image_request(message, self.catalogue)
        images: dict[int, list[bytes]] = {}
        media_type = ""
        async with aclosing(self._events(call)) as events:
            async for event in events:
                if isinstance(event, MediaChunk):
                    images.setdefault(event.index, []).append(event.data)
                    media_type = event.media_type
                elif isinstance(event, Started):
                    started = event
                elif isinstance(event, Ended):
                    _check_kept(event)
                    headers = {
                        **started_headers(started),
                        **receipt_headers(event.receipt),
                        **self.naming(request),
                    }
                    body = self._image_body(images, media_type, event.receipt)
                    return web.json_response(body, headers=headers)
        raise InternalError("a generation ended without an end")

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        self.allow(request, "SynthesizeSpeech")
        fields = Fields(await _json(request))
        message = self._speech_message(fields, await self.head(request))
        call = mapping_media.speech_request(message, self.catalogue)
        async with aclosing(self._events(call)) as events:
            started = await anext(events)
            if not isinstance(started, Started):
                raise InternalError("a generation began without saying who pays")
            # The first piece decides the status: until it is there, a failure has one of its own.
            first = await anext(events)
            if isinstance(first, Ended):
                _check_kept(first)
            if not isinstance(first, MediaChunk):
                raise InternalError("a generation gave no sound")
            return await self._hand_on(request, started, first, events)

    async def _hand_on(
        self,
        request: web.Request,
        started: Started,
        first: MediaChunk,
        events: AsyncIterator[Event],
    ) -> web.StreamResponse:
        headers = {
            "Content-Type": first.media_type,
            **started_headers(started),
            **self.naming(request),
        }
        response = web.StreamResponse(headers=headers)
        # Its caller may leave at any moment; leaving ends the events, which is all there is to do.
        try:
            await response.prepare(request)
            await response.write(first.data)
            try:
                async for event in events:
                    if isinstance(event, MediaChunk) and event.data:
                        await response.write(event.data)
            except ConnectionResetError:
                raise
            except Exception as fault:  # noqa: BLE001 - past the status, only the cut tells
                log.info("speech_broke_off", error=type(fault).__name__)
                not_heard(request)
                if request.transport is not None:
                    request.transport.abort()
                return response
            await response.write_eof()
        except ConnectionResetError:
            not_heard(request)
        return response

    def _events(self, call: Request) -> Any:
        return self.generate(call, deadline=self.clock.monotonic() + ANSWER_SECONDS_MAX)

    def _image_message(
        self, fields: Fields, head: dict[str, Any]
    ) -> media_pb2.GenerateImageRequest:
        size, quality = fields.text("size"), fields.text("quality")
        output_format = fields.text("output_format")
        fields.drop("user", "safety_identifier")
        fields.only({"response_format": "b64_json", "stream": False})
        fields.only({"background": _AUTO, "moderation": _AUTO, "style": None})
        message = media_pb2.GenerateImageRequest(
            **head,
            model=model_name(fields.text("model"), self.catalogue, vendor="openai"),
            prompt=fields.text("prompt"),
            count=fields.integer("n"),
            size="" if size == _AUTO else size,
            quality="" if quality == _AUTO else quality,
            media_type=f"image/{output_format}" if output_format else "",
        )
        fields.end()
        return message

    def _speech_message(
        self, fields: Fields, head: dict[str, Any]
    ) -> media_pb2.SynthesizeSpeechRequest:
        response_format = fields.text("response_format")
        if response_format not in _SOUND_TYPES:
            known = ", ".join(name for name in _SOUND_TYPES if name)
            raise InvalidArgumentError.of("response_format", f"must be one of {known}")
        fields.only({"stream_format": "audio"})
        message = media_pb2.SynthesizeSpeechRequest(
            **head,
            model=model_name(fields.text("model"), self.catalogue, vendor="openai"),
            text=fields.text("input"),
            voice=fields.text("voice"),
            media_type=_SOUND_TYPES[response_format],
            speed=fields.number("speed"),
        )
        fields.end()
        return message

    def _image_body(
        self, images: dict[int, list[bytes]], media_type: str, receipt: Receipt
    ) -> dict[str, Any]:
        data = [
            {"b64_json": base64.b64encode(b"".join(pieces)).decode("ascii")}
            for _, pieces in sorted(images.items())
        ]
        body: dict[str, Any] = {
            "created": int(self.clock.now().timestamp()),
            "data": data,
            "output_format": media_type.removeprefix("image/"),
        }
        usage = receipt.served.usage
        if usage is not None and usage.output_tokens:
            text_tokens = usage.input_tokens - usage.image_input_tokens
            body["usage"] = {
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {
                    "text_tokens": text_tokens,
                    "image_tokens": usage.image_input_tokens,
                },
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
            }
        return body


async def _json(request: web.Request) -> object:
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, RecursionError):
        raise InvalidArgumentError.of("body", "is not JSON text") from None


def _check_kept(ended: Ended) -> None:
    """
    Refuse to pass a repeat's empty answer off as the model's.

    Raises:
        AnswerNotKeptError: The request had ended before.
    """
    if ended.receipt.replayed:
        raise AnswerNotKeptError(
            "a request of this id was served before, and its media are not kept; nothing was "
            "charged anew. Send a new request id to generate again"
        )
