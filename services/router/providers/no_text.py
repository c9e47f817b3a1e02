# SPDX-License-Identifier: Apache-2.0
"""
The text side of providers that make media alone: it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from services.router.domain.text import StreamEvent, TextCall
from services.router.providers.base import StreamDecoder
from services.router.providers.classify import ErrorTable, broken

__all__ = ["refuse_text", "refuse_text_answer", "refuse_text_call", "refuse_text_stream"]

_HTTP_OK = 200


def refuse_text(call: TextCall) -> list[str]:
    """
    Name all of it.
    """
    del call
    return ["requests for text"]


def refuse_text_call(call: TextCall) -> NoReturn:
    """
    Stand where a call for text would be built; `refuse_text` was asked before.
    """
    raise AssertionError(f"{call.model} writes no text")


def refuse_text_answer(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> NoReturn:
    """
    Say that an answer is in no known format.

    Raises:
        ProviderBrokenError: Always.
    """
    del headers, body, now
    raise broken(table, http_status=status, cut=False)


def refuse_text_stream(table: ErrorTable, *, now: datetime) -> StreamDecoder:
    """
    Give a decoder that knows no format.
    """
    del now
    return _NoStream(table)


class _NoStream:
    """
    Fails on whatever comes.
    """

    def __init__(self, table: ErrorTable) -> None:
        self._table = table
        self.done = False

    def feed(self, data: bytes) -> list[StreamEvent]:
        """
        Refuse bytes.

        Raises:
            ProviderBrokenError: Always.
        """
        del data
        return self.finish()

    def finish(self) -> list[StreamEvent]:
        """
        Refuse the end.

        Raises:
            ProviderBrokenError: Always.
        """
        raise broken(self._table, http_status=_HTTP_OK, cut=False)
