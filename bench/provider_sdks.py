# SPDX-License-Identifier: Apache-2.0
"""
The providers' official Python SDKs, made to parse bytes that are there already.

Each is entered where its HTTP client hands it an answer, so that neither connections nor requests
are measured. DeepSeek, OpenRouter and Azure name OpenAI's SDK as theirs, and Anthropic's serves
Vertex AI as well. Stability AI has none for the API that is spoken here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import anthropic
import anthropic.types
import botocore.session
import httpx2
import openai
import openai.types.chat
import openai.types.responses
from botocore.eventstream import EventStream
from botocore.parsers import create_parser
from google.genai import models as genai_models
from google.genai import types as genai_types

__all__ = ["parse_stream", "parse_whole"]

_KEY = "not-a-key"
_URL = "https://provider.example/"

Whole = Callable[[bytes], object]
Stream = Callable[[list[bytes]], int]


class _Pieces(httpx2.SyncByteStream):
    """
    A body that arrives in pieces.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        """Give the pieces."""
        return iter(self._pieces)


def _answered(pieces: list[bytes]) -> Any:
    request = httpx2.Request("POST", _URL)
    headers = {"content-type": "text/event-stream"}
    return httpx2.Response(200, headers=headers, stream=_Pieces(pieces), request=request)


def _count(events: Iterable[object]) -> int:
    return sum(1 for _ in events)


def _openai() -> tuple[Whole, Stream]:
    client = openai.OpenAI(api_key=_KEY)
    response = _answered([])

    def whole(body: bytes) -> object:
        data = json.loads(body)
        return client._process_response_data(
            data=data, cast_to=openai.types.chat.ChatCompletion, response=response
        )

    def stream(pieces: list[bytes]) -> int:
        chunk = openai.types.chat.ChatCompletionChunk
        return _count(openai.Stream(cast_to=chunk, response=_answered(pieces), client=client))

    return whole, stream


def _openai_responses() -> tuple[Whole, Stream]:
    client = openai.OpenAI(api_key=_KEY)
    response = _answered([])

    def whole(body: bytes) -> object:
        data = json.loads(body)
        return client._process_response_data(
            data=data, cast_to=openai.types.responses.Response, response=response
        )

    def stream(pieces: list[bytes]) -> int:
        event: Any = openai.types.responses.ResponseStreamEvent
        return _count(openai.Stream(cast_to=event, response=_answered(pieces), client=client))

    return whole, stream


def _anthropic() -> tuple[Whole, Stream]:
    client = anthropic.Anthropic(api_key=_KEY)
    response = _answered([])

    def whole(body: bytes) -> object:
        data = json.loads(body)
        return client._process_response_data(
            data=data, cast_to=anthropic.types.Message, response=response
        )

    def stream(pieces: list[bytes]) -> int:
        event: Any = anthropic.types.RawMessageStreamEvent
        return _count(anthropic.Stream(cast_to=event, response=_answered(pieces), client=client))

    return whole, stream


def _genai(convert: Callable[[Any, Any, Any], Any]) -> tuple[Whole, Stream]:
    def whole(body: bytes) -> object:
        found = convert(json.loads(body), None, {})
        return genai_types.GenerateContentResponse._from_response(response=found, kwargs={})

    def stream(pieces: list[bytes]) -> int:
        # Its reader of lines takes an HTTP client's; that of the other SDKs stands for it.
        lines = _answered(pieces).iter_lines()
        return _count(whole(line.removeprefix("data: ").encode()) for line in lines if line.strip())

    return whole, stream


class _RawStream:
    """
    What botocore reads an event stream from.
    """

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def stream(self) -> Iterator[bytes]:
        """Give the pieces."""
        return iter(self._pieces)


def _botocore() -> tuple[Whole, Stream]:
    service = botocore.session.get_session().get_service_model("bedrock-runtime")
    whole_shape = service.operation_model("Converse").output_shape
    operation = service.operation_model("ConverseStream")
    event_shape = operation.output_shape.members["stream"]
    whole_parser = create_parser("rest-json")
    event_parser = whole_parser._event_stream_parser

    def whole(body: bytes) -> object:
        return whole_parser.parse({"headers": {}, "status_code": 200, "body": body}, whole_shape)

    def stream(pieces: list[bytes]) -> int:
        raw = _RawStream(pieces)
        return _count(EventStream(raw, event_shape, event_parser, "ConverseStream"))

    return whole, stream


_OPENAI = _openai()
_ANTHROPIC = _anthropic()
_SDKS: dict[str, tuple[Whole, Stream]] = {
    "openai": _OPENAI,
    "openai-responses": _openai_responses(),
    "openrouter": _OPENAI,
    "azure": _OPENAI,
    "deepseek": _OPENAI,
    "anthropic": _ANTHROPIC,
    "google-vertex-claude": _ANTHROPIC,
    "gemini": _genai(genai_models._GenerateContentResponse_from_mldev),
    "google-vertex": _genai(genai_models._GenerateContentResponse_from_vertex),
    "amazon-bedrock": _botocore(),
}


def parse_whole(name: str) -> Whole:
    """Give how the SDK of a format's provider parses a whole answer."""
    return _SDKS[name][0]


def parse_stream(name: str) -> Stream:
    """Give how that SDK parses the pieces of a stream; it gives how many events it saw."""
    return _SDKS[name][1]
