# SPDX-License-Identifier: Apache-2.0
"""
Decodes every recording that a folder's `expected.json` lists and says how many came out right.

Run as `python -m tests.samples FOLDER`. Streams are decoded whole, byte by byte and in small
cuts, and must agree. Exit code 1 if any recording failed, 2 if the folder cannot be read.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any

from services.router.domain.text import StreamEvent
from services.router.providers.anthropic import ANTHROPIC
from services.router.providers.azure import AZURE
from services.router.providers.base import ProviderError, StreamDecoder
from services.router.providers.bedrock import BEDROCK
from services.router.providers.deepseek import DEEPSEEK
from services.router.providers.dialect import HTTPDialect, JSONDialect
from services.router.providers.event_stream import EventStreamParser
from services.router.providers.gemini import GEMINI
from services.router.providers.openai import OPENAI
from services.router.providers.openai_responses import ResponsesDecoder, parse_responses
from services.router.providers.openrouter import OPENROUTER
from services.router.providers.replicate import PROVIDER
from services.router.providers.sse import SSEParser
from services.router.providers.stability import STABILITY
from services.router.providers.vertex import VERTEX
from services.router.providers.vertex_credential import TOKEN_URI, read_token
from tests.samples.expectations import Decoded, collect, differences
from tests.samples.media import check_images, check_speech
from tests.samples.recordings import Exchange, load_exchange
from tests.samples.replicate import check_replicate
from tests.samples.sigv4 import FOLDER, check_signature

_NOW = datetime(2026, 9, 1, tzinfo=UTC)
_CUTS = (1, 7, 1024 * 1024)
_HTTP_OK = 200

_SPOKEN: dict[str, tuple[JSONDialect, tuple[str, ...]]] = {
    "openai": (OPENAI, ("/chat/completions",)),
    "openrouter": (OPENROUTER, ("/chat/completions",)),
    "anthropic": (ANTHROPIC, ("/messages",)),
    "gemini": (GEMINI, ("enerateContent",)),
    "azure": (AZURE, ("/chat/completions",)),
    "deepseek": (DEEPSEEK, ("/chat/completions",)),
    "bedrock": (BEDROCK, ("/converse", "/converse-stream", "/invoke", "/invoke-with-")),
    "vertex": (VERTEX, ("enerateContent", "awPredict")),
    "stability": (STABILITY, ()),
}
"""The dialect of a folder, and the parts of an address that tell text generation."""

_IMAGES_ASKED_BY = (
    "/images/generations",
    "/images/edits",
    "/stable-image/generate/",
    "/v1/generation/",
    "-image:",
    "-image-preview:",
)
"""Parts of an address that tell the making of images; Gemini's image models end with the last."""
_SPEECH_ASKED_BY = "/audio/speech"
_RESPONSES_SPOKEN_BY = ("openai", "openrouter", "azure")


class _Kind(Enum):
    """
    What a recording was asked for.
    """

    GENERATION = auto()
    RESPONSES = auto()
    FREE_CALL = auto()
    TOKEN = auto()
    IMAGES = auto()
    SPEECH = auto()


def main(arguments: list[str]) -> int:
    """
    Decode the recordings of the folder named by the one argument.
    """
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tests.samples FOLDER\n")
        return 2
    folder = Path(arguments[0])
    listing = folder / "expected.json"
    if not listing.is_file():
        sys.stderr.write(f"{listing} is not there: name the folder that holds the recordings\n")
        return 2
    passed, failed, unspoken = 0, 0, Counter[str]()
    for expected in json.loads(listing.read_text(encoding="utf-8")):
        found = check(folder, expected)
        if found is None:
            unspoken[_unspoken_name(expected)] += 1
        elif found:
            failed += 1
            name = f"{expected['file']}[{expected.get('exchange', 0)}]"
            sys.stdout.write(f"failed: {name}: {'; '.join(found)}\n")
        else:
            passed += 1
    for name, count in sorted(unspoken.items()):
        sys.stdout.write(f"not yet spoken: {name} ({count} recordings)\n")
    sys.stdout.write(f"samples: {passed} passed, {failed} failed\n")
    return 1 if failed else 0


def check(folder: Path, expected: dict[str, Any]) -> list[str] | None:
    """
    Decode one recording; give what differs, or None where its format is not spoken yet.
    """
    provider, uri = expected["file"].partition("/")[0], str(expected.get("uri") or "")
    if provider == FOLDER:
        return check_signature(folder / expected["file"])
    kind = _kind(provider, uri)
    if kind is None and provider != PROVIDER:
        return None
    try:
        exchange = load_exchange(folder / expected["file"], expected.get("exchange", 0))
        if kind is None:
            return check_replicate(exchange, expected)
        return _check_exchange(_SPOKEN[provider][0], exchange, expected, kind)
    except Exception as error:  # noqa: BLE001 - one bad recording must not hide the others
        return [f"{type(error).__name__}: {error}"]


def _kind(provider: str, uri: str) -> _Kind | None:
    """
    Tell what an address is for.
    """
    if provider not in _SPOKEN:
        return None
    dialect, generation = _SPOKEN[provider]
    path = uri.split("?", maxsplit=1)[0].rstrip("/")
    media = dialect.media
    free = isinstance(dialect, HTTPDialect) and path.endswith(_free_path(dialect))
    told = (
        (_Kind.IMAGES, media.image is not None and any(part in path for part in _IMAGES_ASKED_BY)),
        (_Kind.SPEECH, media.speech is not None and path.endswith(_SPEECH_ASKED_BY)),
        (_Kind.GENERATION, any(part in path for part in generation)),
        (_Kind.TOKEN, dialect is VERTEX and uri == TOKEN_URI),
        (_Kind.RESPONSES, path.endswith("/responses") and provider in _RESPONSES_SPOKEN_BY),
        (_Kind.FREE_CALL, free),
    )
    return next((kind for kind, fits in told if fits), None)


def _free_path(dialect: HTTPDialect) -> str:
    return dialect.probe_plan.free_path.split("?")[0]


def _check_exchange(
    dialect: JSONDialect, exchange: Exchange, expected: dict[str, Any], kind: _Kind
) -> list[str]:
    status = exchange.status or expected["status"]
    if kind is _Kind.TOKEN:
        return _check_token(exchange, expected, status)
    if kind is _Kind.IMAGES:
        return check_images(dialect, exchange, expected, now=_NOW)
    if kind is _Kind.SPEECH:
        return check_speech(dialect, exchange, expected, now=_NOW)
    if kind is _Kind.FREE_CALL and status == _HTTP_OK and isinstance(dialect, HTTPDialect):
        return _check_free_call(dialect, exchange)
    responses = kind is _Kind.RESPONSES
    streamed = expected.get("stream") or ":streamGenerateContent" in expected["uri"]
    if not streamed or status != _HTTP_OK:
        return differences(expected, _whole(dialect, exchange, status, responses=responses))

    def decoder() -> StreamDecoder:
        if responses:
            return ResponsesDecoder(dialect.table, now=_NOW)
        return dialect.stream_decoder(now=_NOW)

    results = [_stream(decoder, exchange.body, cut) for cut in _CUTS]
    found = differences(expected, results[0])
    if len({_comparable(result) for result in results}) != 1:
        found.append("the stream decodes differently in other cuts")
    binary = expected.get("stream") == "aws-eventstream"
    parser = EventStreamParser() if binary else SSEParser()
    count = len(parser.feed(exchange.body) + parser.finish())
    if expected.get("stream") in ("sse", "aws-eventstream") and expected.get("events") not in (
        None,
        count,
    ):
        found.append(f"events: expected {expected['events']}, got {count}")
    return found


def _check_token(exchange: Exchange, expected: dict[str, Any], status: int) -> list[str]:
    """
    Hold that a token is read and lives as long as it says, or that its refusal is understood.
    """
    try:
        token = read_token(status, exchange.headers, exchange.body, now=_NOW)
    except ProviderError as error:
        return differences(expected, Decoded(error=error))
    wanted = (expected.get("oauth") or {}).get("expires_in")
    seconds = (token.expire_time - _NOW).total_seconds()
    return [] if wanted in (None, seconds) else [f"expires_in: expected {wanted}, got {seconds}"]


def _check_free_call(dialect: HTTPDialect, exchange: Exchange) -> list[str]:
    """
    Hold that a free call's answer is read; OpenRouter's tells of the key and lists no models.
    """
    finding = dialect.probe_plan.read_free_call(exchange.body)
    shows_credit = finding.has_credit or finding.out_of_credit
    if finding.models or shows_credit or _free_path(dialect).endswith(("/key", "/balance")):
        return []
    return ["the free call lists no model"]


def _whole(dialect: JSONDialect, exchange: Exchange, status: int, *, responses: bool) -> Decoded:
    try:
        if responses:
            table = dialect.table
            return Decoded(
                parse_responses(table, status, exchange.headers, exchange.body, now=_NOW)
            )
        return Decoded(dialect.parse_response(status, exchange.headers, exchange.body, now=_NOW))
    except ProviderError as error:
        return Decoded(error=error)


def _stream(decoder: Callable[[], StreamDecoder], body: bytes, cut: int) -> Decoded:
    decode = decoder()
    events: list[StreamEvent] = []
    try:
        for start in range(0, len(body), cut):
            events += decode.feed(body[start : start + cut])
        events += decode.finish()
    except ProviderError as error:
        return Decoded(error=error)
    return Decoded(collect(events))


def _comparable(decoded: Decoded) -> str:
    error = decoded.error
    return repr(decoded.completion) if error is None else f"{error.outcome} {error.usage}"


def _unspoken_name(expected: dict[str, Any]) -> str:
    """
    Name what is not spoken: a provider, or a kind of work of a provider that is.
    """
    provider = str(expected["file"]).partition("/")[0]
    if provider not in _SPOKEN:
        return provider
    path = str(expected.get("uri") or "").split("?")[0].rstrip("/").split("/")
    return f"{provider} {'/'.join(path[-2:])}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
