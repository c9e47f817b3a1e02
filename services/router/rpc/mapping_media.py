# SPDX-License-Identifier: Apache-2.0
"""
Reads requests for images and speech, and writes their answers.

Whatever is wrong in a request is refused here, by field, before anything is sent: also what a model
of the catalogue does not make. A model outside of it is left to its provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ownkey.router.v1 import media_pb2 as pb

from services.router.domain.catalogue import Capability
from services.router.domain.media import MediaChunk
from services.router.domain.media_work import ImageInput, SpeechInput
from services.router.domain.request import Request
from services.router.domain.text import ImagePart
from services.router.rpc.mapping_client_held import brought_keys, resealed_keys
from services.router.rpc.mapping_receipt import FUNDINGS, receipt
from services.router.rpc.mapping_request import (
    IMAGE_BYTES_MAX,
    account,
    at_most,
    image,
    model,
    preferences,
    source,
)
from services.router.usecases.engine import Ended, Started
from services.shared.errors import InternalError, InvalidArgumentError
from services.shared.ids import parse_uuid

if TYPE_CHECKING:
    from collections.abc import Collection

    from services.router.domain.catalogue import Catalogue, Model
    from services.router.usecases.engine import Event

PROMPT_CHARACTERS_MAX = 32_000
IMAGES_MAX = 16
IMAGES_BYTES_MAX = 24 * 1024 * 1024
COUNT_MAX = 10
TEXT_CHARACTERS_MAX = 4_096
SPEED_MIN, SPEED_MAX = 0.25, 4.0
WORD_CHARACTERS_MAX = 64

MediaRequest: TypeAlias = pb.GenerateImageRequest | pb.SynthesizeSpeechRequest


def image_request(
    message: pb.GenerateImageRequest,
    catalogue: Catalogue,
    *,
    request_id: str | None = None,
    explains: bool = False,
) -> Request:
    """
    Read a request for images.

    Args:
        message: What the caller sent.
        catalogue: Knows what the models make.
        request_id: Used where the caller need not send one.
        explains: Whether nothing is sent, so that client-held keys need only be named.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    name = message.model or catalogue.media.image
    known = _known_model(name, catalogue, Capability.IMAGE)
    _characters("prompt", message.prompt, PROMPT_CHARACTERS_MAX)
    count = message.count if message.HasField("count") else 1
    if not 1 <= count <= COUNT_MAX:
        raise InvalidArgumentError.of("count", f"must be from 1 to {COUNT_MAX}")
    asked = ImageInput(
        prompt=message.prompt,
        images=_images(message),
        count=count,
        size=_word("size", message.size),
        quality=_word("quality", message.quality),
        media_type=_word("media_type", message.media_type),
        seed=message.seed if message.HasField("seed") else None,
    )
    if known is not None:
        _check_image(asked, known)
    return _request(message, name, asked, request_id=request_id, explains=explains)


def speech_request(
    message: pb.SynthesizeSpeechRequest,
    catalogue: Catalogue,
    *,
    request_id: str | None = None,
    explains: bool = False,
) -> Request:
    """
    Read a request for speech; as `image_request`.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    name = message.model or catalogue.media.speech
    known = _known_model(name, catalogue, Capability.SPEECH)
    _characters("text", message.text, TEXT_CHARACTERS_MAX)
    speed = message.speed if message.HasField("speed") else None
    if speed is not None and not SPEED_MIN <= speed <= SPEED_MAX:
        raise InvalidArgumentError.of("speed", f"must be from {SPEED_MIN:g} to {SPEED_MAX:g}")
    asked = SpeechInput(
        text=message.text,
        voice=_word("voice", message.voice),
        media_type=_word("media_type", message.media_type),
        speed=speed,
    )
    if known is not None and known.speech is not None:
        traits = known.speech
        _characters("text", asked.text, traits.text_characters_max)
        _one_of("voice", asked.voice, traits.voices, known)
        _one_of("media_type", asked.media_type, traits.media_types, known)
    return _request(message, name, asked, request_id=request_id, explains=explains)


def image_bytes(message: pb.GenerateImageRequest) -> int:
    """
    Give the size of a request's images, which are held while it runs.
    """
    return sum(len(given.data) for given in message.images)


def image_response(event: Event) -> pb.GenerateImageResponse:
    """
    Write one event of images.
    """
    match event:
        case Started():
            return pb.GenerateImageResponse(start=_start(event))
        case MediaChunk():
            return pb.GenerateImageResponse(chunk=_chunk(event))
        case Ended():
            return pb.GenerateImageResponse(finish=_finish(event))
        case _:
            raise InternalError("an event of images has no message")


def speech_response(event: Event) -> pb.SynthesizeSpeechResponse:
    """
    Write one event of speech.
    """
    match event:
        case Started():
            return pb.SynthesizeSpeechResponse(start=_start(event))
        case MediaChunk():
            return pb.SynthesizeSpeechResponse(chunk=_chunk(event))
        case Ended():
            return pb.SynthesizeSpeechResponse(finish=_finish(event))
        case _:
            raise InternalError("an event of speech has no message")


def _request(
    message: MediaRequest,
    name: str,
    asked: ImageInput | SpeechInput,
    *,
    request_id: str | None,
    explains: bool,
) -> Request:
    return Request(
        account=account(message.account),
        request_id=request_id or parse_uuid(message.request_id, "request_id"),
        model=model(name),
        source=source(message.source),
        preferences=preferences(message.route),
        input=asked,
        stream=True,
        brought=brought_keys(
            message.client_held_keys, account=message.account, names_only=explains
        ),
    )


def _known_model(name: str, catalogue: Catalogue, capability: Capability) -> Model | None:
    """
    Give a model of the catalogue, None for any other.

    Raises:
        InvalidArgumentError: It does other work.
    """
    if not name:
        raise InvalidArgumentError.of("model", "is required: the service has no default for it")
    known = catalogue.models.get(name)
    if known is not None and capability not in known.capabilities:
        able = [m.id for m in catalogue.models.values() if capability in m.capabilities]
        does = "make images" if capability is Capability.IMAGE else "speak"
        raise InvalidArgumentError.of(
            "model", f"{name} does not {does}; {', '.join(sorted(able)) or 'no model here'} do"
        )
    return known


def _check_image(asked: ImageInput, known: Model) -> None:
    traits = known.image
    if traits is None:
        return
    _characters("prompt", asked.prompt, traits.prompt_characters_max)
    _one_of("size", asked.size, traits.sizes, known)
    _one_of("quality", asked.quality, traits.qualities, known)
    _one_of("media_type", asked.media_type, traits.media_types, known)
    if asked.count > traits.count_max:
        raise InvalidArgumentError.of(
            "count", f"is more than the {traits.count_max} that {known.id} makes at once"
        )
    if len(asked.images) > traits.images_max:
        some = f"at most {traits.images_max} images" if traits.images_max else "no images"
        raise InvalidArgumentError.of("images", f"{known.id} draws from {some}")


def _images(message: pb.GenerateImageRequest) -> tuple[ImagePart, ...]:
    at_most(len(message.images), IMAGES_MAX, "images", "images")
    parts = []
    for index, given in enumerate(message.images):
        field = f"images[{index}]"
        part = image(given, field)
        if not isinstance(part, ImagePart):
            raise InvalidArgumentError.of(f"{field}.url", "is not taken here: send the bytes")
        parts.append(part)
    size = sum(len(part.data) for part in parts)
    if size > IMAGES_BYTES_MAX:
        raise InvalidArgumentError.of(
            "images",
            f"hold {size} bytes, more than {IMAGES_BYTES_MAX}; one takes {IMAGE_BYTES_MAX} at most",
        )
    return tuple(parts)


def _characters(field: str, text: str, most: int) -> None:
    if not text.strip():
        raise InvalidArgumentError.of(field, "is required")
    if len(text) > most:
        raise InvalidArgumentError.of(
            field, f"has {len(text)} characters, more than {most}; shorten it"
        )


def _word(field: str, text: str) -> str:
    if len(text) > WORD_CHARACTERS_MAX or not text.isprintable() or not text.isascii():
        raise InvalidArgumentError.of(
            field, f"must be one word of at most {WORD_CHARACTERS_MAX} plain characters"
        )
    return text


def _one_of(field: str, asked: str, taken: Collection[str], known: Model) -> None:
    if not asked or asked in taken:
        return
    told = f"is none that {known.id} knows; it knows {', '.join(taken)}"
    raise InvalidArgumentError.of(field, told if taken else f"{known.id} chooses it by itself")


def _start(event: Started) -> pb.MediaStart:
    return pb.MediaStart(
        payer=FUNDINGS[event.payer],
        provider=event.provider,
        model=event.model,
        key_hint=event.key_hint,
        fallback=event.fallback,
    )


def _chunk(event: MediaChunk) -> pb.MediaChunk:
    return pb.MediaChunk(
        index=event.index, media_type=event.media_type, data=event.data, last=event.last
    )


def _finish(event: Ended) -> pb.MediaFinish:
    return pb.MediaFinish(
        receipt=receipt(event.receipt), resealed_keys=resealed_keys(event.resealed)
    )
