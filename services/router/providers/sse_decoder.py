# SPDX-License-Identifier: Apache-2.0
"""
What all stream decoders share, whatever the framing: bounds, order, and the end.

1. Events that precede a failure are given before it is raised.
2. Nothing follows the end marker: later bytes are ignored.
3. Without the provider's own end marker there is no end, only a failure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime

import msgspec

from services.router.domain.text import Finished, FinishReason, StreamEvent, Usage
from services.router.providers.base import ProviderError
from services.router.providers.classify import ErrorFacts, ErrorTable, broken, classify
from services.router.providers.event_stream import EventStreamParser
from services.router.providers.json_stream import JSONStreamParser
from services.router.providers.sse import SSEEvent, SSEEventTooLargeError, SSEParser

__all__ = ["SSEDecoder"]

HTTP_OK = 200


class SSEDecoder(ABC):
    """
    A stream decoder: a parser gives named pieces, server-sent events or what stands in their
    place, and subclasses read one each.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        self.table = table
        self._now = now
        self.parser: SSEParser | JSONStreamParser | EventStreamParser = SSEParser()
        self._failure: ProviderError | None = None
        self._finished = False
        self.usage: Usage | None = None
        self.model = ""

    @property
    def done(self) -> bool:
        """
        Whether no further byte matters.
        """
        return self._finished or self._failure is not None

    def feed(self, data: bytes) -> list[StreamEvent]:
        """
        Take the next bytes and give the events they complete.

        Raises:
            ProviderError: The provider reported a failure, or its bytes are not its format.
        """
        if self._failure is not None:
            raise self._failure
        if self._finished:
            return []
        try:
            events = self.parser.feed(data)
        except SSEEventTooLargeError:
            return self._fail(broken(self.table, http_status=HTTP_OK, cut=False), [])
        return self._read(events)

    def finish(self) -> list[StreamEvent]:
        """
        Take the end of the connection.

        Raises:
            ProviderError: A failure was reported, also as bare text after the last event.
            ProviderBrokenError: The end marker was never seen.
        """
        if self._failure is not None:
            raise self._failure
        return [] if self._finished else self._read_last()

    def _read_last(self) -> list[StreamEvent]:
        out = self._read([event for event in self.parser.finish() if self._is_whole(event)])
        if self._failure is not None:
            raise self._failure
        facts = None if self._finished else self.stray_error(self.parser.stray)
        if facts is not None:
            raise self.error(facts)
        if not self._finished:
            self.end_of_connection(out)
        if not self._finished:
            raise broken(self.table, http_status=HTTP_OK, cut=True, usage=self.usage)
        return out

    def _read(self, events: list[SSEEvent]) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        try:
            for event in events:
                self.read_event(event, out)
                if self._finished:
                    break
        except ProviderError as error:
            return self._fail(error, out)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unread = broken(self.table, http_status=HTTP_OK, cut=False, usage=self.usage)
            return self._fail(unread, out)
        return out

    def _fail(self, error: ProviderError, out: list[StreamEvent]) -> list[StreamEvent]:
        self._failure = error
        if out:
            return out
        raise error

    def _is_whole(self, event: SSEEvent) -> bool:
        """
        Tell whether the event that the end of the connection cut off is all there.
        """
        if self.is_end_marker(event):
            return True
        try:
            msgspec.json.decode(event.data, type=msgspec.Raw)
        except msgspec.DecodeError:
            return False
        return True

    def is_end_marker(self, event: SSEEvent) -> bool:  # noqa: ARG002 - a hook
        """
        Tell whether an event is an end marker that is not JSON.
        """
        return False

    def end_of_connection(self, out: list[StreamEvent]) -> None:  # noqa: B027 - a hook
        """
        Finish where a dialect's end marker is followed by nothing but the close.
        """

    @abstractmethod
    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one event and append what it means.
        """

    @abstractmethod
    def stray_error(self, stray: bytes) -> ErrorFacts | None:
        """
        Find an error in text that came outside the format.
        """

    def read_by(self, inner: SSEDecoder, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Have another format's decoder read an event, and take over what it has come to know.
        """
        try:
            inner.read_event(event, out)
        finally:
            self.usage, self.model = inner.usage, inner.model
        self._finished = inner.done

    def error(self, facts: ErrorFacts) -> ProviderError:
        """
        Classify an error that came inside the stream.
        """
        return classify(self.table, facts, http_status=HTTP_OK, now=self._now)

    def end(self, finish_reason: FinishReason, out: list[StreamEvent]) -> None:
        """
        Append the end.
        """
        self._finished = True
        out.append(Finished(finish_reason, self.usage, self.model))
