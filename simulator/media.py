# SPDX-License-Identifier: Apache-2.0
"""
The simulator's images and sound: fixed by what was asked for, so that tests can predict them.

An image is a PNG of one pixel, or the first bytes of another format, filled up to a size that
follows from its quality. Sound is `SOUND_BYTES` a character, behind its format's first bytes.
"""

from __future__ import annotations

import struct
import zlib

__all__ = ["IMAGE_BYTES", "SOUND_BYTES", "image", "image_bytes", "sound"]

IMAGE_BYTES = {"low": 2_000, "medium": 70_000, "high": 700_000}
"""By quality; any other is `medium`. The last is more than one piece of a stream carries."""
SOUND_BYTES = 64
"""For each character."""

_HEADS = {
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    "image/gif": b"GIF89a\x01\x00\x01\x00\x80\x00",
    "audio/mpeg": b"ID3\x04\x00\x00\x00\x00\x00\x00\xff\xfb\x90\x64",
    "audio/ogg": b"OggS\x00\x02\x00\x00\x00\x00\x00\x00",
    "audio/aac": b"\xff\xf1\x50\x80\x00\x1f\xfc\x00\x00\x00\x00\x00",
    "audio/flac": b"fLaC\x00\x00\x00\x22\x10\x00\x10\x00",
    "audio/wav": b"RIFF\xff\xff\xff\xffWAVEfmt ",
    "audio/pcm": b"",
}


def image_bytes(quality: str) -> int:
    """
    Give the size of an image of a quality.
    """
    return IMAGE_BYTES.get(quality, IMAGE_BYTES["medium"])


def image(media_type: str, *, size: int, index: int = 0) -> bytes:
    """
    Give an image of so many bytes; `index` tells one of an answer from the others.
    """
    if media_type != "image/png":
        head = _HEADS[media_type]
        return head + _filling(size - len(head), index)
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(bytes((0, index, 0, 0)))
    parts = [(b"IHDR", header), (b"tEXt", b"filling\0" + _filling(size, index)), (b"IDAT", pixel)]
    chunks = b"".join(_chunk(kind, data) for kind, data in [*parts, (b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + chunks


def sound(media_type: str, text: str) -> bytes:
    """
    Give the sound of a text.
    """
    head = _HEADS[media_type]
    return head + _filling(SOUND_BYTES * len(text) - len(head), len(text))


def _filling(size: int, index: int) -> bytes:
    pattern = bytes((index + step) % 251 for step in range(251))
    return (pattern * (max(0, size) // len(pattern) + 1))[: max(0, size)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
