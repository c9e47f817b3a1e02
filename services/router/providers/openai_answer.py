# SPDX-License-Identifier: Apache-2.0
"""
Reads either of OpenAI's two formats, told by the bytes: chat completions, and Responses.

A whole answer of Responses says that it is a `response`, and each of its events says a `type`,
which a chunk of chat completions does not have. So answer, each in both:
- Azure: https://learn.microsoft.com/en-us/azure/foundry/openai/how-to/responses
- DeepSeek: https://api-docs.deepseek.com/guides/responses_api
- OpenRouter: https://openrouter.ai/docs/api/reference/responses/overview
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


class _Told(msgspec.Struct):
    object: str | None = None
    type: str | None = None


_decode_told = msgspec.json.Decoder(_Told).decode


class OpenAIDecoder(ChatDecoder):
    """
    Decodes a stream of either format.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self._responses = ResponsesDecoder(table, now=now)
        self._typed: bool | None = None
        """Whether the events say a type; None before the first."""

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one event; one with a name is of Responses, and so are those that only say a type.
        """
        if self._typed is None:
            self._typed = bool(_told(event.data).type)
        if event.event or self._typed:
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
    parse = parse_responses if _told(body).object == _RESPONSE else parse_chat
    return parse(table, status, headers, body, now=now)


def _told(data: bytes) -> _Told:
    try:
        return _decode_told(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Told()
