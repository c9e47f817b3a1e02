# SPDX-License-Identifier: Apache-2.0
"""
Decodes every recording that a folder's `expected.json` lists and says how many came out right.

Run as `python -m tests.samples FOLDER`. Streams are decoded whole, byte by byte and in small
cuts, and must agree. A format that is not spoken is a failure, unless it is of work that Ownkey
does not do, which is said beside it. Exit code 1 if any recording failed or none passed, 2 if the
folder cannot be read.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any

from services.router.domain.text import StreamEvent
from services.router.providers.anthropic import ANTHROPIC
from services.router.providers.azure import AZURE
from services.router.providers.base import ProviderError
from services.router.providers.bedrock import BEDROCK
from services.router.providers.classify import decode_object
from services.router.providers.deepseek import DEEPSEEK
from services.router.providers.dialect import HTTPDialect, JSONDialect
from services.router.providers.event_stream import EventStreamParser
from services.router.providers.gemini import GEMINI
from services.router.providers.openai import OPENAI
from services.router.providers.openrouter import OPENROUTER
from services.router.providers.registry import JOB_DIALECTS
from services.router.providers.replicate import PROVIDER
from services.router.providers.sse import SSEEvent, SSEParser
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
_ERRORS_FROM = 400
_REFUSED = re.compile(rb'"refusal":\s*"')
_DONE = SSEEvent(b"", b"[DONE]")

_OPENAI_FORMATS = ("/chat/completions", "/responses")
_GEMINI_METHODS = (":generateContent", ":streamGenerateContent")
_SPOKEN: dict[str, tuple[JSONDialect, tuple[str, ...]]] = {
    "openai": (OPENAI, _OPENAI_FORMATS),
    "openrouter": (OPENROUTER, _OPENAI_FORMATS),
    "anthropic": (ANTHROPIC, ("/messages",)),
    "gemini": (GEMINI, _GEMINI_METHODS),
    "azure": (AZURE, _OPENAI_FORMATS),
    "deepseek": (DEEPSEEK, _OPENAI_FORMATS),
    "bedrock": (
        BEDROCK,
        ("/converse", "/converse-stream", "/invoke", "/invoke-with-response-stream"),
    ),
    "vertex": (VERTEX, (*_GEMINI_METHODS, ":rawPredict", ":streamRawPredict")),
    "stability": (STABILITY, ()),
}
"""The dialect of a folder, and how the addresses of text generation end."""

_IMAGES_ASKED_BY = (
    "/images/generations",
    "/images/edits",
    "/stable-image/generate/",
    "/v1/generation/",
    "-image:",
    "-image-preview:",
)
"""Parts of an address that tell the making of images; Gemini's image models end with the last."""
_STREAMS_ASKED_BY = (":streamGenerateContent", ":streamRawPredict", "-stream")
_SPEECH_ASKED_BY = "/audio/speech"
_JOBS_ASKED_BY = (":predictLongRunning", ":fetchPredictOperation", "/operations/")
_FREE_CALLS = {
    "openai": ("/models",),
    "openrouter": ("/key", "/models", "/credits"),
    "anthropic": ("/models", "/count_tokens"),
    "gemini": ("/models", ":countTokens"),
    "azure": ("/models",),
    "deepseek": ("/balance", "/models"),
    "bedrock": ("/foundation-models",),
    "vertex": (":countTokens",),
    "stability": ("/balance",),
}
"""How the addresses end that cost nothing, by which keys are tested, and their like."""
_OUT_OF_SCOPE = {
    "/embeddings": "Ownkey makes no embeddings",
    "mbedContent": "Ownkey makes no embeddings",
    "mbedContents": "Ownkey makes no embeddings",
    "/moderations": "Ownkey moderates nothing itself",
    "/audio/transcriptions": "Ownkey takes no sound in",
    "/audio/translations": "Ownkey takes no sound in",
    "/v1/completions": "Ownkey speaks chat completions, which have replaced them",
}
"""How the addresses end of work that none of the providers' requirements names, and which it is."""
_INVOKED = re.compile(r"anthropic\.|amazon\.nova-(?!.*embed)")
"""The models whose own formats are read, those of Anthropic and of Amazon Nova."""


class _Kind(Enum):
    """
    What a recording was asked for.
    """

    GENERATION = auto()
    FREE_CALL = auto()
    TOKEN = auto()
    IMAGES = auto()
    SPEECH = auto()
    JOB = auto()
    REFUSAL = auto()
    """Of any other request: a refusal is read alike, whatever was asked for."""


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
    passed, failed = 0, 0
    unspoken, left_out = Counter[str](), Counter[str]()
    for expected in json.loads(listing.read_text(encoding="utf-8")):
        found = check(folder, expected)
        reason = "" if found is not None else _reason_left_out(expected)
        if reason:
            left_out[f"{_asked_for(expected)}: {reason}"] += 1
        elif found is None:
            unspoken[_asked_for(expected)] += 1
            failed += 1
        elif found:
            failed += 1
            name = f"{expected['file']}[{expected.get('exchange', 0)}]"
            sys.stdout.write(f"failed: {name}: {'; '.join(found)}\n")
        else:
            passed += 1
    for name, count in sorted(unspoken.items()):
        sys.stdout.write(f"failed: not spoken: {name} ({count} recordings)\n")
    for name, count in sorted(left_out.items()):
        sys.stdout.write(f"out of scope: {name} ({count} recordings)\n")
    sys.stdout.write(f"samples: {passed} passed, {failed} failed\n")
    return 1 if failed or not passed else 0


def check(folder: Path, expected: dict[str, Any]) -> list[str] | None:
    """
    Decode one recording; give what differs, or None where its format is not spoken.
    """
    provider, uri = expected["file"].partition("/")[0], str(expected.get("uri") or "")
    if provider == FOLDER:
        return check_signature(folder / expected["file"])
    if provider != PROVIDER and provider not in _SPOKEN:
        return None
    try:
        exchange = load_exchange(folder / expected["file"], expected.get("exchange", 0))
        if provider == PROVIDER:
            return check_replicate(exchange, expected)
        status = exchange.status or int(expected.get("status") or _HTTP_OK)
        kind = _kind(provider, uri, status)
        if kind is None or (status == _HTTP_OK and _reason_left_out(expected)):
            return None
        return _check_exchange(_SPOKEN[provider][0], exchange, expected, kind, status)
    except Exception as error:  # noqa: BLE001 - one bad recording must not hide the others
        return [f"{type(error).__name__}: {error}"]


def _kind(provider: str, uri: str, status: int) -> _Kind | None:
    """
    Tell what an address is for.
    """
    dialect, generation = _SPOKEN[provider]
    path = uri.split("?", maxsplit=1)[0].rstrip("/")
    media = dialect.media
    told = (
        (_Kind.TOKEN, dialect is VERTEX and uri == TOKEN_URI),
        (_Kind.IMAGES, media.image is not None and any(part in path for part in _IMAGES_ASKED_BY)),
        (_Kind.SPEECH, media.speech is not None and path.endswith(_SPEECH_ASKED_BY)),
        (
            _Kind.JOB,
            dialect.provider in JOB_DIALECTS and any(part in path for part in _JOBS_ASKED_BY),
        ),
        (_Kind.GENERATION, bool(generation) and path.endswith(generation)),
        (_Kind.REFUSAL, status >= _ERRORS_FROM),
        (_Kind.FREE_CALL, path.endswith(_FREE_CALLS[provider])),
    )
    return next((kind for kind, fits in told if fits), None)


def _check_exchange(
    dialect: JSONDialect,
    exchange: Exchange,
    expected: dict[str, Any],
    kind: _Kind,
    status: int,
) -> list[str]:
    if kind is _Kind.TOKEN:
        return _check_token(exchange, expected, status)
    if kind is _Kind.IMAGES:
        return check_images(dialect, exchange, expected, now=_NOW)
    if kind is _Kind.SPEECH:
        return check_speech(dialect, exchange, expected, now=_NOW)
    if kind is _Kind.JOB:
        return _check_job(dialect.provider, exchange, expected, status)
    if kind is _Kind.FREE_CALL:
        return _check_free_call(dialect, exchange, str(expected.get("uri")))
    return _check_text(dialect, exchange, expected, status)


def _check_text(
    dialect: JSONDialect, exchange: Exchange, expected: dict[str, Any], status: int
) -> list[str]:
    if _REFUSED.search(exchange.body):
        # OpenAI ends a refusal as any other text; ours is told by its own reason.
        expected = {**expected, "finish": "refusal"}
    streamed = expected.get("stream") or _path(expected).endswith(_STREAMS_ASKED_BY)
    if not streamed or status != _HTTP_OK:
        return differences(expected, _whole(dialect, exchange, status))

    results = [_stream(dialect, exchange.body, cut) for cut in _CUTS]
    found = differences(expected, results[0])
    if len({_comparable(result) for result in results}) != 1:
        found.append("the stream decodes differently in other cuts")
    binary = expected.get("stream") == "aws-eventstream"
    parser = EventStreamParser() if binary else SSEParser()
    seen = parser.feed(exchange.body) + parser.finish()
    # Recorders that keep payloads alone do not count the marker after them.
    counts = {len(seen), len(seen) - (seen[-1:] == [_DONE])}
    told = expected.get("stream") in ("sse", "aws-eventstream")
    if told and expected.get("events") not in (None, *counts):
        found.append(f"events: expected {expected['events']}, got {len(seen)}")
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


def _check_free_call(dialect: JSONDialect, exchange: Exchange, uri: str) -> list[str]:
    """
    Hold that a free call's answer is read: that it lists models or shows credit, where a test of
    keys takes that from it, else that it is an answer at all.
    """
    body = decode_object(exchange.body)
    if not body:
        return ["the free call's answer is no JSON object"]
    path = uri.split("?", maxsplit=1)[0].rstrip("/")
    if not isinstance(dialect, HTTPDialect) or not path.endswith(_free_path(dialect)):
        return []
    finding = dialect.probe_plan.read_free_call(exchange.body)
    shows_credit = finding.has_credit or finding.out_of_credit
    # OpenRouter's and DeepSeek's tell of the key, and show credit only where it is spent.
    if finding.models or shows_credit or _free_path(dialect).endswith(("/key", "/balance")):
        return []
    return ["the free call lists no model"]


def _free_path(dialect: HTTPDialect) -> str:
    return dialect.probe_plan.free_path.split("?")[0]


def _check_job(
    provider: str, exchange: Exchange, expected: dict[str, Any], status: int
) -> list[str]:
    """
    Hold that the answer about a long job is read, or that its refusal is understood.
    """
    try:
        report = JOB_DIALECTS[provider].read(status, exchange.headers, exchange.body, now=_NOW)
    except ProviderError as error:
        return differences(expected, Decoded(error=error))
    wanted = expected.get("error_class")
    got = None if report.failure is None else report.failure.outcome.value
    found = [] if wanted == got else [f"outcome: expected {wanted}, got {got}"]
    done = expected.get("done")
    if done is not None and done is not report.phase.ended:
        found.append(f"done: expected {done}, got {report.phase}")
    return found


def _whole(dialect: JSONDialect, exchange: Exchange, status: int) -> Decoded:
    try:
        return Decoded(dialect.parse_response(status, exchange.headers, exchange.body, now=_NOW))
    except ProviderError as error:
        return Decoded(error=error)


def _stream(dialect: JSONDialect, body: bytes, cut: int) -> Decoded:
    decode = dialect.stream_decoder(now=_NOW)
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


def _asked_for(expected: dict[str, Any]) -> str:
    """
    Name what was asked for: a provider, or a kind of work of a provider that is spoken.
    """
    provider = str(expected["file"]).partition("/")[0]
    if provider not in _SPOKEN:
        return provider
    return f"{provider} {'/'.join(_path(expected).split('/')[-2:])}"


def _reason_left_out(expected: dict[str, Any]) -> str:
    """
    Say why a recording is of no work that Ownkey does; "" where it is.
    """
    if str(expected["file"]).partition("/")[0] == FOLDER:
        return "a path as only S3 signs it"
    path = _path(expected)
    if "/invoke" in path and not _INVOKED.search(path):
        return "Bedrock's other models are asked by Converse"
    return next((why for end, why in _OUT_OF_SCOPE.items() if path.endswith(end)), "")


def _path(expected: dict[str, Any]) -> str:
    return str(expected.get("uri") or "").split("?")[0].rstrip("/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
