# SPDX-License-Identifier: Apache-2.0
"""
Tells media by their first bytes, so that what is declared can be held against what is there.

The signatures are those of https://mimesniff.spec.whatwg.org/#matching-an-image-type-pattern and
#matching-an-audio-or-video-type-pattern, and of RFC 9639 (FLAC) and ISO/IEC 14496-3 (ADTS).
"""

from __future__ import annotations

__all__ = [
    "HEAD_BYTES",
    "IMAGE_TYPES",
    "PCM",
    "audio_type",
    "container_type",
    "image_type",
    "is_raw",
]

HEAD_BYTES = 12
"""So many bytes tell every type."""
PCM = "audio/pcm"
"""Bare samples: nothing tells them."""
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GIF = (b"GIF87a", b"GIF89a")
_ID3 = b"ID3"
_EBML = b"\x1a\x45\xdf\xa3"
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"M4A ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_FRAME_BYTE = 0xFF
_FRAME_SYNC = 0xE0
"""An MPEG audio frame begins with 11 bits set."""
_LAYER = 0x06
"""Layer bits of that byte: zero in ADTS, which is AAC."""


def image_type(head: bytes) -> str:
    """
    Give the media type of an image by its first bytes; empty for none that is known.
    """
    if head.startswith(_PNG):
        return "image/png"
    if head.startswith(_JPEG):
        return "image/jpeg"
    if head.startswith(_GIF):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return ""


def audio_type(head: bytes) -> str:
    """
    Give the media type of sound by its first bytes; empty for none that is known.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "audio/wav"
    if head.startswith(b"fLaC"):
        return "audio/flac"
    if head.startswith(b"OggS"):
        return "audio/ogg"
    if head.startswith(_ID3):
        return "audio/mpeg"
    if len(head) > 1 and head[0] == _FRAME_BYTE and head[1] & _FRAME_SYNC == _FRAME_SYNC:
        return "audio/mpeg" if head[1] & _LAYER else "audio/aac"
    return ""


def container_type(head: bytes) -> str:
    """
    Give the media type of a container of video by its first bytes; empty for none that is known.

    ISO/IEC 14496-12 names the kind after `ftyp`, https://www.webmproject.org/docs/container/ is
    Matroska's.
    """
    if head[:4] == _EBML:
        return "video/webm"
    if head[4:8] != b"ftyp":
        return ""
    return _BRANDS.get(head[8:12], "video/mp4")


def is_raw(media_type: str) -> bool:
    """
    Tell whether a type has no signature to check.
    """
    return media_type == PCM
