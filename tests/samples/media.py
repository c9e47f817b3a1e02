# SPDX-License-Identifier: Apache-2.0
"""
Decodes recordings of images and speech, and holds them against what is expected.

A recording does not tell what was asked for, so nothing is held against the request: every count,
size and format is taken as it comes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from services.router.domain.media import ImageCall, MediaAnswer, MediaChunk, SpeechCall
from services.router.domain.media_types import HEAD_BYTES, audio_type
from services.router.domain.text import Finished
from services.router.providers.base import ProviderError
from services.router.providers.dialect import JSONDialect
from tests.samples.expectations import Decoded, differences
from tests.samples.recordings import Exchange

__all__ = ["check_images", "check_speech"]

HTTP_OK = 200
_CUTS = (1, 7, 1024 * 1024)


def check_images(
    dialect: JSONDialect, exchange: Exchange, expected: dict[str, Any], *, now: datetime
) -> list[str]:
    """
    Decode an answer that is images; give what differs.
    """
    status = exchange.status or int(expected["status"])
    call = ImageCall(model=_model(expected), prompt="recorded", count=1)
    try:
        if status != HTTP_OK:
            raise dialect.parse_error(status, exchange.headers, exchange.body, now=now)
        answer = dialect.parse_images(call, exchange.headers, exchange.body, now=now)
    except ProviderError as error:
        return differences(expected, Decoded(error=error))
    if expected.get("error_class") is not None:
        return [f"expected {expected['error_class']}, got images"]
    return _image_differences(expected, answer)


def check_speech(
    dialect: JSONDialect, exchange: Exchange, expected: dict[str, Any], *, now: datetime
) -> list[str]:
    """
    Decode an answer that is sound, in every cut; give what differs.
    """
    status = exchange.status or int(expected["status"])
    if status != HTTP_OK:
        error = dialect.parse_error(status, exchange.headers, exchange.body, now=now)
        return differences(expected, Decoded(error=error))
    by_events = exchange.headers.get("content-type", "").startswith("text/event-stream")
    media_type = "" if by_events else audio_type(exchange.body[:HEAD_BYTES])
    call = SpeechCall(model=_model(expected), text="recorded", media_type=media_type)
    try:
        results = {_sound(dialect, call, exchange, cut, now) for cut in _CUTS}
    except ProviderError as error:
        return differences(expected, Decoded(error=error))
    if len(results) != 1:
        return ["the sound decodes differently in other cuts"]
    wanted = expected.get("bytes", expected.get("body_bytes"))
    [sound] = results
    if isinstance(wanted, int) and wanted != len(sound):
        return [f"bytes: expected {wanted}, got {len(sound)}"]
    return [] if sound else ["there is no sound"]


def _sound(
    dialect: JSONDialect, call: SpeechCall, exchange: Exchange, cut: int, now: datetime
) -> bytes:
    decoder = dialect.speech_decoder(call, exchange.headers, now=now)
    events = []
    for start in range(0, len(exchange.body), cut):
        events += decoder.feed(exchange.body[start : start + cut])
    events += decoder.finish()
    if not isinstance(events[-1], Finished):
        raise ValueError("the sound did not end")  # noqa: TRY004 - a fault of the decoder
    return b"".join(event.data for event in events if isinstance(event, MediaChunk))


def _image_differences(expected: dict[str, Any], answer: MediaAnswer) -> list[str]:
    found = []
    count = expected.get("images")
    if isinstance(count, int) and count != len(answer.media):
        found.append(f"images: expected {count}, got {len(answer.media)}")
    host = expected.get("url_host")
    hosts = {urlsplit(medium.url).hostname for medium in answer.media if medium.url}
    if host is not None and hosts != {host}:
        found.append(f"url host: expected {host}, got {sorted(map(str, hosts))}")
    usage = expected.get("usage")
    if isinstance(usage, dict) and answer.usage is not None:
        for theirs, got in (
            ("input_tokens", answer.usage.input_tokens),
            ("output_tokens", answer.usage.output_tokens),
        ):
            if theirs in usage and usage[theirs] != got:
                found.append(f"{theirs}: expected {usage[theirs]}, got {got}")
    elif isinstance(usage, dict):
        found.append("usage is missing")
    return found


def _model(expected: dict[str, Any]) -> str:
    return str(expected.get("model") or "recorded")
