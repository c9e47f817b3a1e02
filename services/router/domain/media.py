# SPDX-License-Identifier: Apache-2.0
"""
Images and speech in provider-neutral terms: the call, the answer, the pieces of the stream.

Pure values, as `text` has them for text. A dialect turns a call into one provider's request and its
answer into a `MediaAnswer`, or into pieces as they come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.router.domain.text import ImagePart, StreamEvent, Usage

CHUNK_BYTES_MAX = 256 * 1024
"""The most that one piece carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCall:
    """
    One generation of images, addressed to one model of one provider. Empty is left to the provider.
    """

    model: str
    """The model as the provider knows it."""
    prompt: str
    count: int
    images: tuple[ImagePart, ...] = ()
    """What to draw from."""
    size: str = ""
    """`{width}x{height}` in pixels or an aspect ratio `{width}:{height}`, as the model takes it."""
    quality: str = ""
    media_type: str = ""
    seed: int | None = None
    output_tokens: int = 0
    """What all of it takes as a rule, where it is paid by tokens."""
    output_tokens_max: int = 0
    """Sent where the provider bounds its output by tokens; zero for no bound."""

    @property
    def stream(self) -> bool:
        """
        Give false: an image comes whole.
        """
        return False

    def without(self, fields: Iterable[str]) -> ImageCall:
        """
        Give the call without some fields that only tune the answer: the seed alone does.
        """
        return dataclasses.replace(self, seed=None) if "seed" in fields else self


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechCall:
    """
    One speech, addressed to one model of one provider. Empty is left to the provider.
    """

    model: str
    """The model as the provider knows it."""
    text: str
    voice: str = ""
    media_type: str = ""
    speed: float | None = None
    """1 is the voice's own."""
    output_tokens: int = 0
    """What it takes as a rule, where it is paid by tokens."""

    @property
    def stream(self) -> bool:
        """
        Give true: sound comes piece by piece.
        """
        return True

    def without(self, fields: Iterable[str]) -> SpeechCall:
        """
        Give the call as it is: nothing of it only tunes the answer.
        """
        del fields
        return self


@dataclass(frozen=True, slots=True)
class MediaChunk:
    """
    The next piece of one medium.
    """

    index: int
    """Position of the medium in the answer, from 0."""
    media_type: str
    data: bytes
    """At most `CHUNK_BYTES_MAX`."""
    last: bool


AnswerEvent = StreamEvent | MediaChunk
"""One event of any answer; `Finished` is the last."""


@dataclass(frozen=True, slots=True)
class Medium:
    """
    One whole medium: its bytes, or the address at which its provider keeps it for a while.
    """

    media_type: str
    """Empty where only fetching tells."""
    data: bytes = b""
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaAnswer:
    """
    A whole answer.
    """

    media: tuple[Medium, ...]
    usage: Usage | None
    """None where neither the provider nor the call tells it."""
    model: str = ""


def chunks_of(index: int, medium: Medium) -> Iterator[MediaChunk]:
    """
    Cut a medium into pieces.
    """
    data = memoryview(medium.data)
    for start in range(0, len(data), CHUNK_BYTES_MAX):
        end = start + CHUNK_BYTES_MAX
        yield MediaChunk(index, medium.media_type, bytes(data[start:end]), end >= len(data))
