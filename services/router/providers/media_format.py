# SPDX-License-Identifier: Apache-2.0
"""
What a provider brings to make media: pure functions, gathered behind its dialect.

1. Images come as one answer; sound comes as its bytes, read as they arrive.
2. What the bytes are is told by themselves and held against what was declared.
3. An image is made once: whoever calls never repeats a call that may have been billed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from services.router.domain.media import AnswerEvent, ImageCall, MediaAnswer, Medium, SpeechCall
from services.router.domain.media_types import HEAD_BYTES, image_type
from services.router.domain.text import Usage
from services.router.providers.base import Credential, HTTPRequest
from services.router.providers.classify import ErrorTable, broken

__all__ = [
    "NO_MEDIA",
    "ImageFormat",
    "MediaBody",
    "MediaDecoder",
    "MediaFormats",
    "SpeechFormat",
    "checked_image",
]

HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class MediaBody:
    """
    A request's body and where it goes.
    """

    path: str
    """Below the provider's address; unused where the credential holds the whole address."""
    content_type: str
    data: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers, names in lower case."""


class MediaDecoder(Protocol):
    """
    Turns the bytes of one 200 answer into pieces of sound. Used once, then thrown away.
    """

    @property
    def done(self) -> bool:
        """
        Whether no further byte matters.
        """
        ...

    def feed(self, data: bytes) -> list[AnswerEvent]:
        """
        Take the next bytes, cut anywhere, and give the pieces they complete.

        Raises:
            ProviderError: The provider reported a failure inside the answer.
            ProviderBrokenError: The bytes are not what they should be.
        """
        ...

    def finish(self) -> list[AnswerEvent]:
        """
        Take the end of the connection and give the rest; `Finished` comes last.

        Raises:
            ProviderBrokenError: The answer is not whole.
        """
        ...


class _ParseImages(Protocol):
    def __call__(
        self,
        table: ErrorTable,
        call: ImageCall,
        headers: Mapping[str, str],
        body: bytes,
        /,
        *,
        now: datetime,
    ) -> MediaAnswer: ...


class _MakeDecoder(Protocol):
    def __call__(
        self,
        table: ErrorTable,
        call: SpeechCall,
        headers: Mapping[str, str],
        /,
        *,
        now: datetime,
    ) -> MediaDecoder: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """
    How a provider makes images.
    """

    unsupported: Callable[[ImageCall], list[str]]
    """Names the fields of a call that the provider or the model does not take."""
    build: Callable[[ImageCall], MediaBody]
    parse: _ParseImages
    """Reads a whole answer of status 200."""
    fetch: Callable[[str, Credential, str], HTTPRequest] | None = None
    """Builds the request for an image that its provider keeps at an address, from that, the
    credential and the base address; raises `OutputAddressError`. None where images stand in the
    answer itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechFormat:
    """
    How a provider speaks.
    """

    unsupported: Callable[[SpeechCall], list[str]]
    """Names the fields of a call that the provider or the model does not take."""
    build: Callable[[SpeechCall], MediaBody]
    decoder: _MakeDecoder
    """Gives a decoder for one answer of status 200."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFormats:
    """
    The media a provider makes.
    """

    image: ImageFormat | None = None
    speech: SpeechFormat | None = None


NO_MEDIA = MediaFormats()


def checked_image(
    table: ErrorTable, data: bytes, *, declared: str, usage: Usage | None = None
) -> Medium:
    """
    Give an image whose bytes are what was declared.

    Args:
        table: Whose answer it is.
        data: Its bytes.
        declared: The media type its provider gives it, or that was asked for; empty for any.
        usage: What the answer used.

    Raises:
        ProviderBrokenError: The bytes are no image, or another kind of image.
    """
    found = image_type(data[:HEAD_BYTES])
    if not found or (declared and found != declared):
        raise broken(table, http_status=HTTP_OK, cut=False, usage=usage)
    return Medium(found, data)
