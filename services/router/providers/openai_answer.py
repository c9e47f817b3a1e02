# SPDX-License-Identifier: Apache-2.0
"""
Reads what OpenAI answers in either of its two formats, told by the bytes.

A whole answer of Responses says that it is a `response`, and its events carry names; those of chat
completions carry none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from services.router.domain.text import Completion, StreamEvent
from services.router.providers.classify import ErrorTable
from services.router.providers.openai_chat import ChatDecoder, parse_chat
from services.router.providers.openai_responses import ResponsesDecoder, parse_responses
from services.router.providers.sse import SSEEvent

__all__ = ["OpenAIDecoder", "parse_openai"]

_RESPONSE = "response"


class _Object(msgspec.Struct):
    object: str | None = None


_decode_object = msgspec.json.Decoder(_Object).decode


class OpenAIDecoder(ChatDecoder):
    """
    Decodes a stream of either format.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self._responses = ResponsesDecoder(table, now=now)

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one event.
        """
        if event.event:
            self.read_by(self._responses, event, out)
        else:
            super().read_event(event, out)


def parse_openai(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    """
    Read a whole answer of either format.

    Raises:
        ProviderError: The status is not 200, or the body carries an error.
    """
    parse = parse_responses if _is_response(body) else parse_chat
    return parse(table, status, headers, body, now=now)


def _is_response(body: bytes) -> bool:
    try:
        return _decode_object(body).object == _RESPONSE
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
