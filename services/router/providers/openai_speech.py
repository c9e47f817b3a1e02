# SPDX-License-Identifier: Apache-2.0
"""
OpenAI's speech, https://developers.openai.com/api/reference/resources/audio/subresources/speech .

1. `tts-1` and its kin answer with the sound's own bytes and are paid by the character: there is
   nothing to report. An answer is whole when its connection says so.
2. Later models answer by server-sent events when `stream_format` is `sse`, the only form that
   tells their tokens: `speech.audio.delta` with base64, then `speech.audio.done` with `usage`.
3. Sound is held against the type asked for by its first bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from services.router.domain.media import (
    CHUNK_BYTES_MAX,
    AnswerEvent,
    MediaChunk,
    SpeechCall,
)
from services.router.domain.media_types import HEAD_BYTES, audio_type, is_raw
from services.router.domain.text import Finished, FinishReason, Usage
from services.router.providers.base import ProviderError
from services.router.providers.classify import ErrorTable, broken, classify, decode_object
from services.router.providers.media_format import HTTP_OK, MediaBody, MediaDecoder, SpeechFormat
from services.router.providers.openai_chat import error_facts
from services.router.providers.sse import SSEEvent, SSEEventTooLargeError, SSEParser

__all__ = ["OPENAI_SPEECH", "AudioDecoder", "SpeechEventDecoder", "build_speech", "speech_decoder"]

_PATH = "/v1/audio/speech"
_BY_CHARACTER = ("tts-1", "tts-1-hd", "tts", "tts-hd")
"""OpenAI's names and Azure's."""
_DEFAULT_TYPE = "audio/mpeg"
_FORMATS = {
    "audio/mpeg": "mp3",
    "audio/ogg": "opus",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/wav": "wav",
    "audio/pcm": "pcm",
}


class _EventUsage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0


class _Event(msgspec.Struct):
    type: str = ""
    audio: str = ""
    usage: _EventUsage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def _unsupported(call: SpeechCall) -> list[str]:
    """
    Name a format the API does not write.
    """
    return ["media_type"] if call.media_type and call.media_type not in _FORMATS else []


def build_speech(call: SpeechCall, *, name: str = "") -> MediaBody:
    """
    Build the request of a call.

    Args:
        call: What to say; its model tells the family.
        name: What the model is called where requests go; empty for its own name.
    """
    fields: dict[str, Any] = {
        "model": name or call.model,
        "input": call.text,
        "voice": call.voice or "alloy",
        "response_format": _FORMATS[call.media_type or _DEFAULT_TYPE],
    }
    if call.speed is not None:
        fields["speed"] = call.speed
    if not _is_by_character(call):
        fields["stream_format"] = "sse"
    return MediaBody(_PATH, "application/json", msgspec.json.encode(fields))


def speech_decoder(
    table: ErrorTable, call: SpeechCall, headers: Mapping[str, str], *, now: datetime
) -> MediaDecoder:
    """
    Give a decoder for one answer of status 200, by what it says it is.
    """
    if headers.get("content-type", "").startswith("text/event-stream"):
        return SpeechEventDecoder(table, call, now=now)
    return AudioDecoder(table, call)


def _is_by_character(call: SpeechCall) -> bool:
    return call.model.rpartition("/")[2] in _BY_CHARACTER


class _Chunks:
    """
    Cuts sound into pieces; the first one waits until the bytes tell their type.
    """

    def __init__(self, table: ErrorTable, call: SpeechCall) -> None:
        self._table = table
        self._media_type = call.media_type or _DEFAULT_TYPE
        self._held = b""
        self._checked = is_raw(self._media_type)
        self._begun = False

    def add(self, data: bytes) -> list[AnswerEvent]:
        """
        Take sound in, and give it once its type is known.

        Raises:
            ProviderBrokenError: It is not the kind that was asked for.
        """
        self._held += data
        if not self._checked:
            if len(self._held) < HEAD_BYTES:
                return []
            self._check()
        held, self._held = self._held, b""
        self._begun = self._begun or bool(held)
        return [
            MediaChunk(0, self._media_type, held[start : start + CHUNK_BYTES_MAX], last=False)
            for start in range(0, len(held), CHUNK_BYTES_MAX)
        ]

    def end(self) -> list[AnswerEvent]:
        """
        Give the last piece, which is empty: only the end tells that the one before was the last.

        Raises:
            ProviderBrokenError: There was no sound, or too little to be any.
        """
        if not self._begun:
            raise broken(self._table, http_status=HTTP_OK, cut=False)
        return [MediaChunk(0, self._media_type, b"", last=True)]

    def _check(self) -> None:
        if audio_type(self._held[:HEAD_BYTES]) != self._media_type:
            raise broken(self._table, http_status=HTTP_OK, cut=False)
        self._checked = True


class AudioDecoder:
    """
    Reads sound that comes as its own bytes.
    """

    def __init__(self, table: ErrorTable, call: SpeechCall) -> None:
        self._chunks = _Chunks(table, call)
        self._call = call
        self.done = False

    def feed(self, data: bytes) -> list[AnswerEvent]:
        """
        Take the next bytes.

        Raises:
            ProviderBrokenError: They are not the kind of sound that was asked for.
        """
        return self._chunks.add(data)

    def finish(self) -> list[AnswerEvent]:
        """
        Take the end of the connection, which is the end of the sound.

        Raises:
            ProviderBrokenError: There was none.
        """
        usage = None
        if _is_by_character(self._call):
            usage = Usage(input_tokens=0, output_tokens=0, characters=len(self._call.text))
        out = self._chunks.end()
        out.append(Finished(FinishReason.STOP, usage, self._call.model))
        return out


class SpeechEventDecoder:
    """
    Reads sound that comes inside server-sent events.
    """

    def __init__(self, table: ErrorTable, call: SpeechCall, *, now: datetime) -> None:
        self._table = table
        self._call = call
        self._now = now
        self._chunks = _Chunks(table, call)
        self._parser = SSEParser()
        self._failure: ProviderError | None = None
        self.done = False

    def feed(self, data: bytes) -> list[AnswerEvent]:
        """
        Take the next bytes; pieces before a failure are given before it is raised.

        Raises:
            ProviderError: The provider reported a failure, or its bytes are not its format.
        """
        if self._failure is not None:
            raise self._failure
        out: list[AnswerEvent] = []
        try:
            for event in self._parser.feed(data):
                if self.done:
                    break
                self._read(event, out)
        except ProviderError as error:
            self._fail(error, out)
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, SSEEventTooLargeError):
            self._fail(broken(self._table, http_status=HTTP_OK, cut=False), out)
        return out

    def finish(self) -> list[AnswerEvent]:
        """
        Take the end of the connection.

        Raises:
            ProviderError: A failure was reported, also as bare text in place of events.
            ProviderBrokenError: The end marker was never seen.
        """
        if self._failure is not None:
            raise self._failure
        if not self.done:
            self._parser.finish()
            error = decode_object(self._parser.stray).get("error")
            if error is not None:
                raise self._error(error)
            raise broken(self._table, http_status=HTTP_OK, cut=True)
        return []

    def _read(self, event: SSEEvent, out: list[AnswerEvent]) -> None:
        read = _decode(event.data)
        if read.error is not None:
            raise self._error(read.error)
        if read.type == "speech.audio.delta":
            out += self._chunks.add(base64.b64decode(read.audio, validate=True))
        elif read.type == "speech.audio.done":
            usage = None
            if read.usage is not None:
                usage = Usage(
                    input_tokens=read.usage.input_tokens, output_tokens=read.usage.output_tokens
                )
            out += self._chunks.end()
            out.append(Finished(FinishReason.STOP, usage, self._call.model))
            self.done = True

    def _fail(self, error: ProviderError, out: list[AnswerEvent]) -> None:
        self._failure = error
        if not out:
            raise error

    def _error(self, error: object) -> ProviderError:
        facts = error_facts(error, status=HTTP_OK, inside_answer=True)
        return classify(self._table, facts, http_status=HTTP_OK, now=self._now)


OPENAI_SPEECH = SpeechFormat(unsupported=_unsupported, build=build_speech, decoder=speech_decoder)
